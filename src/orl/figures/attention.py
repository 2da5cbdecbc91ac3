"""Attention maps of a backbone (the paper's supplementary Figure 2): feature maps reduced to heat maps."""

from typing import Literal

import matplotlib.patheffects as effects
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from numpy import ndarray
from torch import Tensor, nn

from orl.networks.backbones import pool
from orl.views.augment import normalise
from orl.views.crops import resize

Reduction = Literal["magnitude", "component", "similarity"]
REDUCTIONS: dict[Reduction, str] = {
    "magnitude": "mean magnitude of the channels",
    "component": "first principal component of the positions",
    "similarity": "cosine of each position to the pooled embedding",
}
"""Description of each reduction of a feature map."""
STRIDE_PX = 32
THRESHOLD = 0.6
COLOUR_MAP = "viridis"
OPACITY = 0.62
MAP_OUTLINE = effects.withStroke(linewidth=3, foreground="#00000090")


def attention_map(
    backbone: nn.Module,
    image: UInt8[ndarray, "h w 3"],
    long_side_px: int = 448,
    device: torch.device | str = "cpu",
    reduction: Reduction = "magnitude",
) -> Float[ndarray, "h w"]:
    """Reduce the last feature map over its channels, upsample it (bicubic) to the image and stretch it to [0, 1].

    Each map is stretched from its own least to its own greatest value. Networks differ in the unit of their features,
    so that values of two maps can be compared by rank only.

    Args:
        backbone: a frozen network in evaluation mode, from normalised images to feature maps of any stride. It is moved
            to the device.
        image: the image at its full size.
        long_side_px: longer side of the image that the network sees. Both sides are rounded to multiples of 32 px.
            Twice the side of a training view shows objects at about the size they had in training.
        device: device that the network runs on.
        reduction: reduction of the feature map, see `reduce_feature_map`.

    Returns:
        Values in [0, 1], 0 at the least and 1 at the greatest; all 0 if all are equal.

    Raises:
        ValueError: if the backbone is in training mode, or the side is below 32 px.
    """
    if backbone.training:
        name = getattr(backbone, "name", type(backbone).__name__)
        raise ValueError(f"attention_map got {name} in training mode; call backbone.eval() first")
    if long_side_px < STRIDE_PX:
        raise ValueError(f"attention_map needs a long_side_px of at least {STRIDE_PX}, got {long_side_px}")
    pixels = resize(image, _network_size_hw(image, long_side_px))[None].to(device)
    with torch.inference_mode():
        reduced = reduce_feature_map(backbone.to(device)(normalise(pixels))[0].float(), reduction)
        upsampled = F.interpolate(reduced[None, None], size=image.shape[:2], mode="bicubic", align_corners=False)
    return _stretch(upsampled[0, 0].cpu().numpy())


def reduce_feature_map(feature_map: Float[Tensor, "c h w"], reduction: Reduction) -> Float[Tensor, "h w"]:
    """Reduce the channels of a feature map to one value per position.

    Args:
        feature_map: feature map of one image.
        reduction: 'magnitude': mean magnitude of the channels. 'component': projection on the first principal component
            of the positions, whose mean is 0; its sign is chosen so that the value rises with the magnitude, or if it
            does neither, so that fewer positions are above 0. 'similarity': cosine to the pooled embedding, the mean
            over the positions.
    """
    if reduction == "magnitude":
        return feature_map.abs().mean(dim=0)
    if reduction == "similarity":
        return F.cosine_similarity(feature_map, pool(feature_map[None])[0, :, None, None], dim=0)
    return _first_component(feature_map)


def overlay_heat_map(axes: Axes, image: ndarray, attention: ndarray, threshold: float = THRESHOLD) -> None:
    """Draw a map in colours over the image in grey, both of one size, with an outline at the threshold."""
    axes.imshow(image.mean(axis=2), cmap="gray", vmin=0, vmax=255)
    axes.imshow(attention, cmap=COLOUR_MAP, vmin=0, vmax=1, alpha=OPACITY)
    if attention.min() < threshold < attention.max():
        outline = axes.contour(attention, levels=[threshold], colors="white", linewidths=1.4)
        outline.set_path_effects([MAP_OUTLINE])


def _first_component(feature_map: Float[Tensor, "c h w"]) -> Float[Tensor, "h w"]:
    """Project positions on their first principal component, by the inner products of the few positions."""
    positions = feature_map.double().cpu().flatten(1).T
    centred = positions - positions.mean(dim=0)
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    along = vectors[:, -1] * values[-1].clamp(min=0).sqrt()
    magnitude = positions.abs().mean(dim=1)
    rises = float(along @ (magnitude - magnitude.mean()))
    # Rounding alone must not choose the sign.
    if abs(rises) <= 1e-9 * float(along.norm() * magnitude.norm()):
        rises = float((along <= 0).sum() - (along > 0).sum())
    return (along if rises >= 0 else -along).float().reshape(feature_map.shape[1:])


def _network_size_hw(image: ndarray, long_side_px: int) -> tuple[int, int]:
    height, width = image.shape[:2]
    scale = long_side_px / max(height, width)
    positions = [max(1, round(side * scale / STRIDE_PX)) for side in (height, width)]
    return positions[0] * STRIDE_PX, positions[1] * STRIDE_PX


def _stretch(values: ndarray) -> ndarray:
    low, high = float(values.min()), float(values.max())
    # Interpolating equal values leaves rounding noise, which stretching would amplify to the full range.
    if high - low <= 1e-5 * abs(high):
        return np.zeros_like(values)
    return (values - low) / (high - low)
