"""Heat maps in a page: one picture per map beside the image, and the scale of their colours."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Chart
from numpy import ndarray
from PIL import Image

from orl.figures.attention import COLOUR_MAP, OPACITY, overlay_heat_map
from orl.figures.pictures import Picture, data_uri, encode_jpeg, image_axes, render_pixels
from orl.report.content import Figure, Panel
from orl.report.overlays import overlay_boxes
from orl.report.thumbnails import LONG_SIDE_PX, Thumbnail

MAX_BYTES = 60_000
DPI = 110
GREY = 0.5
NUM_COLOURS = 24


def heat_map_figure(
    thumbnail: Thumbnail, name: str, image: UInt8[ndarray, "h w 3"], maps: Mapping[str, Float[ndarray, "h w"]]
) -> Figure:
    """Show an image and, beside it, each map over it.

    Args:
        thumbnail: thumbnail of the image.
        name: name of the image.
        image: pixels as decoded.
        maps: label of each backbone -> its map of this image.
    """
    panels = [Panel(picture=overlay_boxes(thumbnail), alt=name, label="image")]
    for label, attention in maps.items():
        pixels = _overlaid(image, attention)
        uri = data_uri("image/jpeg", encode_jpeg(pixels, MAX_BYTES, subsampling=0))
        picture = Picture(uri=uri, width_px=pixels.shape[1], height_px=pixels.shape[0])
        panels.append(Panel(picture=picture, alt=f"{name}, with the heat map of {label} over it", label=label))
    return Figure(panels=panels, caption=f"{name}: image, {', '.join(maps)}", layout="row maps")


def colour_scale() -> list[str]:
    """Return the colours from the least to the greatest value, as they appear over medium grey."""
    shades = matplotlib.colormaps[COLOUR_MAP](np.linspace(0, 1, NUM_COLOURS))[:, :3] * OPACITY + GREY * (1 - OPACITY)
    return [to_hex(shade) for shade in shades]


def _overlaid(image: UInt8[ndarray, "h w 3"], attention: Float[ndarray, "h w"]) -> UInt8[ndarray, "_ _ 3"]:
    """Draw a map over an image at the size of the largest thumbnail: the outline is thin on small images too."""
    height, width = image.shape[:2]
    scale = LONG_SIDE_PX / max(height, width)
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    chart = Chart(figsize=(size_wh[0] / DPI, size_wh[1] / DPI), dpi=DPI)
    small = np.asarray(Image.fromarray(image).resize(size_wh, Image.Resampling.LANCZOS))
    heat_map = np.asarray(Image.fromarray(attention.astype(np.float32)).resize(size_wh, Image.Resampling.BILINEAR))
    overlay_heat_map(image_axes(chart, 0, 0, 1, 1), small, heat_map)
    return render_pixels(chart)
