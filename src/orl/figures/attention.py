"""Where a backbone looks (the paper's supplementary Figure 2): heat maps, and several of them beside each other.

`attention_map` makes a map, `draw_attention_sheet` lays maps of several backbones over several images; `localisation`
scores maps against known objects.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import matplotlib.patheffects as effects
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy import ndarray
from PIL import Image
from torch import Tensor, nn

from orl.figures.pictures import TITLE_COLOUR, image_axes
from orl.figures.sheets import shorten_to_fit
from orl.networks.backbones import pool
from orl.views.augment import normalise

Reduction = Literal["magnitude", "component", "similarity"]
REDUCTIONS: dict[Reduction, str] = {
    "magnitude": "mean magnitude of the channels",
    "component": "first principal component of the positions",
    "similarity": "cosine of each position to the pooled embedding",
}
"""What each takes of the feature map."""
STRIDE_PX = 32
THRESHOLD = 0.6
COLOUR_MAP = "viridis"
OPACITY = 0.62
SHEET_CELL_IN, SHEET_GAP_IN, SCALE_IN = 2.2, 0.06, 0.42
COLUMN_TITLE_IN, CAPTION_LINE_IN = 0.26, 0.17
COLUMN_TITLE_PT = 10
OUTLINE = effects.withStroke(linewidth=3, foreground="#00000090")


def attention_map(
    backbone: nn.Module,
    image: UInt8[ndarray, "h w 3"],
    long_side_px: int = 448,
    device: torch.device | str = "cpu",
    reduction: Reduction = "magnitude",
) -> Float[ndarray, "h w"]:
    """The last feature map, reduced over channels, upsampled (bicubic) over the image, stretched to [0, 1].

    Every map is stretched by itself, from the least to the greatest value over this one image: networks differ in
    the unit of their features, so that values of two maps, or of one network over two images, compare in rank only.

    Args:
        backbone: a frozen network in evaluation mode, from images normalised as ours to feature maps of any stride; it
            is moved to the device.
        image: as decoded.
        long_side_px: the image is resized so that its longer side has this many pixels, both sides rounded to
            whole positions of a feature map of stride 32. Twice the training view's side shows objects at about the
            size they had in training.
        device: where the network runs.
        reduction: as `reduce_feature_map`.

    Returns:
        In [0, 1], 0 at this image's least and 1 at its greatest value; 0 everywhere if all are equal.

    Raises:
        ValueError: if the backbone is in training mode, or the side is below one position.
    """
    if backbone.training:
        name = getattr(backbone, "name", type(backbone).__name__)
        raise ValueError(f"attention_map got {name} in training mode; call backbone.eval() first")
    if long_side_px < STRIDE_PX:
        raise ValueError(f"attention_map got long_side_px {long_side_px}; take {STRIDE_PX} or more")
    resized = Image.fromarray(image).resize(_network_size_wh(image, long_side_px), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].to(device)
    with torch.inference_mode():
        reduced = reduce_feature_map(backbone.to(device)(normalise(pixels))[0].float(), reduction)
        upsampled = F.interpolate(reduced[None, None], size=image.shape[:2], mode="bicubic", align_corners=False)
    return _stretch(upsampled[0, 0].cpu().numpy())


def reduce_feature_map(feature_map: Float[Tensor, "c h w"], reduction: Reduction) -> Float[Tensor, "h w"]:
    """One value a position.

    Args:
        feature_map: of one image.
        reduction: 'magnitude', the mean of the channels' magnitudes; 'component', how far a position lies along the
            direction in which the positions differ most, the mean of all positions being 0; its sign, which no
            decomposition tells, is the one by which the value rises with the magnitude over the positions, or where it
            does neither, by which fewer positions are above 0; 'similarity', the cosine to the pooled embedding, which
            is the mean over the positions.
    """
    if reduction == "magnitude":
        return feature_map.abs().mean(dim=0)
    if reduction == "similarity":
        return F.cosine_similarity(feature_map, pool(feature_map[None])[0, :, None, None], dim=0)
    return _first_component(feature_map)


def draw_attention_sheet(
    images: Sequence[UInt8[ndarray, "_ _ 3"]],
    maps: Mapping[str, Sequence[Float[ndarray, "_ _"]]],
    captions: Sequence[str] = (),
    threshold: float = THRESHOLD,
    dpi: int = 110,
) -> Figure:
    """A row for each image, a column for each backbone, one colour scale for all.

    Args:
        images: as decoded, or smaller.
        maps: label of each backbone -> its map of each image, in the image's size.
        captions: lines below all, on what is shown.
        threshold: where the outlines run, in (0, 1).
        dpi: resolution of a PNG, pixels an inch.
    """
    heights_in = [min(SHEET_CELL_IN * image.shape[0] / image.shape[1], SHEET_CELL_IN) for image in images]
    num_columns = len(maps) + 1
    width_in = num_columns * (SHEET_CELL_IN + SHEET_GAP_IN) + SCALE_IN
    below_in = SHEET_GAP_IN + CAPTION_LINE_IN * len(captions)
    height_in = COLUMN_TITLE_IN + sum(heights_in) + SHEET_GAP_IN * (len(images) - 1) + below_in
    figure = Figure(figsize=(width_in, height_in), dpi=dpi)
    top_in = height_in - COLUMN_TITLE_IN
    for row, (image, shown_in) in enumerate(zip(images, heights_in)):
        top_in -= shown_in
        for column, label in enumerate(["image", *maps]):
            width = min(SHEET_CELL_IN, shown_in * image.shape[1] / image.shape[0])
            left_in = column * (SHEET_CELL_IN + SHEET_GAP_IN) + (SHEET_CELL_IN - width) / 2
            place = (left_in / width_in, top_in / height_in, width / width_in, shown_in / height_in)
            axes = image_axes(figure, *place, "" if row else shorten_to_fit(label, SHEET_CELL_IN, COLUMN_TITLE_PT))
            if column:
                overlay_heat_map(axes, image, maps[label][row], threshold)
            else:
                axes.imshow(image)
        top_in -= SHEET_GAP_IN
    scale_in = min(sum(heights_in), 2 * SHEET_CELL_IN)
    bottom_in = height_in - COLUMN_TITLE_IN - scale_in
    left_in = num_columns * (SHEET_CELL_IN + SHEET_GAP_IN)
    _add_scale(
        figure.add_axes((left_in / width_in, bottom_in / height_in, 0.12 / width_in, scale_in / height_in)), threshold
    )
    for line, caption in enumerate(reversed(captions)):
        y_in = CAPTION_LINE_IN * (line + 0.35)
        figure.text(0, y_in / height_in, caption, fontsize=8, color=TITLE_COLOUR, parse_math=False)
    return figure


def overlay_heat_map(axes: Axes, image: ndarray, attention: ndarray, threshold: float = THRESHOLD) -> None:
    """The map in colours over the image in grey, of one size, with the outline of a level."""
    axes.imshow(image.mean(axis=2), cmap="gray", vmin=0, vmax=255)
    axes.imshow(attention, cmap=COLOUR_MAP, vmin=0, vmax=1, alpha=OPACITY)
    if attention.min() < threshold < attention.max():
        outline = axes.contour(attention, levels=[threshold], colors="white", linewidths=1.4)
        outline.set_path_effects([OUTLINE])


def _add_scale(axes: Axes, threshold: float) -> None:
    """The colours as they look over medium gray."""
    axes.set_facecolor("#808080")
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), COLOUR_MAP), cax=axes, ticks=[0, threshold, 1], alpha=OPACITY)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)


def _first_component(feature_map: Float[Tensor, "c h w"]) -> Float[Tensor, "h w"]:
    """Positions along their first principal direction, from the inner products of the positions, which are few."""
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


def _network_size_wh(image: ndarray, long_side_px: int) -> tuple[int, int]:
    height, width = image.shape[:2]
    scale = long_side_px / max(height, width)
    positions = [max(1, round(side * scale / STRIDE_PX)) for side in (width, height)]
    return positions[0] * STRIDE_PX, positions[1] * STRIDE_PX


def _stretch(values: ndarray) -> ndarray:
    low, high = float(values.min()), float(values.max())
    # Interpolating equal values leaves rounding noise, which stretching would blow up to a full scale.
    if high - low <= 1e-5 * abs(high):
        return np.zeros_like(values)
    return (values - low) / (high - low)
