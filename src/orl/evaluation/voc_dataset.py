"""The labelled images that SVM, low-shot and kNN look at: listed, checked, and the unreadable ones left out."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from jaxtyping import Int
from numpy import ndarray

from orl.datasets.class_lists import require_images
from orl.datasets.decode import MAX_PIXELS
from orl.datasets.labelled_fingerprint import labelled_fingerprint
from orl.datasets.validation import Rejected, scan_images
from orl.datasets.voc import read_voc
from orl.evaluation.configs import VocSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """The images of one split, with their labels."""

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
    """Of all images that are listed, whether they can be read or not."""
    rejected: tuple[Rejected, ...] = ()
    """Images that cannot be read, with the reason; they are neither learnt from nor scored."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file of each image."""
        return tuple(self.root / name for name in self.names)


Check = Callable[[LabelledImages, LabelledImages], None]
"""Whether a judge can learn from the first and score the second; raises ValueError if not."""


@dataclass(frozen=True)
class VocDataset:
    """Both splits of a set for all judges that look at them: listed once, opened once, and only if need be."""

    data: Path
    """A VOC devkit, or a drawn set, which has the same layout."""
    settings: VocSettings
    workers: int = 1
    """Processes that look at images."""
    quiet: bool = False

    @cached_property
    def listed(self) -> tuple[LabelledImages, LabelledImages]:
        """Those to learn from and those to be scored, none of them opened yet; checked against each other.

        Raises:
            ValueError: as `list_labelled` and `check_splits`.
        """
        train, test = (list_labelled(self.data, split) for split in self._splits)
        check_splits(train, test)
        return train, test

    @cached_property
    def readable(self) -> tuple[LabelledImages, LabelledImages]:
        """As `listed`, without those that cannot be read.

        Raises:
            ValueError: as `listed` and `drop_unreadable`.
        """
        train, test = (drop_unreadable(images, workers=self.workers, quiet=self.quiet) for images in self.listed)
        check_splits(train, test)
        return train, test

    @property
    def _splits(self) -> tuple[str, str]:
        return self.settings.train_split, self.settings.test_split


def list_labelled(data: Path, split: str) -> LabelledImages:
    """Read the labels of a split; no image is opened, but all are there.

    Args:
        data: a VOC devkit, or a drawn set, which has the same layout.
        split: such as 'trainval' or 'test'.

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
    """Open every image, so that broken ones are left out beforehand, and said so.

    Args:
        images: of one split.
        workers: processes that look at images.
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
            f"{rejected[0].name} ({rejected[0].reason}); repair them or give another set"
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


def read_labelled(data: Path, split: str, *, workers: int = 1, quiet: bool = False) -> LabelledImages:
    """The readable images of a split: `list_labelled`, then `drop_unreadable`."""
    return drop_unreadable(list_labelled(data, split), workers=workers, quiet=quiet)


def check_splits(train: LabelledImages, test: LabelledImages) -> None:
    """Whether what is learnt from one split can be scored on the other.

    Raises:
        ValueError: if the two have different classes or share an image, or nothing in one of them can be told apart.
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
            f"{shared[0]}: a score on images that were learnt from says nothing; give two splits that share none"
        )
    for images in (train, test):
        told_apart = (images.labels == 1).any(axis=0) & (images.labels == -1).any(axis=0)
        if not told_apart.any():
            shown = [name for name, column in zip(images.classes, images.labels.T) if (column == 1).any()]
            raise ValueError(
                f"split {images.split!r} of {images.data} has no class that some of its images show and others do not; "
                f"its images show {', '.join(shown[:3]) or 'none'}: there is nothing to tell apart"
            )
