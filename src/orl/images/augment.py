"""Colour, batched on the device: every view by its own parameters, drawn beforehand in a worker."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from orl.images.colour import JITTER_ORDERS, ColourParameters

Images = Float[Tensor, "n 3 h w"]
Factor = Float[Tensor, "n"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SOLARISE_THRESHOLD = 128 / 255
BLUR_RADIUS_SIGMAS = 3


def augment(
    crops: UInt8[Tensor, "n 3 h w"], parameters: ColourParameters, device: torch.device
) -> Float[Tensor, "n 3 h w"]:
    """Crops as the network sees them: flipped, recoloured, blurred, solarised, normalised.

    Args:
        crops: what the workers cut; may be on the CPU or on the device already.
        parameters: one draw a crop, on the CPU (which crops an operation concerns is decided there, so that
            the device never waits).
        device: where to compute.

    Returns:
        Normalised views, float32, on the device.
    """
    images = crops.to(device, non_blocking=True).float() / 255
    _update_where(images, torch.as_tensor(parameters.flip), lambda x, _: x.flip(-1))
    images = _jitter(images, parameters)
    _update_where(images, torch.as_tensor(parameters.gray), lambda x, _: gray(x).expand_as(x))
    sigma = torch.as_tensor(parameters.blur_sigma_px)
    _update_where(images, sigma > 0, gaussian_blur, sigma)
    _update_where(images, torch.as_tensor(parameters.solarise), lambda x, _: solarise(x))
    return _standardise(images)


def normalise(crops: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Plain crops as the network sees them: in [0, 1], less ImageNet's mean, over its deviation."""
    return _standardise(crops.float() / 255)


def gray(images: Images) -> Float[Tensor, "n 1 h w"]:
    """Luma by ITU-R 601."""
    red, green, blue = images.unbind(dim=1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


def adjust_brightness(images: Images, factor: Factor) -> Images:
    """Blend with black."""
    return _blend(images, torch.zeros_like(images[:, :1]), factor)


def adjust_contrast(images: Images, factor: Factor) -> Images:
    """Blend with the photo's mean luma."""
    return _blend(images, gray(images).mean(dim=(2, 3), keepdim=True), factor)


def adjust_saturation(images: Images, factor: Factor) -> Images:
    """Blend with the gray photo."""
    return _blend(images, gray(images), factor)


def adjust_hue(images: Images, shift: Factor) -> Images:
    """Turn the colour circle by a share of a full turn."""
    hue, saturation, value = _rgb_to_hsv(images)
    return _hsv_to_rgb((hue + shift[:, None, None]) % 1.0, saturation, value)


def gaussian_blur(images: Images, sigma_px: Factor) -> Images:
    """Blur each photo by its own sigma; edges are mirrored, the kernel ends at three of the largest sigma."""
    n, _, height, width = images.shape
    radius = max(1, math.ceil(BLUR_RADIUS_SIGMAS * float(sigma_px.max())))
    radius = min(radius, height - 1, width - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma_px.to(images)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)
    stacked = F.pad(images, [radius] * 4, mode="reflect").reshape(1, n * 3, height + 2 * radius, -1)
    stacked = F.conv2d(stacked, kernel[:, None, :, None], groups=n * 3)
    stacked = F.conv2d(stacked, kernel[:, None, None, :], groups=n * 3)
    return stacked.reshape(n, 3, height, width)


def solarise(images: Images) -> Images:
    """Invert the values of 128 (of 255) and more."""
    return torch.where(images >= SOLARISE_THRESHOLD, 1 - images, images)


_JITTERS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    adjust_hue,
)


def _jitter(images: Images, parameters: ColourParameters) -> Images:
    factors = [
        torch.as_tensor(values)
        for values in (parameters.brightness, parameters.contrast, parameters.saturation, parameters.hue)
    ]
    orders = torch.tensor(JITTER_ORDERS)[torch.as_tensor(parameters.jitter_order)]
    changed = torch.stack([factors[0] != 1, factors[1] != 1, factors[2] != 1, factors[3] != 0], dim=1)
    for position in range(len(_JITTERS)):
        for index, jitter in enumerate(_JITTERS):
            concerned = (orders[:, position] == index) & changed[:, index]
            _update_where(images, concerned, jitter, factors[index])
    return images


def _update_where(
    images: Images,
    concerned: Tensor,
    change: Callable[[Tensor, Tensor], Tensor],
    factor: Tensor | None = None,
) -> None:
    rows = concerned.nonzero().flatten()
    if len(rows) == 0:
        return
    chosen = (factor if factor is not None else concerned)[rows].to(images.device, images.dtype)
    rows = rows.to(images.device)
    images[rows] = change(images[rows], chosen)


def _blend(images: Images, other: Tensor, factor: Factor) -> Images:
    factor = factor[:, None, None, None]
    return (factor * images + (1 - factor) * other).clamp(0, 1)


def _standardise(images: Images) -> Images:
    mean = images.new_tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = images.new_tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return (images - mean) / std


def _rgb_to_hsv(images: Images) -> tuple[Tensor, Tensor, Tensor]:
    red, green, blue = images.unbind(dim=1)
    value, least = images.max(dim=1).values, images.min(dim=1).values
    spread = value - least
    safe_spread = torch.where(spread == 0, torch.ones_like(spread), spread)
    saturation = spread / torch.where(value == 0, torch.ones_like(value), value)
    sector = torch.where(
        value == red,
        (green - blue) / safe_spread,
        torch.where(value == green, 2 + (blue - red) / safe_spread, 4 + (red - green) / safe_spread),
    )
    return (sector / 6) % 1.0, saturation, value


def _hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Images:
    channels = []
    for offset in (5, 3, 1):
        position = (offset + hue * 6) % 6
        channels.append(value - value * saturation * torch.minimum(position, 4 - position).clamp(0, 1))
    return torch.stack(channels, dim=1)
