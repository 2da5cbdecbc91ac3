"""Tables of stage 2, opened for the images of a run; other columns and values out of range are refused."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from orl import tables
from orl.datasets.image_table import ImageTable

BORDER_PX = 1
"""Distance by which a box may exceed its image: published boxes do."""
COSINE_TOLERANCE = 1e-2
"""Distance by which a similarity may exceed [-1, 1]: half precision rounds."""
DISCOVERY_COLUMNS = {
    "embeddings": {"embedding": ("f", 2)},
    "neighbours": {"neighbour_ids": ("i", 2), "similarities": ("f", 2)},
    "proposals": {"image_id": ("i", 1), "box": ("f", 2)},
    "rois": {"image_id": ("i", 1), "box": ("f", 2)},
    "roi_embeddings": {"embedding": ("f", 2)},
    "roi_textures": {"contrast": ("f", 1), "edges": ("f", 1)},
    "roi_hubness": {"mean_similarity": ("f", 1)},
    "correspondences": {
        "image_id": ("i", 1),
        "neighbour_id": ("i", 1),
        "roi": ("i", 1),
        "neighbour_roi": ("i", 1),
        "similarity": ("f", 1),
    },
}
"""Kind of number (integer or floating point) and number of dimensions of each column."""
OPTIONAL_COLUMNS = {
    "proposals": {tables.RLE: ("O", 1)},
    "rois": {tables.RLE: ("O", 1)},
    "correspondences": {"score": ("f", 1)},
}
"""Columns that a table may have, in the same form."""

Columns = Mapping[str, ndarray]


def open_discovery_table(folder: Path, images: ImageTable) -> tables.Table:
    """Open a finished table of stage 2; the values of a shard are checked when it is read for the first time.

    Args:
        folder: folder of the table, named as in `DISCOVERY_COLUMNS`; the tables that it refers to are beside it.
        images: images of the run.

    Raises:
        FileNotFoundError: if there is no table.
        ValueError: if it is unfinished, damaged or of another image list; when rows are read, if one is out of range.
    """
    checks: dict[str, Callable[[tables.Table, int, Columns], None]] = {
        "neighbours": partial(_check_neighbours, len(images)),
        "proposals": _box_check(images),
        "rois": _box_check(images),
        "correspondences": _correspondence_check(folder.parent, len(images)),
    }
    check_values = checks.get(folder.name)

    def check(table: tables.Table, first: int, columns: Columns) -> None:
        found = {name: (values.dtype.kind, values.ndim) for name, values in columns.items()}
        expected = DISCOVERY_COLUMNS[folder.name]
        optional = OPTIONAL_COLUMNS.get(folder.name, {})
        if found != {**expected, **{name: kind for name, kind in optional.items() if name in found}}:
            raise ValueError(f"table {folder} has the columns {found}, not {expected}; {_remedy(folder)}")
        if check_values is not None:
            check_values(table, first, columns)

    table = tables.load(folder, check)
    tables.check_image_list(table, images.fingerprint)
    if folder.name in ("embeddings", "neighbours") and table.num_rows != len(images):
        raise ValueError(
            f"table {folder} has {table.num_rows} rows, but there are {len(images)} images; {_remedy(folder)}"
        )
    return table


def _box_check(images: ImageTable) -> Callable[[tables.Table, int, Columns], None]:
    sizes_wh = cache(lambda: np.array(images.sizes_wh, np.float32).reshape(-1, 2))

    def check(table: tables.Table, first: int, columns: Columns) -> None:
        refuse = partial(_refuse, table, first, columns)
        image_ids, box = columns["image_id"], columns["box"]
        refuse("image_id", _outside(image_ids, len(images)), f"is not one of the {len(images)} images")
        refuse("box", ~np.isfinite(box).all(axis=1), "is not finite")
        # A proposal without an area is left to the filter of stage 2; stage 3 cuts every RoI.
        is_smaller = np.less if table.folder.name == "proposals" else np.less_equal
        refuse("box", is_smaller(box[:, 2:], box[:, :2]).any(axis=1), "is empty or reversed")
        limits = sizes_wh()[image_ids] + BORDER_PX
        is_outside = (box[:, :2] < -BORDER_PX).any(axis=1) | (box[:, 2:] > limits).any(axis=1)
        refuse("box", is_outside, "is outside its image")

    return check


def _check_neighbours(num_images: int, table: tables.Table, first: int, columns: Columns) -> None:
    refuse, ids = partial(_refuse, table, first, columns), columns["neighbour_ids"]
    refuse("neighbour_ids", _outside(ids, num_images).any(axis=1), f"has an id that is not one of {num_images} images")
    own = np.arange(first, first + len(ids))[:, None]
    refuse("neighbour_ids", (ids == own).any(axis=1), "has the image itself")
    refuse("neighbour_ids", (np.diff(np.sort(ids, axis=1), axis=1) == 0).any(axis=1), "has an image twice")
    refuse("similarities", _no_cosine(columns["similarities"]).any(axis=1), "is not in [-1, 1]")


def _correspondence_check(folder: Path, num_images: int) -> Callable[[tables.Table, int, Columns], None]:
    roi_starts = cache(lambda: tables.load(folder / "rois").row_starts(num_images))

    @cache
    def neighbours() -> tables.Table | None:
        return tables.load(folder / "neighbours") if (folder / "neighbours").exists() else None

    def check(table: tables.Table, first: int, columns: Columns) -> None:
        refuse, starts = partial(_refuse, table, first, columns), roi_starts()
        for image_column, roi_column in (("image_id", "roi"), ("neighbour_id", "neighbour_roi")):
            image_ids, rois = columns[image_column], columns[roi_column]
            refuse(image_column, _outside(image_ids, num_images), f"is not one of the {num_images} images")
            is_other = (rois < starts[image_ids]) | (rois >= starts[image_ids + 1])
            refuse(roi_column, is_other, f"is not an RoI of the image in {image_column}")
        image_ids, neighbour_ids = columns["image_id"], columns["neighbour_id"]
        if (known := neighbours()) is not None and len(image_ids):
            low, high = int(image_ids.min()), int(image_ids.max())
            near = known.rows("neighbour_ids", low, high + 1)
            is_near = (near[image_ids - low] == neighbour_ids[:, None]).any(axis=1)
            refuse("neighbour_id", ~is_near, "is not a neighbour of its image")
            known.release()
        refuse("similarity", _no_cosine(columns["similarity"]), "is not in [-1, 1]")
        if "score" in columns:
            refuse("score", ~np.isfinite(columns["score"]), "is not finite")

    return check


def _outside(ids: Int[ndarray, "*n"], num_images: int) -> Any:
    return (ids < 0) | (ids >= num_images)


def _no_cosine(values: Float[ndarray, "*n"]) -> Any:
    """Mark infinite values and values beyond [-1, 1]; published files have no similarities, so NaN is allowed."""
    return np.abs(values) > 1 + COSINE_TOLERANCE


def _refuse(table: tables.Table, first: int, columns: Columns, name: str, is_wrong: Any, reason: str) -> None:
    """Refuse the first wrong row, with the values of all its columns."""
    if not is_wrong.any():
        return
    row = int(is_wrong.argmax())
    values = ", ".join(f"{column} {part[row].tolist()}" for column, part in columns.items())
    raise ValueError(f"row {first + row} of table {table.folder}: {name} {reason} ({values}); {_remedy(table.folder)}")


def _remedy(folder: Path) -> str:
    return f"delete {folder} and make it again with 'orl discover'"
