"""What is known of labelled images: the classes in each, and the boxes of their objects."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Int8, Int64
from numpy import ndarray

from orl import boxes as geometry

PRESENT, IGNORED, ABSENT = 1, 0, -1
NO_OBJECT = -1
COVERING_IOU = 0.5
"""From where on a box is said to cover an object."""


@dataclass(frozen=True, kw_only=True)
class LabelledSplit:
    """The labels of one part of a data set, such as 'trainval' or 'test'."""

    root: Path
    """Folder that the names start from."""
    names: tuple[str, ...]
    """Path of each image below the root, with forward slashes; sorted, unique."""
    classes: tuple[str, ...]
    """Name of each class."""
    labels: Int8[ndarray, "n c"]
    """Whether an image shows a class: 1 present, -1 absent, 0 ignored (only difficult objects of the class)."""
    boxes: tuple[Float32[ndarray, "_ 4"], ...]
    """The objects of each image as `xyxy`; none where the image has no annotation."""
    box_classes: tuple[Int64[ndarray, "_"], ...]
    """The class of each object, an index into `classes`."""
    box_difficult: tuple[Bool[ndarray, "_"], ...]
    """Whether an object is too hard to be asked for: VOC's 'difficult', COCO's crowds."""

    def __len__(self) -> int:
        return len(self.names)


def covered_classes(
    split: LabelledSplit, row: int, boxes: Float[ndarray, "b 4"], iou_threshold: float = COVERING_IOU
) -> Int64[ndarray, "b"]:
    """The class of the object that each box of an image covers: the one with the highest IoU, if that is enough.

    Args:
        split: the labels.
        row: the image's row in them.
        boxes: in the image's pixels.
        iou_threshold: from where on a box covers an object; 'difficult' objects count.

    Returns:
        Index into the classes, or -1 where a box covers none.
    """
    if len(split.boxes[row]) == 0:
        return np.full(len(boxes), NO_OBJECT, dtype=np.int64)
    overlaps = geometry.iou(boxes, split.boxes[row])
    return np.where(overlaps.max(axis=1) >= iou_threshold, split.box_classes[row][overlaps.argmax(axis=1)], NO_OBJECT)
