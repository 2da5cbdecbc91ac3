"""Boxes from arrays: an .npz file or a Parquet table with the columns `name`, `xyxy`, `score` and `rle`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from orl import boxes
from orl.datasets.image_table import ImageTable
from orl.datasets.masks import compress_mask
from orl.own_boxes.box_lists import BoxLists, ReadImages
from orl.own_boxes.image_rows import ImageRows

NEEDED, OPTIONAL = ("name", "xyxy"), ("score", "rle")
"""Columns: the image's name, the box, a score, and the counts of the compressed RLE of the box's mask."""

BATCH_ROWS = 65_536
"""Rows of a Parquet file in memory at a time."""

Columns = Mapping[str, ndarray]


def read_npz(path: Path, images: ImageTable, folder: Path) -> ReadImages:
    """Read boxes from the arrays of an .npz file.

    Raises:
        ValueError: if an array is missing or has a wrong value, or no image is in the run.
    """
    columns = _npz_arrays(path)
    return _collected(path, iter([columns]), images, folder, has_masks="rle" in columns)


def read_parquet(path: Path, images: ImageTable, folder: Path) -> ReadImages:
    """Read boxes from the columns of a Parquet file, a group of rows at a time.

    Raises:
        ValueError: if a column is missing or has a wrong value, or no image is in the run.
    """
    return _collected(path, _parquet_parts(path), images, folder, has_masks="rle" in parquet_columns(path))


def npz_columns(path: Path) -> list[str]:
    """Return the names of the arrays of an .npz file.

    Raises:
        ValueError: if it is damaged.
    """
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is not an .npz file ({error}); write it with numpy.savez") from error


def parquet_columns(path: Path) -> list[str]:
    """Return the names of the columns of a Parquet file.

    Raises:
        ValueError: if it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return [str(name) for name in pq.read_schema(path).names]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a Parquet file ({_first_line(error)}); write it again") from error


def _npz_arrays(path: Path) -> Columns:
    _require_columns(path, npz_columns(path))
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in (*NEEDED, *OPTIONAL) if name in arrays}
    except ValueError as error:  # an array of Python objects
        raise ValueError(
            f"{path} has an array that is neither text nor numbers ({_first_line(error)}); write names as numpy.array"
            "(names, dtype=str)"
        ) from error


def _parquet_parts(path: Path) -> Iterator[Columns]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = parquet_columns(path)
    _require_columns(path, known)
    names = [name for name in (*NEEDED, *OPTIONAL) if name in known]
    try:
        with pq.ParquetFile(path) as file:
            first = 0
            for batch in file.iter_batches(BATCH_ROWS, columns=names):
                yield {name: _to_array(name, batch.column(name).to_pylist(), path, first) for name in names}
                first += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged ({_first_line(error)}); write it again") from error


def _to_array(name: str, values: list[Any], path: Path, first: int) -> ndarray:
    """Convert a column of a group of rows; a gap is the empty text of a box without a mask."""
    if name == "rle":
        return np.array(["" if value is None else value for value in values])
    if name == "xyxy":
        is_box = [isinstance(box, list) and len(box) == 4 and None not in box for box in values]
        if not all(is_box):
            wrong = is_box.index(False)
            raise ValueError(
                f"{path}: row {first + wrong} has the box {values[wrong]}; xyxy must be four numbers a box"
            )
    return np.array(values)


def _require_columns(path: Path, found: list[str]) -> None:
    missing = [name for name in NEEDED if name not in found]
    if missing:
        raise ValueError(
            f"{path} lacks {' and '.join(missing)} (it has {', '.join(found[:12]) or 'nothing'}); it needs name and "
            "xyxy, and may have score and rle"
        )


def _collected(
    path: Path, parts: Iterator[Columns], images: ImageTable, folder: Path, *, has_masks: bool
) -> ReadImages:
    row_of = ImageRows(images, path)
    lists, first = BoxLists(path, folder, has_masks=has_masks), 0
    for columns in parts:
        _check_part(columns, path, first)
        rows = np.array([row_of(str(name)) for name in columns["name"].tolist()], dtype=np.int64)
        known = np.flatnonzero(rows >= 0)
        xyxy = columns["xyxy"].astype(np.float32)[known]
        scores = columns["score"].astype(np.float64)[known] if "score" in columns else np.full(len(known), np.nan)
        rles = _checked_rles(columns["rle"], rows, images, path, first)[known].tolist() if has_masks else ()
        lists.add(rows[known], xyxy, scores, rles)
        first += len(rows)
    if first == 0:
        raise ValueError(f"{path} has no rows; give a file with boxes")
    row_of.check()
    return lists.reader(len(images))


def _check_part(columns: Columns, path: Path, first: int) -> None:
    """Refuse a column of another type or length, and the first wrong row."""
    names, xyxy = columns["name"], columns["xyxy"]
    if names.dtype.kind != "U" or names.ndim != 1:
        raise ValueError(f"{path}: name must be text, one a box, got {_kind(names)}")
    if xyxy.dtype.kind not in "iuf" or xyxy.shape != (len(names), 4):
        raise ValueError(f"{path}: xyxy must be four numbers a box, for {len(names)} boxes, got {_kind(xyxy)}")
    for name, kinds in (("score", "iuf"), ("rle", "U")):
        if name in columns and (columns[name].dtype.kind not in kinds or columns[name].shape != names.shape):
            what = "a number" if name == "score" else "text"
            raise ValueError(
                f"{path}: {name} must be {what} for each of {len(names)} boxes, got {_kind(columns[name])}"
            )
    faulty = boxes.is_faulty(xyxy.astype(np.float64))
    if faulty.any():
        row = int(faulty.argmax())
        raise ValueError(
            f"{path}: row {first + row} has the box {xyxy[row].tolist()}, which is not finite, is reversed or lies far "
            "outside of every image; boxes are left, top, right, bottom in pixels"
        )
    if "score" in columns and not (finite := np.isfinite(columns["score"])).all():
        row = int((~finite).argmax())
        raise ValueError(f"{path}: row {first + row} has the score {columns['score'][row]}, which is not finite")


def _checked_rles(rles: ndarray, rows: ndarray, images: ImageTable, path: Path, first: int) -> ndarray:
    """Refuse a mask that does not have the pixels of its image."""
    for place, (rle, row) in enumerate(zip(rles.tolist(), rows.tolist())):
        if rle and row >= 0:
            width, height = images.sizes_wh[row]
            try:
                compress_mask({"size": [height, width], "counts": rle}, (width, height))
            except ValueError as error:
                raise ValueError(f"{path}: row {first + place}, rle of {images.names[row]}: {error}") from error
    return rles


def _kind(values: ndarray) -> str:
    return f"{values.dtype} of shape {values.shape}"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
