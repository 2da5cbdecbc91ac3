"""Image lists of published files, and their match with the images of a run by name or by order."""

import json
import os
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
"""Table with one row per image: its position, name and id in the published files that were read."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Images of published files, in the order of the files."""

    names: tuple[str, ...]
    """Path of each image in the file."""
    ids: tuple[Any, ...]
    """Id of each image in the file; an integer in COCO."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """Compute the fingerprint of names, ids and their order."""
        return provenance.fingerprint({"names": self.names, "ids": self.ids})


def read_listing(path: Path) -> Listing:
    """Read the image list of a neighbour or correspondence file.

    Raises:
        ValueError: if the file is truncated, lists no image, or has different numbers of names and ids.
    """
    names, ids = value(path, "images.file_name"), value(path, "images.id")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} has no list of image names in 'images': 'file_name'; it needs one name per image")
    ids = list(range(len(names))) if ids is None else ids
    if not isinstance(ids, list) or len(ids) != len(names):
        counted = len(ids) if isinstance(ids, list) else "no"
        raise ValueError(f"{path} has {len(names)} image names and {counted} ids; it needs one of each per image")
    return Listing(names=tuple(names), ids=tuple(ids))


def source_listing(source: Path, images: ImageTable) -> Listing:
    """Return the image list for files without names: in the order of the source COCO JSON, else of the run.

    Args:
        source: source of the run's images, as given with --images.
        images: image table of the run; other images of the COCO JSON are left out.

    Raises:
        ValueError: if the COCO JSON is damaged.
    """
    if source.suffix.lower() != ".json":
        return Listing(names=images.names, ids=tuple(range(len(images))))
    known = set(images.names)
    named = [(_name_in_run(name, images), image_id) for image_id, name in coco_images(source.expanduser())]
    entries = [(name, image_id) for name, image_id in named if name in known]
    return Listing(names=tuple(name for name, _ in entries), ids=tuple(image_id for _, image_id in entries))


def rows_by_id(source: Path, images: ImageTable) -> dict[Any, int]:
    """Return the row of each image id of the COCO JSON that the images come from, -1 for an image not in the run.

    Args:
        source: source of the run's images, as given with --images; other sources have no ids.
        images: image table of the run.

    Raises:
        ValueError: if the COCO JSON is damaged.
    """
    if source.suffix.lower() != ".json":
        return {}
    rows = {name: row for row, name in enumerate(images.names)}
    entries = coco_images(source.expanduser())
    return {image_id: rows.get(_name_in_run(name, images), -1) for image_id, name in entries}


def _name_in_run(name: str, images: ImageTable) -> str:
    """Return a name of a COCO JSON as `orl.datasets.coco` reads it: with slashes, and relative to the run's root."""
    name = name.replace("\\", "/")
    return os.path.relpath(name, images.root) if os.path.isabs(name) else name


def coco_images(path: Path) -> list[tuple[Any, str]]:
    """Read id and name of each image of a COCO JSON, in the order of the file.

    Raises:
        ValueError: if the file is truncated, or an entry has no id or name.
    """
    entries = []
    for entry in elements(path, "images", "entries"):
        if not isinstance(entry, dict) or "id" not in entry or not isinstance(entry.get("file_name"), str):
            raise ValueError(f"{path} is not a COCO JSON: 'images' needs id and file_name, got {str(entry)[:120]}")
        entries.append((entry["id"], entry["file_name"]))
    return entries


def match_listing(listing: Listing, images: ImageTable, path: Path) -> Int64[ndarray, "n"]:
    """Find the row of each listed image in the run's image table.

    Args:
        listing: images of the file.
        images: image table of the run.
        path: the file, for error messages.

    Raises:
        ValueError: if file and run do not have the same images, each once, or a name matches several images.
    """
    found = match_names(listing.names, images.names)
    unknown = [name for name, rows in zip(listing.names, found) if not rows]
    several = [name for name, rows in zip(listing.names, found) if len(rows) > 1]
    counts = Counter(rows[0] for rows in found if len(rows) == 1)
    several += [images.names[row] for row, count in counts.items() if count > 1]
    missing = [] if several else [images.names[row] for row in range(len(images)) if row not in counts]
    numbers = f"{path} lists {len(listing)} images and the run has {len(images)}"
    if several:
        raise ValueError(f"{numbers}: {_first(several)} match several images; make the names unambiguous")
    if unknown or missing:
        raise ValueError(
            f"{numbers}: {_first(unknown)} of the file are not in the run, {_first(missing)} of the run are not in "
            "the file; use the images that the file was made from (rejected.csv lists the rejected ones)"
        )
    return np.array([rows[0] for rows in found], dtype=np.int64)


def match_names(names: Sequence[str], known: Sequence[str]) -> list[list[int]]:
    """Return the indices in `known` that each name may stand for: the same path, else all with the same file name.

    A file that was written on Windows has backslashes between folders.
    """
    matcher = NameMatcher(known)
    return [matcher(name) for name in names]


class NameMatcher:
    """Function from a name to the indices of the known names that it may stand for, as in `match_names`."""

    def __init__(self, known: Sequence[str]) -> None:
        self._exact: dict[str, list[int]] = {}
        self._by_base: dict[str, list[int]] = {}
        for index, name in enumerate(known):
            self._exact.setdefault(name, []).append(index)
            self._by_base.setdefault(PurePosixPath(name).name, []).append(index)

    def __call__(self, name: str) -> list[int]:
        """Return the indices that a name may stand for."""
        name = name if "/" in name else name.replace("\\", "/")
        return self._exact.get(name) or self._by_base.get(PurePosixPath(name).name, [])


def save_listing(
    listing: Listing, rows: Int64[ndarray, "n"], images: ImageTable, folder: Path, overwrite: bool
) -> None:
    """Store order, names and ids of published files in the run, for writing them back unchanged.

    Raises:
        StaleResultError: if the run has the listing of other files and `overwrite` is off.
    """
    inputs = {"images": images.fingerprint, "listing": listing.fingerprint}
    for index in tables.begin(folder / TABLE, inputs, 1, overwrite):
        positions = np.argsort(rows)
        columns = {
            "place": positions,
            "file_name": np.array(listing.names, dtype=object)[positions],
            "published_id": np.array([json.dumps(each) for each in listing.ids], dtype=object)[positions],
        }
        tables.write_shard(folder / TABLE, index, columns)
    tables.finish_table(folder / TABLE)


def load_listing(images: ImageTable, folder: Path) -> Listing | None:
    """Load the listing of a run; return None if no published file with names was read.

    Raises:
        ValueError: if the listing belongs to other images than the run has now.
    """
    if not (folder / TABLE / provenance.MANIFEST).exists():
        return None
    table = tables.load(folder / TABLE)
    if table.inputs["images"] != images.fingerprint:
        raise ValueError(
            f"{folder / TABLE} belongs to other images than the run has now; read the published files again"
        )
    order = np.argsort(table.column("place"))
    return Listing(
        names=tuple(table.column("file_name")[order].tolist()),
        ids=tuple(json.loads(each) for each in table.column("published_id")[order]),
    )


def _first(names: Sequence[str]) -> str:
    """Describe a list of names by its length and the first few names."""
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else "none"
