"""What is known of labelled photos: the classes in each, and the boxes of their objects."""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Bool, Float32, Int8, Int64
from numpy import ndarray

PRESENT, IGNORED, ABSENT = 1, 0, -1


@dataclass(frozen=True, kw_only=True)
class LabelledSplit:
    """The labels of one part of a data set, such as 'trainval' or 'test'."""

    root: Path
    """Folder that the names start from."""
    names: tuple[str, ...]
    """Path of each photo below the root, with forward slashes; sorted, unique."""
    classes: tuple[str, ...]
    """Name of each class."""
    labels: Int8[ndarray, "n c"]
    """Whether a photo shows a class: 1 present, -1 absent, 0 ignored (only difficult objects of the class)."""
    boxes: tuple[Float32[ndarray, "_ 4"], ...]
    """The objects of each photo as `xyxy`; none where the photo has no annotation."""
    box_classes: tuple[Int64[ndarray, "_"], ...]
    """The class of each object, an index into `classes`."""
    box_difficult: tuple[Bool[ndarray, "_"], ...]
    """Whether an object is too hard to be asked for: VOC's 'difficult', COCO's crowds."""

    def __len__(self) -> int:
        return len(self.names)
