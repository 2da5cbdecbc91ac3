"""From where views lie to their pixels: every photo of a sample is read once and all its crops are cut, as uint8."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from orl.images.colour import ColourParameters
from orl.images.crops import cut_boxes
from orl.images.decode import REDUCTIONS, PhotoError, load_photo, reduced_size
from orl.images.table import ImageTable


class Placement(NamedTuple):
    """Where a view is cut, and what is to happen to its colours."""

    image_id: int
    box: Float[ndarray, "4"]
    """xyxy, pixels of the photo as the table of images knows it."""
    size_px: int
    """Side of the square that the box is resized to."""
    colours: ColourParameters


class View(NamedTuple):
    """A crop and what is to happen to its colours; in a batch, every field has a leading dimension."""

    crop: UInt8[Tensor, "*n 3 s s"]
    colours: ColourParameters


Placements = dict[str, Placement]
"""Where the views of one sample lie, by name."""
Sample = dict[str, View]
"""The views of one photo, or of a batch of photos, by name."""


def cut_views(images: ImageTable, placements: Placements) -> Sample:
    """Read the photos that the views lie in, each once, and cut them.

    A photo of which all crops are made smaller is read at half, a quarter or an eighth of its size, if that still
    gives every crop as many pixels as its view has. One of a pack is small already, and read as it is.

    Raises:
        PhotoError: if a photo cannot be read, or has another size than it had when the photos were scanned.
    """
    placed: dict[int, list[Placement]] = {}
    for placement in placements.values():
        placed.setdefault(placement.image_id, []).append(placement)
    # So that a pack gives the same views wherever it is held: on disk, in memory or on the device.
    whole = images.packed is not None
    reductions = {image_id: 1 if whole else largest_reduction(some) for image_id, some in placed.items()}
    photos = {image_id: _read(images, image_id, reduction) for image_id, reduction in reductions.items()}
    return {
        name: View(_cut(photos[placement.image_id], placement, reductions[placement.image_id]), placement.colours)
        for name, placement in placements.items()
    }


def largest_reduction(placements: Iterable[Placement]) -> int:
    """By how much the photo of these views can be reduced, so that none of them has to be enlarged for it."""
    pixels_per_pixel = min(min(box[2] - box[0], box[3] - box[1]) / size_px for _, box, size_px, _ in placements)
    return max((reduction for reduction in REDUCTIONS if reduction <= pixels_per_pixel), default=1)


def _cut(photo: UInt8[ndarray, "h w 3"], placement: Placement, reduction: int) -> UInt8[Tensor, "3 s s"]:
    crops = cut_boxes(photo, placement.box[None] / np.float32(reduction), placement.size_px)
    return crops[0].contiguous()


def _read(images: ImageTable, image_id: int, reduction: int) -> UInt8[ndarray, "h w 3"]:
    path, size_wh = images.path(image_id), images.sizes_wh[image_id]
    photo = load_photo(path, None, reduction)
    if photo.shape[1::-1] != reduced_size(size_wh, reduction):
        height, width, _ = load_photo(path, None).shape
        raise PhotoError(
            path, f"has {width}x{height} px, and had {size_wh[0]}x{size_wh[1]} when the photos were scanned"
        )
    return photo
