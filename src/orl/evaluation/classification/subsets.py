"""Subsets of a labelled split: the images of a published list, or equally many sampled images of each class."""

import logging
from collections import defaultdict
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from orl import files
from orl.datasets.class_lists import check_classes
from orl.datasets.classified import ClassifiedImages
from orl.datasets.image_names import split_label, with_slashes

logger = logging.getLogger(__name__)


def read_subset(images: ClassifiedImages, list_file: Path) -> ClassifiedImages:
    """Return the images that a list names, such as SimCLR's `imagenet_subsets/1percent.txt`.

    Args:
        images: the complete split.
        list_file: one file name per line, with or without folders; a class number after it is ignored.

    Returns:
        The images in the split's order; `split` names the list.

    Raises:
        ValueError: if the list is empty, names an unknown, repeated or ambiguous image, or all images show one class.
    """
    try:
        lines = [line.strip() for line in files.regular_file(list_file).read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{list_file} is not a list in UTF-8: {error}") from error
    listed = with_slashes([_without_number(line) for line in lines if line], list_file)
    if not listed:
        raise ValueError(f"{list_file} names no image")
    rows = _find_rows(images, listed, list_file)
    check_classes(images.classes, images.labels[rows], list_file)
    return _subset(images, rows, f"{images.split}, the {len(rows)} images of {list_file.name}")


def sample_subset(images: ClassifiedImages, fraction: float, seed: int) -> ClassifiedImages:
    """Sample equally many images of each class, in place of SimCLR's lists.

    Each class contributes `fraction` of the images of an average class, at least one; a class with fewer contributes
    all. A larger fraction with the same seed contains the images of a smaller one.

    Args:
        images: the complete split.
        fraction: fraction of the images, above 0 and up to 1.
        seed: seed of the sampling.

    Returns:
        The images in the split's order; `split` describes the sampling.

    Raises:
        ValueError: if the fraction is outside (0, 1].

    Source:
        SimCLR (arXiv 2002.05709), section 4.1, and its `imagenet_subsets`, which are balanced over classes.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"the fraction of the labels must be above 0 and at most 1, got {fraction:g}")
    num_each = max(1, round(fraction * len(images) / len(images.classes)))
    rows, short = [], []
    for label, name in enumerate(images.classes):
        own = np.flatnonzero(images.labels == label)
        rows.append(np.random.default_rng([seed, label]).permutation(own)[:num_each])
        if len(own) < num_each:
            short.append(name)
    origin = f"{images.split}, {num_each} images of each class sampled with seed {seed}"
    if short:
        logger.warning("%d classes have fewer than %d images and contribute all: %s", len(short), num_each, short[:5])
        origin += f", fewer of {len(short)} smaller classes"
    return _subset(images, np.sort(np.concatenate(rows)), origin)


def _find_rows(images: ClassifiedImages, listed: list[str], list_file: Path) -> Int64[ndarray, "_"]:
    exact = {name: row for row, name in enumerate(images.names)}
    by_file: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(images.names):
        by_file[name.rpartition("/")[2]].append(row)
    found = [[exact[name]] if name in exact else _ending_in(name, images, by_file) for name in listed]
    missing = [name for name, rows in zip(listed, found) if not rows]
    if missing:
        raise ValueError(
            f"{list_file} names {len(listed)} images, and {len(missing)} are not in {images.split!r}, such as "
            f"{', '.join(missing[:3])}; the folder is {images.root}"
        )
    for name, rows in zip(listed, found):
        if len(rows) > 1:
            raise ValueError(f"{list_file}: {name} is ambiguous: {' or '.join(images.names[row] for row in rows[:3])}")
    first = np.array([rows[0] for rows in found], dtype=np.int64)
    values, counts = np.unique(first, return_counts=True)
    if counts.max() > 1:
        raise ValueError(f"{list_file} names {images.names[values[counts.argmax()]]} {counts.max()} times")
    return values


def _ending_in(name: str, images: ClassifiedImages, by_file: dict[str, list[int]]) -> list[int]:
    """Return rows whose path ends with the name, or is the end of it: 'train/n01/x.JPEG' matches 'n01/x.JPEG'."""
    candidates = by_file.get(name.rpartition("/")[2], [])
    return [row for row in candidates if _ends(images.names[row], name) or _ends(name, images.names[row])]


def _ends(path: str, end: str) -> bool:
    return f"/{path}".endswith(f"/{end}")


def _without_number(line: str) -> str:
    name, number = split_label(line)
    return name if number.isdecimal() else line


def _subset(images: ClassifiedImages, rows: Int64[ndarray, "_"], split: str) -> ClassifiedImages:
    return ClassifiedImages(
        root=images.root,
        split=split,
        classes=images.classes,
        names=tuple(images.names[row] for row in rows.tolist()),
        labels=images.labels[rows],
    )
