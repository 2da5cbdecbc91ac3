"""Which image of a published file is which image of the run: by name, or by order where a file has no names."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from orl import provenance, tables
from orl.datasets.image_table import ImageTable
from orl.published_files.json_stream import elements, value

TABLE = "published"
"""Table with one row an image: its place, name and id in the published files that were read."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images of published files, in the order of their lists."""

    names: tuple[str, ...]
    """Path of each image, as the file gives it."""
    ids: tuple[Any, ...]
    """The id of each image, as the file gives it; COCO's are whole numbers."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """Changes with the names, the ids and their order."""
        return provenance.fingerprint({"names": self.names, "ids": self.ids})


def read_listing(path: Path) -> Listing:
    """The images that a neighbour or correspondence file names.

    Raises:
        ValueError: if the file is cut off, names no image, or has another number of ids than of names.
    """
    names, ids = value(path, "images.file_name"), value(path, "images.id")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} has no list of image names in 'images': 'file_name'; it needs one name an image")
    ids = list(range(len(names))) if ids is None else ids
    if not isinstance(ids, list) or len(ids) != len(names):
        counted = len(ids) if isinstance(ids, list) else "no"
        raise ValueError(f"{path} has {len(names)} image names and {counted} ids; it needs one of each an image")
    return Listing(names=tuple(names), ids=tuple(ids))


def source_listing(source: Path, images: ImageTable) -> Listing:
    """The order that files without names are in: that of the COCO JSON that the images come from, else the run's own.

    Args:
        source: where the images of the run come from, as it was given with --images.
        images: the images of the run; others in the COCO JSON are left out.

    Raises:
        ValueError: if the COCO JSON is damaged.
    """
    if source.suffix.lower() != ".json":
        return Listing(names=images.names, ids=tuple(range(len(images))))
    known = set(images.names)
    entries = [(name, image_id) for image_id, name in coco_images(source.expanduser()) if name in known]
    return Listing(names=tuple(name for name, _ in entries), ids=tuple(image_id for _, image_id in entries))


def coco_images(path: Path) -> list[tuple[Any, str]]:
    """Id and name of each image of a COCO JSON, in its order.

    Raises:
        ValueError: if the file is cut off or has an entry without id or name.
    """
    entries = []
    for entry in elements(path, "images", "entries"):
        if not isinstance(entry, dict) or "id" not in entry or not isinstance(entry.get("file_name"), str):
            raise ValueError(f"{path} is not COCO's JSON: 'images' needs id and file_name, found {str(entry)[:120]}")
        entries.append((entry["id"], entry["file_name"]))
    return entries


def match_listing(listing: Listing, images: ImageTable, path: Path) -> Int64[ndarray, "n"]:
    """The row of each listed image in the run's table of images.

    Args:
        listing: the images of the file.
        images: the images of the run.
        path: the file, for errors.

    Raises:
        ValueError: if the two are not the same images, each once, or a name fits several; with both numbers and the
            first few names.
    """
    found = match_names(listing.names, images.names)
    unknown = [name for name, rows in zip(listing.names, found) if not rows]
    several = [name for name, rows in zip(listing.names, found) if len(rows) > 1]
    counts = Counter(rows[0] for rows in found if len(rows) == 1)
    several += [images.names[row] for row, count in counts.items() if count > 1]
    missing = [] if several else [images.names[row] for row in range(len(images)) if row not in counts]
    numbers = f"{path} lists {len(listing)} images and the run has {len(images)}"
    if several:
        raise ValueError(f"{numbers}: {_first(several)} could be several of them; make the names unambiguous")
    if unknown or missing:
        raise ValueError(
            f"{numbers}: {_first(unknown)} of the file are not in the run, {_first(missing)} of the run are not in "
            "the file; take the images that the file was made from (rejected.csv tells which were left out)"
        )
    return np.array([rows[0] for rows in found], dtype=np.int64)


def match_names(names: Sequence[str], known: Sequence[str]) -> list[list[int]]:
    """The places in `known` that each name may stand for: the very name, or else all with the same last part."""
    exact = {name: place for place, name in enumerate(known)}
    by_base: dict[str, list[int]] = {}
    for place, name in enumerate(known):
        by_base.setdefault(PurePosixPath(name).name, []).append(place)
    return [[exact[name]] if name in exact else by_base.get(PurePosixPath(name).name, []) for name in names]


def save_listing(
    listing: Listing, rows: Int64[ndarray, "n"], images: ImageTable, folder: Path, overwrite: bool
) -> None:
    """Keep order, names and ids of published files, so that they can be written as they were read.

    Raises:
        StaleResultError: if the run holds files of another order and `overwrite` is off.
    """
    inputs = {"images": images.fingerprint, "listing": listing.fingerprint}
    for index in tables.begin(folder / TABLE, inputs, 1, overwrite):
        places = np.argsort(rows)
        columns = {
            "place": places,
            "file_name": np.array(listing.names, dtype=object)[places],
            "published_id": np.array([json.dumps(each) for each in listing.ids], dtype=object)[places],
        }
        tables.write_shard(folder / TABLE, index, columns)


def load_listing(images: ImageTable, folder: Path) -> Listing | None:
    """What `save_listing` kept; None where no published file with names was read.

    Raises:
        ValueError: if it is of other images.
    """
    if not (folder / TABLE / provenance.MANIFEST).exists():
        return None
    table = tables.load(folder / TABLE)
    if table.inputs["images"] != images.fingerprint:
        raise ValueError(f"{folder / TABLE} is of other images than the run's; read the published files again")
    order = np.argsort(table.column("place"))
    return Listing(
        names=tuple(table.column("file_name")[order].tolist()),
        ids=tuple(json.loads(each) for each in table.column("published_id")[order]),
    )


def _first(names: Sequence[str]) -> str:
    """How many, and the first few by name."""
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else "none"
