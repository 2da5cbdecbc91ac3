"""Labels of images with several objects: the classes in each image, and the boxes of its objects."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Int8, Int64
from numpy import ndarray

from orl import boxes as geometry

PRESENT, IGNORED, ABSENT = 1, 0, -1
NO_OBJECT = -1
COVERING_IOU = 0.5
"""IoU from which a box covers an object."""
MAX_EMPTY_FRACTION = 0.001
"""Largest fraction of objects without area, which are left out; COCO's train2017 has two."""
MIN_SIDE_PX = 0.01
"""Smallest side of an object: a thinner one may lose its width in float32 when its image is resized and mirrored."""
logger = logging.getLogger(__name__)


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


def boxes_in_images(
    boxes: Sequence[Float32[ndarray, "_ 4"]],
    sizes_wh: Sequence[tuple[int, int] | None],
    names: Sequence[str],
    source: str,
) -> list[Bool[ndarray, "_"]] | None:
    """Mark the boxes with area inside their image; log a warning about a few others, and refuse many.

    Args:
        boxes: boxes `xyxy` of each image.
        sizes_wh: width and height of each image; None where the annotations lack them.
        names: name of each image, for messages.
        source: name of the annotations, for messages.

    Returns:
        True for each box to keep; None if all are.

    Raises:
        ValueError: if more than a thousandth of the boxes have no area in their image or reach far beyond it.
    """
    kept = [_is_in_image(own, size_wh) for own, size_wh in zip(boxes, sizes_wh)]
    count = sum(len(each) for each in kept)
    num_others = count - sum(int(each.sum()) for each in kept)
    if not num_others:
        return None
    first = next(row for row, each in enumerate(kept) if not each.all())
    box = boxes[first][~kept[first]][0].tolist()
    message = (
        f"{num_others} of {count} boxes of {source} have no area within their image or reach far beyond it: first "
        f"{names[first]} {box}"
    )
    if num_others > MAX_EMPTY_FRACTION * count:
        raise ValueError(f"{message}; repair or delete them")
    logger.warning("%s; they are left out", message)
    return kept


def _is_in_image(boxes: Float32[ndarray, "n 4"], size_wh: tuple[int, int] | None) -> Bool[ndarray, "n"]:
    """Return True for boxes with area in an image, whose sides reach no further beyond it than its own size."""
    if size_wh is None:
        return (boxes[:, 2:] - boxes[:, :2] > MIN_SIDE_PX).all(axis=1)
    inside, sides = geometry.clip(boxes, size_wh), np.array(size_wh, dtype=np.float32)
    is_near = (boxes[:, :2] >= -sides).all(axis=1) & (boxes[:, 2:] <= 2 * sides).all(axis=1)
    return is_near & (inside[:, 2:] - inside[:, :2] > MIN_SIDE_PX).all(axis=1)


def without_odd_boxes(split: LabelledSplit, sizes_wh: Sequence[tuple[int, int] | None], source: str) -> LabelledSplit:
    """Return the labels without the boxes that `boxes_in_images` leaves out; the labels of images stay.

    Raises:
        ValueError: if there are many such boxes.
    """
    kept = boxes_in_images(split.boxes, sizes_wh, split.names, source)
    if kept is None:
        return split
    return replace(
        split,
        boxes=tuple(each[keep] for each, keep in zip(split.boxes, kept)),
        box_classes=tuple(each[keep] for each, keep in zip(split.box_classes, kept)),
        box_difficult=tuple(each[keep] for each, keep in zip(split.box_difficult, kept)),
    )


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
