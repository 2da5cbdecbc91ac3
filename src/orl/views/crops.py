"""Crops of an image: random boxes, and the one way in which uint8 pixels are cut and resized."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

MAX_CROP_ATTEMPTS = 10
RESIZE_PX, CROP_PX = 256, 224
"""Short side that an image is resized to before its centre is cropped, and side of that crop."""
RESAMPLING = "antialiased bilinear by torch; images resized, then cropped"
"""Version of the pixels that a network gets: what was computed from other pixels is stale."""
MAX_CENTRE_ASPECT_RATIO = 20
"""Long side over short side beyond which only the middle of an image is resized before its centre is cropped."""


def random_resized_crop(
    size_wh: tuple[int, int],
    area_range: tuple[float, float],
    aspect_ratio_range: tuple[float, float],
    generator: np.random.Generator,
) -> Float[ndarray, "4"]:
    """Sample a box of random area, aspect ratio and position.

    Args:
        size_wh: width and height of the image in pixels.
        area_range: smallest and largest fraction of the image's area.
        aspect_ratio_range: smallest and largest width over height, sampled log-uniformly.
        generator: source of randomness.

    Returns:
        The box in integer pixels; after ten samples that do not fit, the largest centred box of an allowed shape.

    Source:
        torchvision.transforms.RandomResizedCrop.get_params, the same distribution.
    """
    width, height = size_wh
    log_ratio_range = (math.log(aspect_ratio_range[0]), math.log(aspect_ratio_range[1]))
    for _ in range(MAX_CROP_ATTEMPTS):
        crop_area = width * height * generator.uniform(*area_range)
        ratio = math.exp(generator.uniform(*log_ratio_range))
        crop_width, crop_height = round(math.sqrt(crop_area * ratio)), round(math.sqrt(crop_area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(generator.integers(0, width - crop_width + 1))
            top = int(generator.integers(0, height - crop_height + 1))
            return np.array([left, top, left + crop_width, top + crop_height], dtype=np.float32)
    ratio = min(max(width / height, aspect_ratio_range[0]), aspect_ratio_range[1])
    crop_width, crop_height = round(min(width, height * ratio)), round(min(height, width / ratio))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return np.array([left, top, left + crop_width, top + crop_height], dtype=np.float32)


def resize(image: UInt8[ndarray, "h w 3"], size_hw: tuple[int, int]) -> UInt8[Tensor, "3 i j"]:
    """Resize an image by antialiased bilinear interpolation, the filter of the published pre-processing.

    Takes a third of the time of Pillow's filter. Rows are resized before columns. Pillow does the same up to version
    12; version 13 reverses the order for some sizes. In the same order one value in 300 differs, by one grey level or,
    rarely, by two.

    Args:
        image: the image.
        size_hw: height and width of the result.

    Returns:
        The pixels, channels last in memory.
    """
    return _resize(_pixels(image), size_hw)[0]


def centre_crop(image: UInt8[ndarray, "h w 3"], size_px: int) -> UInt8[Tensor, "1 3 s s"]:
    """Resize the short side of an image to 256/224 of a size, then crop a square of that size from the centre.

    Source:
        torchvision's `Resize(256)` and `CenterCrop(224)`, with their rounding.
    """
    # A strip of 100 megapixels would take gigabytes once its short side is 256 px.
    longest = MAX_CENTRE_ASPECT_RATIO * min(image.shape[:2])
    rows, columns = (slice(max(0, (side - longest) // 2), (side + longest) // 2) for side in image.shape[:2])
    resized = resize_short_side(image[rows, columns], _before_crop(size_px))
    top, left = (round((side - size_px) / 2) for side in resized.shape[2:])
    crop = resized[:, :, top : top + size_px, left : left + size_px]
    return crop.clone(memory_format=torch.channels_last)  # a loader worker would send the complete image


def resize_to_square(image: UInt8[ndarray, "h w 3"], size_px: int) -> UInt8[Tensor, "1 3 s s"]:
    """Resize the short side of an image to 256/224 of a size, then both sides to that size.

    Source:
        The published extraction of VOC07's features: torchvision's `Resize(256)` and `Resize((224, 224))`.
    """
    return _resize(resize_short_side(image, _before_crop(size_px)), (size_px, size_px))


def cut_boxes(image: UInt8[ndarray, "h w 3"], boxes: Float[ndarray, "b 4"], size_px: int) -> UInt8[Tensor, "b 3 s s"]:
    """Cut the pixels inside boxes, and resize each crop to a square.

    Args:
        image: the complete image.
        boxes: any number of boxes, also none. Each is first rounded to integer pixels inside the image, to at least one
            pixel. No pixel outside the box enters the crop.
        size_px: side of the squares.

    Returns:
        One crop per box, channels last in memory.

    Raises:
        ValueError: if a box lies outside the image.
    """
    pixels = _pixels(image)
    crops = torch.empty((len(boxes), size_px, size_px, 3), dtype=torch.uint8)
    for crop, box in zip(crops, boxes):
        left, top, right, bottom = round_to_pixels(box, (image.shape[1], image.shape[0]))
        resized = _resize(pixels[:, :, top:bottom, left:right], (size_px, size_px))
        crop.copy_(resized[0].permute(1, 2, 0))
    return crops.permute(0, 3, 1, 2)


def _pixels(image: UInt8[ndarray, "h w 3"]) -> UInt8[Tensor, "1 3 h w"]:
    return torch.from_numpy(np.require(image, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)


def _resize(pixels: UInt8[Tensor, "1 3 h w"], size_hw: tuple[int, int]) -> UInt8[Tensor, "1 3 i j"]:
    # torch resizes bytes in this layout by vector code, four times as fast as floats.
    return F.interpolate(pixels, size_hw, mode="bilinear", antialias=True)


def resize_short_side(image: UInt8[ndarray, "h w 3"], short_px: int) -> UInt8[Tensor, "1 3 i j"]:
    """Resize an image so that its short side has this length; the long side is rounded down."""
    height, width, _ = image.shape
    long_px = int(short_px * max(height, width) / min(height, width))
    return _resize(_pixels(image), (short_px, long_px) if height <= width else (long_px, short_px))


def _before_crop(crop_px: int) -> int:
    """Return the short side from which a crop of this size is taken."""
    return round(crop_px * RESIZE_PX / CROP_PX)


def round_to_pixels(box: Float[ndarray, "4"], size_wh: tuple[int, int]) -> tuple[int, int, int, int]:
    """Round a box to integer pixels inside the image; each side has at least one pixel.

    Returns:
        Left, top, right and bottom.

    Raises:
        ValueError: if the box lies outside the image.
    """
    width, height = size_wh
    left, top = int(min(max(round(float(box[0])), 0), width)), int(min(max(round(float(box[1])), 0), height))
    right = min(max(round(float(box[2])), left + 1), width)
    bottom = min(max(round(float(box[3])), top + 1), height)
    if left >= right or top >= bottom:
        raise ValueError(f"box {box.tolist()} lies outside its image of {width}x{height} px")
    return left, top, right, bottom
