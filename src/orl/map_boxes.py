"""Boxes from the feature maps of a network: several objects of an image, as LOST finds one, without a download."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray
from torch import Tensor

from orl.datasets.packs import PackedImage
from orl.discovery.lost import centred_units, find_objects
from orl.embed import Encode, ImageWorkers
from orl.views.augment import normalise
from orl.views.crops import resize_short_side

SHORT_SIDES_PX = (320, 480)
"""Short sides of the image at which it passes the network."""
THRESHOLDS = (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4)
"""Cosines of centred features above which patches are similar: low ones give large boxes, high ones small boxes."""
MAX_OBJECTS = 20
"""Most objects at one size and threshold."""
EXPANSION_FRACTION = 0.3
"""Patches of lowest degree that may join a seed, as a fraction of all; LOST's 100 are that of some 300."""
MAP_BOXES_VERSION = 1
"""Version of these numbers and of the search; increased when it gives different boxes."""

ResizedImages = tuple[list[UInt8[Tensor, "1 3 _ _"]], tuple[int, int]]
"""An image at each short side, and the width and height that it had."""


def boxes_on_maps(
    encode: Encode,
    paths: Sequence[Path | PackedImage],
    *,
    device: torch.device,
    workers: ImageWorkers,
    report: Callable[[int], object],
) -> Iterator[Float32[ndarray, "_ 4"]]:
    """Find boxes of images on their feature maps.

    Args:
        encode: the frozen network on the device, from normalised images to feature maps.
        paths: the images.
        device: device to compute on.
        workers: processes that read and resize.
        report: called with the number of images just finished.

    Yields:
        Boxes `xyxy` of one image, in its pixels, in the order of the images.

    Raises:
        ImageError: if an image cannot be read.
    """
    for resized in workers.apply(paths, [at_short_sides] * len(paths)):
        yield find_boxes_on_maps(encode, resized, device)
        report(1)


def at_short_sides(image: UInt8[ndarray, "h w 3"]) -> ResizedImages:
    """Resize an image to each short side."""
    resized = [resize_short_side(image, short_px) for short_px in SHORT_SIDES_PX]
    return resized, (image.shape[1], image.shape[0])


def find_boxes_on_maps(encode: Encode, resized: ResizedImages, device: torch.device) -> Float32[ndarray, "_ 4"]:
    """Find boxes of one image: of all sizes and thresholds, the large ones of the smaller size first, each once."""
    images, size_wh = resized
    parts = []
    for image in images:
        with torch.inference_mode():
            views = normalise(image.to(device)).contiguous(memory_format=torch.channels_last)
            (feature_map,) = encode(views).float().cpu()
        parts.append(_boxes_of_map(feature_map, size_wh))
    boxes = np.concatenate(parts)
    _, firsts = np.unique(boxes, axis=0, return_index=True)
    return boxes[np.sort(firsts)]


def _boxes_of_map(feature_map: Float[Tensor, "d i j"], size_wh: tuple[int, int]) -> Float32[ndarray, "_ 4"]:
    height, width = feature_map.shape[1:]
    boxes = find_objects(
        centred_units(feature_map),
        (height, width),
        num_expansion=max(1, int(EXPANSION_FRACTION * height * width)),
        thresholds=THRESHOLDS,
        max_objects=MAX_OBJECTS,
    )
    return boxes.numpy().astype(np.float32) * np.array([size_wh[0] / width, size_wh[1] / height] * 2, dtype=np.float32)
