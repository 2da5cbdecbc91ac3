"""From where views lie to their pixels: every image of a sample is read once and all its crops are cut, as uint8."""

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
    """Where a view is cut, and what is to happen to its colours."""

    image_id: int
    box: Float[ndarray, "4"]
    """xyxy, pixels of the image as the table of images knows it."""
    size_px: int
    """Side of the square that the box is resized to."""
    colours: ColourParameters


class View(NamedTuple):
    """A crop and what is to happen to its colours; in a batch, every field has a leading dimension."""

    crop: UInt8[Tensor, "*n 3 s s"]
    colours: ColourParameters


ViewBoxes = dict[str, ViewBox]
"""Where the views of one sample lie, by name."""
Sample = dict[str, View]
"""The views of one image, or of a batch of images, by name."""


def cut_views(images: ImageTable, view_boxes: ViewBoxes) -> Sample:
    """Read the images that the views lie in, each once, and cut them.

    An image of which all crops are made smaller is read at half, a quarter or an eighth of its size, if that still
    gives every crop as many pixels as its view has. One of a pack is small already, and read as it is.

    Raises:
        ImageError: if an image cannot be read, or has another size than it had when the images were scanned.
    """
    placed: dict[int, list[ViewBox]] = {}
    for view_box in view_boxes.values():
        placed.setdefault(view_box.image_id, []).append(view_box)
    # So that a pack gives the same views wherever it is held: on disk, in memory or on the device.
    whole = images.packed is not None
    reductions = {image_id: 1 if whole else largest_reduction(some) for image_id, some in placed.items()}
    pixels = {image_id: _read(images, image_id, reduction) for image_id, reduction in reductions.items()}
    return {
        name: View(_cut(pixels[view_box.image_id], view_box, reductions[view_box.image_id]), view_box.colours)
        for name, view_box in view_boxes.items()
    }


def largest_reduction(view_boxes: Iterable[ViewBox]) -> int:
    """By how much the image of these views can be reduced, so that none of them has to be enlarged for it."""
    pixels_per_pixel = min(min(box[2] - box[0], box[3] - box[1]) / size_px for _, box, size_px, _ in view_boxes)
    return max((reduction for reduction in REDUCTIONS if reduction <= pixels_per_pixel), default=1)


def _cut(image: UInt8[ndarray, "h w 3"], view_box: ViewBox, reduction: int) -> UInt8[Tensor, "3 s s"]:
    crops = cut_boxes(image, view_box.box[None] / np.float32(reduction), view_box.size_px)
    return crops[0].contiguous()


def _read(images: ImageTable, image_id: int, reduction: int) -> UInt8[ndarray, "h w 3"]:
    path, size_wh = images.path(image_id), images.sizes_wh[image_id]
    image = load_image(path, None, reduction)
    if image.shape[1::-1] != reduced_size(size_wh, reduction):
        height, width, _ = load_image(path, None).shape
        raise ImageError(
            path, f"has {width}x{height} px, and had {size_wh[0]}x{size_wh[1]} when the images were scanned"
        )
    return image
