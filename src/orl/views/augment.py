"""Colour changes of a batch of views on a GPU, each view by its own parameters sampled in a worker.

The CPU never waits for the GPU: the rows that each operation changes are computed on the CPU before the transfer.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from orl.views.augment_cpu import augment_on_cpu
from orl.views.colour import (
    BLUR_RADIUS_SIGMAS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    JITTER_ORDERS,
    LUMA,
    SOLARISE_THRESHOLD,
    ColourParameters,
)

Images = Float[Tensor, "n 3 h w"]
Factor = Float[Tensor, "n"]


def augment(
    crops: UInt8[Tensor, "n 3 h w"], parameters: ColourParameters, device: torch.device
) -> Float[Tensor, "n 3 h w"]:
    """Augment crops: flip, colour jitter, gray, blur, solarise, normalise.

    A view depends on its own crop and parameters alone, not on the other views of the batch.

    Args:
        crops: crops from the loader, on the CPU or on the device.
        parameters: parameters of each crop, on the CPU.
        device: device of the computation: compiled loops on a CPU, batched operations on a GPU.

    Returns:
        Normalised views, float32, on the device, channels last in memory.
    """
    if device.type == "cpu":
        return augment_on_cpu(crops, parameters)
    return augment_batched(crops, parameters, device)


def augment_batched(
    crops: UInt8[Tensor, "n 3 h w"], parameters: ColourParameters, device: torch.device
) -> Float[Tensor, "n 3 h w"]:
    """Augment crops by batched operations, on any device; see `augment`."""
    images = crops.to(device, non_blocking=True).float() / 255
    steps = _steps(parameters)
    # One asynchronous transfer of all indices and factors: each transfer by itself would make the CPU wait.
    rows = torch.cat([rows for _, rows, _ in steps]).to(device, non_blocking=True)
    factors = torch.cat([factors for _, _, factors in steps]).float().to(device, non_blocking=True)
    counts = [len(rows) for _, rows, _ in steps]
    for (change, _, on_cpu), some, some_factors in zip(steps, rows.split(counts), factors.split(counts)):
        if len(some):
            images[some] = change(images[some], on_cpu if change is gaussian_blur else some_factors)
    return _standardise(images).contiguous(memory_format=torch.channels_last)


def normalise(crops: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Scale crops to [0, 1], subtract ImageNet's mean and divide by its standard deviation."""
    return _standardise(crops.float() / 255)


def gray(images: Images) -> Float[Tensor, "n 1 h w"]:
    """Compute the luma of images by ITU-R 601."""
    red, green, blue = images.unbind(dim=1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(1)


def adjust_brightness(images: Images, factor: Factor) -> Images:
    """Blend images with black."""
    return _blend(images, torch.zeros_like(images[:, :1]), factor)


def adjust_contrast(images: Images, factor: Factor) -> Images:
    """Blend images with their mean luma."""
    return _blend(images, gray(images).mean(dim=(2, 3), keepdim=True), factor)


def adjust_saturation(images: Images, factor: Factor) -> Images:
    """Blend images with their gray image."""
    return _blend(images, gray(images), factor)


def adjust_hue(images: Images, shift: Factor) -> Images:
    """Shift the hue by a fraction of the colour circle."""
    hue, saturation, value = _rgb_to_hsv(images)
    return _hsv_to_rgb((hue + shift[:, None, None]) % 1.0, saturation, value)


def gaussian_blur(images: Images, sigma_px: Factor) -> Images:
    """Blur each image by its own sigma, given on the CPU; edges are mirrored, the kernel ends at three sigma."""
    n, _, height, width = images.shape
    sigma = sigma_px.double()[:, None]
    radii = (BLUR_RADIUS_SIGMAS * sigma).ceil().clamp(max=min(height, width) - 1)
    radius = int(radii.max())
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.where(offsets.abs() <= radii, torch.exp(-0.5 * (offsets / sigma) ** 2), 0.0)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)
    kernel = kernel.to(images.dtype).to(images.device, non_blocking=True)
    stacked = F.pad(images, [radius] * 4, mode="reflect").reshape(1, n * 3, height + 2 * radius, -1)
    stacked = F.conv2d(stacked, kernel[:, None, :, None], groups=n * 3)
    stacked = F.conv2d(stacked, kernel[:, None, None, :], groups=n * 3)
    return stacked.reshape(n, 3, height, width)


def solarise(images: Images) -> Images:
    """Invert the values of 128 (of 255) and more."""
    return torch.where(images >= SOLARISE_THRESHOLD, 1 - images, images)


Change = Callable[[Tensor, Tensor], Tensor]
"""Function of some of the images and a factor for each; returns the changed images."""

_JITTERS: tuple[Change, ...] = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def _steps(parameters: ColourParameters) -> list[tuple[Change, Tensor, Tensor]]:
    """Return the operations in order: a change, the rows that it applies to, and their factors."""
    flip, order, *factors, is_gray, sigma, is_solarised = (torch.as_tensor(column) for column in parameters)
    steps: list[tuple[Change, Tensor, Tensor]] = [(_flip, flip, sigma)]
    for operations in torch.tensor(JITTER_ORDERS)[order].unbind(dim=1):
        for index, (jitter, factor) in enumerate(zip(_JITTERS, factors)):
            neutral = 0 if jitter is adjust_hue else 1
            steps.append((jitter, (operations == index) & (factor != neutral), factor))
    steps += [(_to_gray, is_gray, sigma), (gaussian_blur, sigma > 0, sigma), (_solarise, is_solarised, sigma)]
    return [(change, (rows := mask.nonzero().flatten()), factor[rows]) for change, mask, factor in steps]


def _flip(images: Images, _: Factor) -> Images:
    return images.flip(-1)


def _to_gray(images: Images, _: Factor) -> Images:
    return gray(images).expand_as(images)


def _solarise(images: Images, _: Factor) -> Images:
    return solarise(images)


def _blend(images: Images, other: Tensor, factor: Factor) -> Images:
    factor = factor[:, None, None, None]
    return (factor * images + (1 - factor) * other).clamp(0, 1)


def _standardise(images: Images) -> Images:
    mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD]).to(images, non_blocking=True).view(2, 1, 3, 1, 1)
    return (images - mean) / std


def _rgb_to_hsv(images: Images) -> tuple[Tensor, Tensor, Tensor]:
    red, green, blue = images.unbind(dim=1)
    value, least = images.max(dim=1).values, images.min(dim=1).values
    chroma = value - least
    safe_chroma = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    saturation = chroma / torch.where(value == 0, torch.ones_like(value), value)
    sector = torch.where(
        value == red,
        (green - blue) / safe_chroma,
        torch.where(value == green, 2 + (blue - red) / safe_chroma, 4 + (red - green) / safe_chroma),
    )
    return (sector / 6) % 1.0, saturation, value


def _hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Images:
    channels = []
    for offset in (5, 3, 1):
        position = (offset + hue * 6) % 6
        channels.append(value - value * saturation * torch.minimum(position, 4 - position).clamp(0, 1))
    return torch.stack(channels, dim=1)
