"""Labelled images of a VOC devkit for svm, low-shot and knn: listed, checked, and without unreadable files."""

import logging
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from jaxtyping import Int
from numpy import ndarray

from orl.datasets.class_lists import require_images
from orl.datasets.decode import MAX_PIXELS
from orl.datasets.labelled_fingerprint import labelled_fingerprint
from orl.datasets.validation import Rejected, scan_images
from orl.datasets.voc import read_voc

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images of one split, with their labels."""

    data: Path
    split: str
    classes: tuple[str, ...]
    root: Path
    """Folder that the names start from."""
    names: tuple[str, ...]
    """Path of each image below the root."""
    labels: Int[ndarray, "n c"]
    """1 present, -1 absent, 0 ignored."""
    fingerprint: str
    """Fingerprint of all listed images, readable or not."""
    rejected: tuple[Rejected, ...] = ()
    """Unreadable images, with the reason; they are neither trained on nor scored."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file of each image."""
        return tuple(self.root / name for name in self.names)


Splits = tuple[LabelledImages, LabelledImages]
"""The images to train on and the images to score."""


@dataclass(frozen=True, kw_only=True)
class VocOptions:
    """Images of a VOC devkit that are trained on and scored, and their size."""

    train_split: str = "trainval"
    """Split to train on."""
    test_split: str = "test"
    """Split to score."""
    size_px: int = 224
    """Side that an image is resized to, pixels."""


@dataclass(frozen=True, kw_only=True)
class VocDataset(VocOptions):
    """Labelled images of a VOC devkit."""

    data: Path
    """VOC devkit, or a synthetic data set of the same layout."""
    _readable: list[Splits] = field(default_factory=list, init=False, repr=False, compare=False)

    @cached_property
    def listed(self) -> Splits:
        """Both splits as the devkit lists them, checked against each other; no image is opened.

        Raises:
            ValueError: if `list_labelled` or `check_splits` refuses them.
        """
        train, test = (list_labelled(self.data, split) for split in (self.train_split, self.test_split))
        check_splits(train, test)
        return train, test

    def readable(self, *, workers: int = 1, quiet: bool = False) -> Splits:
        """Return both splits without the images that cannot be read.

        Args:
            workers: processes that open images.
            quiet: show no progress bar.

        Raises:
            ValueError: if `listed` or `drop_unreadable` fails.
        """
        if not self._readable:
            train, test = (drop_unreadable(images, workers=workers, quiet=quiet) for images in self.listed)
            check_splits(train, test)
            self._readable.append((train, test))
        return self._readable[0]


def list_labelled(data: Path, split: str) -> LabelledImages:
    """Read the labels of a split and check that all its images exist, without opening one.

    Args:
        data: a VOC devkit, or a synthetic data set of the same layout.
        split: a name such as 'trainval' or 'test'.

    Raises:
        ValueError: if there is no devkit or no such split, its labels are damaged, or images that it lists are missing.
    """
    labelled = read_voc(data, split)
    require_images(labelled.root, labelled.names, f"split {split!r} of {data}")
    return LabelledImages(
        data=data,
        split=split,
        classes=labelled.classes,
        root=labelled.root,
        names=labelled.names,
        labels=labelled.labels,
        fingerprint=labelled_fingerprint(labelled.root, labelled.names, labelled.classes, [labelled.labels]),
    )


def drop_unreadable(images: LabelledImages, *, workers: int = 1, quiet: bool = False) -> LabelledImages:
    """Open every image, leave out those that cannot be read, and log a warning about them.

    Args:
        images: of one split.
        workers: processes that open images.
        quiet: show no progress bar.

    Raises:
        ValueError: if no image can be read.
    """
    found, rejected = scan_images(
        images.root, images.names, min_side_px=1, max_pixels=MAX_PIXELS, workers=workers, quiet=quiet
    )
    if not len(found):
        raise ValueError(
            f"none of the {len(rejected)} images of split {images.split!r} of {images.data} can be read, such as "
            f"{rejected[0].name} ({rejected[0].reason}); repair them or give another data set"
        )
    if rejected:
        logger.warning(
            "%d of %d images of split %r cannot be read and are left out, such as %s (%s)",
            *(len(rejected), len(images.names), images.split, rejected[0].name, rejected[0].reason),
        )
    readable = set(found.names)
    rows = [row for row, name in enumerate(images.names) if name in readable]
    return replace(
        images,
        names=tuple(images.names[row] for row in rows),
        labels=images.labels[rows],
        rejected=(*images.rejected, *rejected),
    )


def check_splits(train: LabelledImages, test: LabelledImages) -> None:
    """Check that a classifier trained on one split can be scored on the other.

    Raises:
        ValueError: if the two have different classes or share an image, or one has no class with positive and
            negative images.
    """
    if train.classes != test.classes:
        differing = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(
            f"splits {train.split!r} and {test.split!r} of {test.data} differ in classes {differing[:5]}; "
            "give both the same class lists"
        )
    if train.root == test.root and (shared := sorted(set(train.names) & set(test.names))):
        raise ValueError(
            f"{len(shared)} images are in split {train.split!r} and in {test.split!r} of {test.data}, such as "
            f"{shared[0]}; training images must not be scored: give two splits that share none"
        )
    for images in (train, test):
        has_both = (images.labels == 1).any(axis=0) & (images.labels == -1).any(axis=0)
        if not has_both.any():
            positive = [name for name, column in zip(images.classes, images.labels.T) if (column == 1).any()]
            raise ValueError(
                f"split {images.split!r} of {images.data} has no class with positive and negative images; "
                f"classes with positive images: {', '.join(positive[:3]) or 'none'}; give another split"
            )
