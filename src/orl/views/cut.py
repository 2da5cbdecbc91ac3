"""Cutting of views: each image of a sample is read once, and all its crops are cut from it as uint8."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from orl.datasets.decode import REDUCTIONS, ImageError, load_image, reduced_size
from orl.datasets.image_table import ImageTable
from orl.views.colour import ColourParameters
from orl.views.crops import cut_boxes


class ViewBox(NamedTuple):
    """The box that a view is cut along, and the colour changes of the view."""

    image_id: int
    box: Float[ndarray, "4"]
    """xyxy, in pixels of the image at the size that the image table lists."""
    size_px: int
    """Side of the square that the box is resized to."""
    colours: ColourParameters


class View(NamedTuple):
    """A crop and its colour changes, which are applied later; in a batch, every field has a leading dimension."""

    crop: UInt8[Tensor, "*n 3 s s"]
    colours: ColourParameters


ViewBoxes = dict[str, ViewBox]
"""Boxes of the views of one sample, by the name of the view."""
Sample = dict[str, View]
"""Views of one sample, or of a batch of samples, by the name of the view."""


def cut_views(images: ImageTable, view_boxes: ViewBoxes) -> Sample:
    """Read each image of a sample once, and cut its views.

    An image is read at half, a quarter or an eighth of its size if each crop still has as many pixels as its view.
    An image of a pack is small already and is read at full size.

    Raises:
        ImageError: if an image cannot be read, or has another size than the image table lists.
    """
    boxes_by_image: dict[int, list[ViewBox]] = {}
    for view_box in view_boxes.values():
        boxes_by_image.setdefault(view_box.image_id, []).append(view_box)
    # The views of a pack must not depend on the cache: on disk, in memory or on the device.
    reductions = {
        image_id: largest_reduction(boxes) if images.packed is None else 1 for image_id, boxes in boxes_by_image.items()
    }
    pixels = {image_id: read_listed_image(images, image_id, reduction) for image_id, reduction in reductions.items()}
    return {
        name: View(_cut(pixels[view_box.image_id], view_box, reductions[view_box.image_id]), view_box.colours)
        for name, view_box in view_boxes.items()
    }


def largest_reduction(view_boxes: Iterable[ViewBox]) -> int:
    """Return the largest reduction of an image at which none of its crops has to be enlarged."""
    pixels_per_pixel = min(min(box[2] - box[0], box[3] - box[1]) / size_px for _, box, size_px, _ in view_boxes)
    return max((reduction for reduction in REDUCTIONS if reduction <= pixels_per_pixel), default=1)


def read_listed_image(images: ImageTable, image_id: int, reduction: int = 1) -> UInt8[ndarray, "h w 3"]:
    """Read an image of the table, and check its size.

    Args:
        images: the image table.
        image_id: row of the image.
        reduction: factor by which both sides are reduced.

    Raises:
        ImageError: if the image cannot be read, or has another size than the image table lists.
    """
    path, size_wh = images.path(image_id), images.sizes_wh[image_id]
    image = load_image(path, None, reduction)
    if image.shape[1::-1] != reduced_size(size_wh, reduction):
        height, width, _ = image.shape if reduction == 1 else load_image(path, None, 1).shape
        raise ImageError(
            path, f"has {width}x{height} px, and had {size_wh[0]}x{size_wh[1]} when the images were scanned"
        )
    return image


def _cut(image: UInt8[ndarray, "h w 3"], view_box: ViewBox, reduction: int) -> UInt8[Tensor, "3 s s"]:
    crops = cut_boxes(image, view_box.box[None] / np.float32(reduction), view_box.size_px)
    return crops[0].contiguous()
