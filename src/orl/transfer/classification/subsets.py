"""A part of the labels: that of a published list, or as many photos of every class, drawn."""

import logging
from collections import defaultdict
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from orl.images.class_lists import check_classes
from orl.images.classified import ClassifiedPhotos

logger = logging.getLogger(__name__)


def read_subset(photos: ClassifiedPhotos, list_file: Path) -> ClassifiedPhotos:
    """The photos that a list names, such as SimCLR's `imagenet_subsets/1percent.txt`.

    Args:
        photos: the whole split.
        list_file: one file name a line, with or without folders before it; a class number behind it is not read.

    Returns:
        Those photos in the split's order; `split` says which list.

    Raises:
        ValueError: if the list names none, a photo that is not in the split, one twice, or one of several that share
            a file name; or if all are of one class.
    """
    try:
        lines = [line.strip() for line in list_file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{list_file} is not a list in UTF-8: {error}") from error
    wanted = [_without_number(line) for line in lines if line]
    if not wanted:
        raise ValueError(f"{list_file} names no photo")
    rows = _find_rows(photos, wanted, list_file)
    check_classes(photos.classes, photos.labels[rows], list_file)
    return _part(photos, rows, f"{photos.split}, the {len(rows)} photos of {list_file.name}")


def draw_subset(photos: ClassifiedPhotos, share: float, seed: int) -> ClassifiedPhotos:
    """As many photos of each class, drawn: what stands for SimCLR's lists where they are not given.

    A class gives `share` of the photos of an average class, at least one; where it has fewer it gives all. A larger
    share of the same seed holds the photos of a smaller one.

    Args:
        photos: the whole split.
        share: of the photos, above 0 and up to 1.
        seed: of the draw.

    Returns:
        Those photos in the split's order; `split` says how they were drawn.

    Raises:
        ValueError: if the share is outside (0, 1].

    Source:
        SimCLR (arXiv 2002.05709), section 4.1 and its `imagenet_subsets`, where every class has as many.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of {share:g} of the labels: it must lie above 0 and up to 1")
    num_each = max(1, round(share * len(photos) / len(photos.classes)))
    rows, short = [], []
    for label, name in enumerate(photos.classes):
        own = np.flatnonzero(photos.labels == label)
        rows.append(np.random.default_rng([seed, label]).permutation(own)[:num_each])
        if len(own) < num_each:
            short.append(name)
    origin = f"{photos.split}, {num_each} photos of each class drawn with seed {seed}"
    if short:
        logger.warning("%d classes have fewer than %d photos and give all: %s", len(short), num_each, short[:5])
        origin += f", fewer of {len(short)} classes that have no more"
    return _part(photos, np.sort(np.concatenate(rows)), origin)


def _find_rows(photos: ClassifiedPhotos, wanted: list[str], list_file: Path) -> Int64[ndarray, "_"]:
    exact = {name: row for row, name in enumerate(photos.names)}
    by_file: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(photos.names):
        by_file[name.rpartition("/")[2]].append(row)
    found = [[exact[name]] if name in exact else _ending_in(name, photos, by_file) for name in wanted]
    missing = [name for name, rows in zip(wanted, found) if not rows]
    if missing:
        raise ValueError(
            f"{list_file} names {len(wanted)} photos, and {len(missing)} are not in {photos.split!r}, such as "
            f"{', '.join(missing[:3])}; looked in {photos.root}"
        )
    for name, rows in zip(wanted, found):
        if len(rows) > 1:
            raise ValueError(f"{list_file}: {name} may be {' or '.join(photos.names[row] for row in rows[:3])}")
    first = np.array([rows[0] for rows in found], dtype=np.int64)
    values, counts = np.unique(first, return_counts=True)
    if counts.max() > 1:
        raise ValueError(f"{list_file} names {photos.names[values[counts.argmax()]]} {counts.max()} times")
    return values


def _ending_in(name: str, photos: ClassifiedPhotos, by_file: dict[str, list[int]]) -> list[int]:
    """The photos whose path ends in the name, or whose path the name ends in: 'train/n01/x.JPEG' is 'n01/x.JPEG'."""
    candidates = by_file.get(name.rpartition("/")[2], [])
    return [row for row in candidates if _ends(photos.names[row], name) or _ends(name, photos.names[row])]


def _ends(path: str, end: str) -> bool:
    return f"/{path}".endswith(f"/{end}")


def _without_number(line: str) -> str:
    name, _, number = line.rpartition(" ")
    return name.strip() if name and number.isdecimal() else line


def _part(photos: ClassifiedPhotos, rows: Int64[ndarray, "_"], split: str) -> ClassifiedPhotos:
    return ClassifiedPhotos(
        root=photos.root,
        split=split,
        classes=photos.classes,
        names=tuple(photos.names[row] for row in rows.tolist()),
        labels=photos.labels[rows],
    )
