"""Boxes in one format: `xyxy`, float32, in pixels of the image, right and bottom edges exclusive."""

import math

import numpy as np
from jaxtyping import Bool, Float, Shaped
from numpy import ndarray
from numpy.typing import DTypeLike

LARGEST_COORDINATE_PX = 1_000_000
"""Distance from an image's corner that no box has; annotations beyond it are damaged."""
MAX_JITTER_ATTEMPTS = 200
"""Samples before `jitter` returns the box itself."""


def from_xywh(boxes_xywh: Shaped[ndarray, "*n 4"], dtype: DTypeLike = np.float32) -> Float[ndarray, "*n 4"]:
    """Convert boxes from left, top, width, height (the published files, COCO, OpenCV) to `xyxy`."""
    boxes_xywh = np.asarray(boxes_xywh, dtype=dtype)
    return np.concatenate([boxes_xywh[..., :2], boxes_xywh[..., :2] + boxes_xywh[..., 2:]], axis=-1)


def to_xywh(boxes: Float[ndarray, "*n 4"]) -> Float[ndarray, "*n 4"]:
    """Convert boxes from `xyxy` to left, top, width, height."""
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def is_faulty(boxes: Shaped[ndarray, "n 4"]) -> Bool[ndarray, "n"]:
    """Return True for each box that is not finite, is reversed, or is a million pixels away from its image."""
    is_near = (np.abs(boxes) <= LARGEST_COORDINATE_PX).all(axis=-1)  # False for NaN
    return ~(is_near & (boxes[..., 2:] >= boxes[..., :2]).all(axis=-1))


def area(boxes: Shaped[ndarray, "*n 4"]) -> Float[ndarray, "*n"]:
    """Compute the area in square pixels; a box whose right edge is left of its left edge has area 0."""
    sides = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).astype(np.float64)
    return sides[..., 0] * sides[..., 1]


def iou(boxes: Shaped[ndarray, "n 4"], others: Shaped[ndarray, "m 4"]) -> Float[ndarray, "n m"]:
    """Compute the intersection over union of every box with every other.

    Returns:
        In [0, 1], float64; 0 where both boxes are empty.
    """
    top_left = np.maximum(boxes[:, None, :2], others[None, :, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    intersection = area(np.concatenate([top_left, bottom_right], axis=-1))
    union = area(boxes)[:, None] + area(others)[None, :] - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def clip(boxes: Shaped[ndarray, "*n 4"], size_wh: tuple[int, int]) -> Float[ndarray, "*n 4"]:
    """Clip each box to an image of this width and height."""
    limits = np.array([*size_wh, *size_wh], dtype=np.float32)
    return np.clip(boxes.astype(np.float32), 0, limits)


def jitter(
    box: Float[ndarray, "4"], size_wh: tuple[int, int], generator: np.random.Generator, min_iou: float = 0.5
) -> Float[ndarray, "4"]:
    """Move, scale and stretch a box at random, so that it still covers the same object.

    The area is multiplied by U(0.5, 2). The aspect ratio of the new box is log-uniform in (0.5, 2). The centre moves
    by U(-0.5, 0.5) of width and height. The sides, then the corner are rounded to whole pixels. The first of at most
    200 samples that then lies in the image and overlaps enough is taken.

    Args:
        box: the RoI; its overlap is that of the pixels it is cut along, so it is rounded too.
        size_wh: width and height of its image in pixels.
        generator: source of the random numbers.
        min_iou: lower bound of the IoU of box and copy; at 1 the copy is the box itself.

    Returns:
        The copy, in whole pixels, or the box itself if no sample was accepted.

    Source:
        ORL (NeurIPS 2021), Section 3.3, intra-RoI pairs; limits and rounding of the published code.
    """
    if min_iou >= 1:
        return box
    cut = np.rint(box)
    left, top, right, bottom = (float(edge) for edge in cut)
    width, height = right - left, bottom - top
    for _ in range(MAX_JITTER_ATTEMPTS):
        new_area = width * height * generator.uniform(0.5, 2)
        aspect_ratio = math.exp(generator.uniform(math.log(0.5), math.log(2)))
        new_width, new_height = round(math.sqrt(new_area * aspect_ratio)), round(math.sqrt(new_area / aspect_ratio))
        new_left = round((left + right) / 2 + width * generator.uniform(-0.5, 0.5) - new_width / 2)
        new_top = round((top + bottom) / 2 + height * generator.uniform(-0.5, 0.5) - new_height / 2)
        new_right, new_bottom = new_left + new_width, new_top + new_height
        if min(new_left, new_top) < 0 or new_right > size_wh[0] or new_bottom > size_wh[1]:
            continue
        new_box = np.array([new_left, new_top, new_right, new_bottom], dtype=np.float32)
        if iou(new_box[None], cut[None])[0, 0] > min_iou:
            return new_box
    return box
