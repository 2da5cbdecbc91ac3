"""A part of the labels: that of a published list, or as many images of every class, drawn."""

import logging
from collections import defaultdict
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from orl.datasets.class_lists import check_classes
from orl.datasets.classified import ClassifiedImages

logger = logging.getLogger(__name__)


def read_subset(images: ClassifiedImages, list_file: Path) -> ClassifiedImages:
    """The images that a list names, such as SimCLR's `imagenet_subsets/1percent.txt`.

    Args:
        images: the whole split.
        list_file: one file name a line, with or without folders before it; a class number behind it is not read.

    Returns:
        Those images in the split's order; `split` says which list.

    Raises:
        ValueError: if the list names none, an image that is not in the split, one twice, or one of several that share
            a file name; or if all are of one class.
    """
    try:
        lines = [line.strip() for line in list_file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{list_file} is not a list in UTF-8: {error}") from error
    wanted = [_without_number(line) for line in lines if line]
    if not wanted:
        raise ValueError(f"{list_file} names no image")
    rows = _find_rows(images, wanted, list_file)
    check_classes(images.classes, images.labels[rows], list_file)
    return _part(images, rows, f"{images.split}, the {len(rows)} images of {list_file.name}")


def draw_subset(images: ClassifiedImages, fraction: float, seed: int) -> ClassifiedImages:
    """As many images of each class, drawn: what stands for SimCLR's lists where they are not given.

    A class gives `share` of the images of an average class, at least one; where it has fewer it gives all. A larger
    share of the same seed holds the images of a smaller one.

    Args:
        images: the whole split.
        share: of the images, above 0 and up to 1.
        seed: of the draw.

    Returns:
        Those images in the split's order; `split` says how they were drawn.

    Raises:
        ValueError: if the share is outside (0, 1].

    Source:
        SimCLR (arXiv 2002.05709), section 4.1 and its `imagenet_subsets`, where every class has as many.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"a share of {fraction:g} of the labels: it must lie above 0 and up to 1")
    num_each = max(1, round(fraction * len(images) / len(images.classes)))
    rows, short = [], []
    for label, name in enumerate(images.classes):
        own = np.flatnonzero(images.labels == label)
        rows.append(np.random.default_rng([seed, label]).permutation(own)[:num_each])
        if len(own) < num_each:
            short.append(name)
    origin = f"{images.split}, {num_each} images of each class drawn with seed {seed}"
    if short:
        logger.warning("%d classes have fewer than %d images and give all: %s", len(short), num_each, short[:5])
        origin += f", fewer of {len(short)} classes that have no more"
    return _part(images, np.sort(np.concatenate(rows)), origin)


def _find_rows(images: ClassifiedImages, wanted: list[str], list_file: Path) -> Int64[ndarray, "_"]:
    exact = {name: row for row, name in enumerate(images.names)}
    by_file: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(images.names):
        by_file[name.rpartition("/")[2]].append(row)
    found = [[exact[name]] if name in exact else _ending_in(name, images, by_file) for name in wanted]
    missing = [name for name, rows in zip(wanted, found) if not rows]
    if missing:
        raise ValueError(
            f"{list_file} names {len(wanted)} images, and {len(missing)} are not in {images.split!r}, such as "
            f"{', '.join(missing[:3])}; looked in {images.root}"
        )
    for name, rows in zip(wanted, found):
        if len(rows) > 1:
            raise ValueError(f"{list_file}: {name} may be {' or '.join(images.names[row] for row in rows[:3])}")
    first = np.array([rows[0] for rows in found], dtype=np.int64)
    values, counts = np.unique(first, return_counts=True)
    if counts.max() > 1:
        raise ValueError(f"{list_file} names {images.names[values[counts.argmax()]]} {counts.max()} times")
    return values


def _ending_in(name: str, images: ClassifiedImages, by_file: dict[str, list[int]]) -> list[int]:
    """The images whose path ends in the name, or whose path the name ends in: 'train/n01/x.JPEG' is 'n01/x.JPEG'."""
    candidates = by_file.get(name.rpartition("/")[2], [])
    return [row for row in candidates if _ends(images.names[row], name) or _ends(name, images.names[row])]


def _ends(path: str, end: str) -> bool:
    return f"/{path}".endswith(f"/{end}")


def _without_number(line: str) -> str:
    name, _, number = line.rpartition(" ")
    return name.strip() if name and number.isdecimal() else line


def _part(images: ClassifiedImages, rows: Int64[ndarray, "_"], split: str) -> ClassifiedImages:
    return ClassifiedImages(
        root=images.root,
        split=split,
        classes=images.classes,
        names=tuple(images.names[row] for row in rows.tolist()),
        labels=images.labels[rows],
    )
