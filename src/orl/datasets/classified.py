"""Classification data sets: the files of a split, and one label for each image."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jaxtyping import Int64
from numpy import ndarray

from orl.datasets.labelled_fingerprint import labelled_fingerprint


@dataclass(frozen=True, kw_only=True)
class ClassifiedImages:
    """One split of a data set with one label for each image, such as ImageNet's 'train'."""

    root: Path
    """Folder that the names start from."""
    split: str
    """Name of the split, such as 'train' or 'val'; the name of a subset includes its source."""
    classes: tuple[str, ...]
    """Name of each class."""
    names: tuple[str, ...]
    """Path of each image below the root, with forward slashes; unique."""
    labels: Int64[ndarray, "n"]
    """Class of each image, an index into `classes`."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Return the file of each image."""
        return tuple(self.root / name for name in self.names)

    @cached_property
    def fingerprint(self) -> str:
        """Compute the fingerprint of images and labels; see `labelled_fingerprint`."""
        return labelled_fingerprint(self.root, self.names, self.classes, [self.labels])


def check_train_val(train: ClassifiedImages, val: ClassifiedImages) -> None:
    """Check that a classifier trained on one split can be scored on the other.

    Raises:
        ValueError: if the classes of the splits differ, or an image is in both.
    """
    if train.classes != val.classes:
        only_train = sorted(set(train.classes) - set(val.classes))
        only_val = sorted(set(val.classes) - set(train.classes))
        raise ValueError(
            f"{train.split!r} and {val.split!r} differ in classes ({len(train.classes)} and {len(val.classes)}): "
            f"only in {train.split!r} {only_train[:5]}, only in {val.split!r} {only_val[:5]}; "
            "give both the same, in one order"
        )
    if train.root == val.root and (shared := sorted(set(train.names) & set(val.names))):
        raise ValueError(
            f"{len(shared)} images are in {train.split!r} and in {val.split!r}, such as {shared[0]}: a score on "
            "training images is meaningless; correct the lists"
        )
