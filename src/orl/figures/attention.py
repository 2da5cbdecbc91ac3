"""Where a backbone looks (the paper's supplementary Figure 2): heat maps of several over one photo."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import matplotlib.patheffects as effects
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy import ndarray
from PIL import Image

from orl.figures.pictures import panel
from orl.images.augment import normalise
from orl.networks.backbones import Backbone

STRIDE_PX = 32
THRESHOLD = 0.6
COLOUR_MAP = "viridis"
OUTLINE = effects.withStroke(linewidth=3, foreground="#00000090")


def attention_map(
    backbone: Backbone,
    photo: UInt8[ndarray, "h w 3"],
    long_side_px: int = 448,
    device: torch.device | str = "cpu",
) -> Float[ndarray, "h w"]:
    """The last feature map, reduced over channels to the mean magnitude, upsampled (bicubic) over the photo.

    Args:
        backbone: a frozen network in evaluation mode; it is moved to the device.
        photo: as decoded.
        long_side_px: the photo is resized so that its longer side has this many pixels, both sides rounded to
            whole positions of the feature map. Twice the training view's side shows objects at about the size
            they had in training.
        device: where the network runs.

    Returns:
        In [0, 1], 0 at this photo's least and 1 at its greatest magnitude; 0 everywhere if all are equal.

    Raises:
        ValueError: if the backbone is in training mode, or the side is below one position.
    """
    if backbone.training:
        raise ValueError(f"attention_map got {backbone.name} in training mode; call backbone.eval() first")
    if long_side_px < STRIDE_PX:
        raise ValueError(f"attention_map got long_side_px {long_side_px}; take {STRIDE_PX} or more")
    resized = Image.fromarray(photo).resize(_network_size_wh(photo, long_side_px), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].to(device)
    with torch.inference_mode():
        magnitude = backbone.to(device)(normalise(pixels)).float().abs().mean(dim=1, keepdim=True)
        upsampled = F.interpolate(magnitude, size=photo.shape[:2], mode="bicubic", align_corners=False)
    return _stretch(upsampled[0, 0].cpu().numpy())


def attention_overlap(attention: Float[ndarray, "h w"], boxes: Shaped[ndarray, "b 4"]) -> float:
    """The share of the map's sum that lies inside the objects' boxes; chance is their share of the photo."""
    total = float(attention.sum(dtype=np.float64))
    return float(attention[_inside(attention.shape, boxes)].sum(dtype=np.float64)) / total if total > 0 else 0.0


def points_at_object(attention: Float[ndarray, "h w"], boxes: Shaped[ndarray, "b 4"]) -> bool:
    """The pointing game: does the map's peak lie inside one of the objects' boxes?"""
    return bool(_inside(attention.shape, boxes).flat[int(np.argmax(attention))])


@dataclass(frozen=True, kw_only=True)
class AttentionScore:
    """How well heat maps lie on labelled objects, over some photos."""

    pointing_share: float
    """Photos whose peak lies inside an object's box."""
    inside_share: float
    """Mean share of a map's sum that lies inside the boxes."""
    box_share: float
    """Mean share of a photo that the boxes take: what both would be by chance."""
    num_photos: int


def score_attention(
    maps: Iterable[Float[ndarray, "_ _"]], photo_boxes: Iterable[Shaped[ndarray, "_ 4"]]
) -> AttentionScore:
    """Compare heat maps with the boxes of their photos.

    Args:
        maps: one a photo.
        photo_boxes: the objects of each photo, at least one.

    Raises:
        ValueError: if there is no photo.
    """
    rows = [
        (
            points_at_object(attention, boxes),
            attention_overlap(attention, boxes),
            _inside(attention.shape, boxes).mean(),
        )
        for attention, boxes in zip(maps, photo_boxes)
    ]
    if not rows:
        raise ValueError("score_attention got 0 photos; give some with objects")
    pointing_share, inside_share, box_share = np.mean(np.array(rows, dtype=np.float64), axis=0).tolist()
    return AttentionScore(
        pointing_share=pointing_share, inside_share=inside_share, box_share=box_share, num_photos=len(rows)
    )


def draw_attention(
    photo: UInt8[ndarray, "h w 3"], maps: Mapping[str, Float[ndarray, "h w"]], width_in: float = 9.0
) -> Figure:
    """The photo, then each map laid over it, on one colour scale; the outline is the level of 0.6.

    Args:
        photo: as decoded.
        maps: label of each backbone -> its map of this photo.
        width_in: width of the figure.
    """
    num_panels, gap, right, top_in = len(maps) + 1, 0.012, 0.055, 0.28
    share = (1 - right - gap * (num_panels - 1)) / num_panels
    shown_in = share * width_in * photo.shape[0] / photo.shape[1]
    figure = Figure(figsize=(width_in, shown_in + top_in), dpi=120)
    height = shown_in / (shown_in + top_in)
    panel(figure, 0, 0, share, height, "photo").imshow(photo)
    for index, (label, attention) in enumerate(maps.items(), start=1):
        axes = panel(figure, index * (share + gap), 0, share, height, label)
        axes.imshow(photo.mean(axis=2), cmap="gray", vmin=0, vmax=255)
        axes.imshow(attention, cmap=COLOUR_MAP, vmin=0, vmax=1, alpha=0.62)
        if attention.min() < THRESHOLD < attention.max():
            outline = axes.contour(attention, levels=[THRESHOLD], colors="white", linewidths=1.4)
            outline.set_path_effects([OUTLINE])
    scale = figure.add_axes((1 - right + gap, 0.02, 0.014, height - 0.04))
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), COLOUR_MAP), cax=scale, ticks=[0, THRESHOLD, 1])
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)
    return figure


def _network_size_wh(photo: ndarray, long_side_px: int) -> tuple[int, int]:
    height, width = photo.shape[:2]
    scale = long_side_px / max(height, width)
    positions = [max(1, round(side * scale / STRIDE_PX)) for side in (width, height)]
    return positions[0] * STRIDE_PX, positions[1] * STRIDE_PX


def _stretch(values: ndarray) -> ndarray:
    low, high = float(values.min()), float(values.max())
    # Interpolating equal values leaves rounding noise, which stretching would blow up to a full scale.
    if high - low <= 1e-5 * abs(high):
        return np.zeros_like(values)
    return (values - low) / (high - low)


def _inside(shape: tuple[int, ...], boxes: ndarray) -> ndarray:
    mask = np.zeros(shape, dtype=bool)
    for x0, y0, x1, y1 in np.round(boxes).astype(int).clip(min=0):
        mask[y0:y1, x0:x1] = True
    return mask
