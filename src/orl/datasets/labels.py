"""Labels of images with several objects: the classes in each image, and the boxes of its objects."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Int8, Int64
from numpy import ndarray

from orl import boxes as geometry

PRESENT, IGNORED, ABSENT = 1, 0, -1
NO_OBJECT = -1
COVERING_IOU = 0.5
"""IoU from which a box covers an object."""


@dataclass(frozen=True, kw_only=True)
class LabelledSplit:
    """Labels of one split of a data set, such as 'trainval' or 'test'."""

    root: Path
    """Folder that the names start from."""
    names: tuple[str, ...]
    """Path of each image below the root, with forward slashes; sorted, unique."""
    classes: tuple[str, ...]
    """Name of each class."""
    labels: Int8[ndarray, "n c"]
    """Label of each image and class: 1 present, -1 absent, 0 ignored (only difficult objects of the class)."""
    boxes: tuple[Float32[ndarray, "_ 4"], ...]
    """Boxes `xyxy` of the objects of each image; empty for an image without annotation."""
    box_classes: tuple[Int64[ndarray, "_"], ...]
    """Class of each object, an index into `classes`."""
    box_difficult: tuple[Bool[ndarray, "_"], ...]
    """True for objects that scores ignore: VOC's 'difficult', COCO's crowds."""

    def __len__(self) -> int:
        return len(self.names)


def covered_classes(
    split: LabelledSplit, row: int, boxes: Float[ndarray, "b 4"], iou_threshold: float = COVERING_IOU
) -> Int64[ndarray, "b"]:
    """Return the class of the object that each box covers: the object of highest IoU above the threshold.

    Args:
        split: the labels.
        row: row of the image in the labels.
        boxes: boxes in pixels of the image.
        iou_threshold: IoU from which a box covers an object; 'difficult' objects count too.

    Returns:
        Index into the classes, or -1 for a box that covers no object.
    """
    if len(split.boxes[row]) == 0:
        return np.full(len(boxes), NO_OBJECT, dtype=np.int64)
    overlaps = geometry.iou(boxes, split.boxes[row])
    return np.where(overlaps.max(axis=1) >= iou_threshold, split.box_classes[row][overlaps.argmax(axis=1)], NO_OBJECT)
