"""The labelled photos that SVM, low-shot and kNN look at: listed, checked, and the unreadable ones left out."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from jaxtyping import Int
from numpy import ndarray

from orl.images.class_lists import require_photos
from orl.images.decode import MAX_PIXELS
from orl.images.identity import photos_identity
from orl.images.scan import Rejected, scan_photos
from orl.images.voc import read_voc
from orl.transfer.settings import VocSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LabelledPhotos:
    """The photos of one split, with their labels."""

    data: Path
    split: str
    classes: tuple[str, ...]
    root: Path
    """Folder that the names start from."""
    names: tuple[str, ...]
    """Path of each photo below the root."""
    labels: Int[ndarray, "n c"]
    """1 present, -1 absent, 0 ignored."""
    identity: str
    """Of all photos that are listed, whether they can be read or not."""
    rejected: tuple[Rejected, ...] = ()
    """Photos that cannot be read, with the reason; they are neither learnt from nor scored."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file of each photo."""
        return tuple(self.root / name for name in self.names)


Check = Callable[[LabelledPhotos, LabelledPhotos], None]
"""Whether a judge can learn from the first and score the second; raises ValueError if not."""


@dataclass(frozen=True)
class VocPhotos:
    """Both splits of a set for all judges that look at them: listed once, opened once, and only if need be."""

    data: Path
    """A VOC devkit, or a drawn set, which has the same layout."""
    settings: VocSettings
    workers: int = 1
    """Processes that look at photos."""
    quiet: bool = False

    @cached_property
    def listed(self) -> tuple[LabelledPhotos, LabelledPhotos]:
        """Those to learn from and those to be scored, none of them opened yet; checked against each other.

        Raises:
            ValueError: as `list_labelled` and `check_splits`.
        """
        train, test = (list_labelled(self.data, split) for split in self._splits)
        check_splits(train, test)
        return train, test

    @cached_property
    def readable(self) -> tuple[LabelledPhotos, LabelledPhotos]:
        """As `listed`, without those that cannot be read.

        Raises:
            ValueError: as `listed` and `drop_unreadable`.
        """
        train, test = (drop_unreadable(photos, workers=self.workers, quiet=self.quiet) for photos in self.listed)
        check_splits(train, test)
        return train, test

    @property
    def _splits(self) -> tuple[str, str]:
        return self.settings.train_split, self.settings.test_split


def list_labelled(data: Path, split: str) -> LabelledPhotos:
    """Read the labels of a split; no photo is opened, but all are there.

    Args:
        data: a VOC devkit, or a drawn set, which has the same layout.
        split: such as 'trainval' or 'test'.

    Raises:
        ValueError: if there is no devkit or no such split, its labels are damaged, or photos that it lists are missing.
    """
    labelled = read_voc(data, split)
    require_photos(labelled.root, labelled.names, f"split {split!r} of {data}")
    return LabelledPhotos(
        data=data,
        split=split,
        classes=labelled.classes,
        root=labelled.root,
        names=labelled.names,
        labels=labelled.labels,
        identity=photos_identity(labelled.root, labelled.names, labelled.classes, [labelled.labels]),
    )


def drop_unreadable(photos: LabelledPhotos, *, workers: int = 1, quiet: bool = False) -> LabelledPhotos:
    """Open every photo, so that broken ones are left out beforehand, and said so.

    Args:
        photos: of one split.
        workers: processes that look at photos.
        quiet: show no progress bar.

    Raises:
        ValueError: if no photo can be read.
    """
    images, rejected = scan_photos(
        photos.root, photos.names, min_side_px=1, max_pixels=MAX_PIXELS, workers=workers, quiet=quiet
    )
    if not len(images):
        raise ValueError(
            f"none of the {len(rejected)} photos of split {photos.split!r} of {photos.data} can be read, such as "
            f"{rejected[0].name} ({rejected[0].reason}); repair them or give another set"
        )
    if rejected:
        logger.warning(
            "%d of %d photos of split %r cannot be read and are left out, such as %s (%s)",
            *(len(rejected), len(photos.names), photos.split, rejected[0].name, rejected[0].reason),
        )
    readable = set(images.names)
    rows = [row for row, name in enumerate(photos.names) if name in readable]
    return replace(
        photos,
        names=tuple(photos.names[row] for row in rows),
        labels=photos.labels[rows],
        rejected=(*photos.rejected, *rejected),
    )


def read_labelled(data: Path, split: str, *, workers: int = 1, quiet: bool = False) -> LabelledPhotos:
    """The readable photos of a split: `list_labelled`, then `drop_unreadable`."""
    return drop_unreadable(list_labelled(data, split), workers=workers, quiet=quiet)


def check_splits(train: LabelledPhotos, test: LabelledPhotos) -> None:
    """Whether what is learnt from one split can be scored on the other.

    Raises:
        ValueError: if the two have different classes or share a photo, or nothing in one of them can be told apart.
    """
    if train.classes != test.classes:
        differing = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(
            f"splits {train.split!r} and {test.split!r} of {test.data} differ in classes {differing[:5]}; "
            "give both the same class lists"
        )
    if train.root == test.root and (shared := sorted(set(train.names) & set(test.names))):
        raise ValueError(
            f"{len(shared)} photos are in split {train.split!r} and in {test.split!r} of {test.data}, such as "
            f"{shared[0]}: a score on photos that were learnt from says nothing; give two splits that share none"
        )
    for photos in (train, test):
        told_apart = (photos.labels == 1).any(axis=0) & (photos.labels == -1).any(axis=0)
        if not told_apart.any():
            shown = [name for name, column in zip(photos.classes, photos.labels.T) if (column == 1).any()]
            raise ValueError(
                f"split {photos.split!r} of {photos.data} has no class that some of its photos show and others do not; "
                f"its photos show {', '.join(shown[:3]) or 'none'}: there is nothing to tell apart"
            )
