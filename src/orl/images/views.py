"""From where views lie to their pixels: every photo of a sample is read once and all its crops are cut, as uint8."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from orl.images.colour import ColourParameters
from orl.images.crops import cut
from orl.images.decode import PhotoError, load_photo
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

    Raises:
        PhotoError: if a photo cannot be read, or has another size than it had when the photos were scanned.
    """
    photos: dict[int, UInt8[ndarray, "h w 3"]] = {}
    sample: Sample = {}
    for name, placement in placements.items():
        if placement.image_id not in photos:
            photos[placement.image_id] = _read(images, placement.image_id)
        crop = cut(photos[placement.image_id], placement.box, placement.size_px)
        sample[name] = View(to_tensor(crop), placement.colours)
    return sample


def _read(images: ImageTable, image_id: int) -> UInt8[ndarray, "h w 3"]:
    path, (width, height) = images.path(image_id), images.sizes_wh[image_id]
    photo = load_photo(path)
    if photo.shape[:2] != (height, width):
        raise PhotoError(
            path, f"has {photo.shape[1]}x{photo.shape[0]} px, and had {width}x{height} when the photos were scanned"
        )
    return photo


def to_tensor(crop: UInt8[ndarray, "h w 3"]) -> UInt8[Tensor, "3 h w"]:
    """A crop with the channels first."""
    return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))
