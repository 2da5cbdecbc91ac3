"""Heat maps in a page: each a picture of its own beside the image, and the scale of their colours."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy import ndarray
from PIL import Image

from orl.figures.attention import COLOUR_MAP, OPACITY, overlay_heat_map
from orl.figures.pictures import Picture, data_uri, encode_jpeg, image_axes, render_pixels
from orl.report import html as page
from orl.report.html import Html
from orl.report.overlays import image_svg
from orl.report.thumbnails import LONG_SIDE_PX, Thumbnail

MAX_BYTES = 60_000
DPI = 110
GREY = 0.5
NUM_COLOURS = 24


def maps_figure(
    thumbnail: Thumbnail, name: str, image: UInt8[ndarray, "h w 3"], maps: Mapping[str, Float[ndarray, "h w"]]
) -> Html:
    """The image, then each map laid over it, under the name of its backbone.

    Args:
        thumbnail: of the image.
        name: of the image.
        image: as decoded.
        maps: label of each backbone -> its map of this image.
    """
    cells = [page.cell(image_svg(thumbnail, name), "image")]
    for label, attention in maps.items():
        pixels = _laid_over(image, attention)
        uri = data_uri("image/jpeg", encode_jpeg(pixels, MAX_BYTES, subsampling=0))
        picture = Picture(uri=uri, width_px=pixels.shape[1], height_px=pixels.shape[0])
        cells.append(page.cell(page.image(picture, f"{name}, with the heat map of {label} laid over it"), label))
    return page.captioned(page.join(*cells), f"{name}: image, {', '.join(maps)}", kind="row maps")


def colour_scale() -> Html:
    """The colours from the least to the greatest value, as they look over medium grey."""
    shades = matplotlib.colormaps[COLOUR_MAP](np.linspace(0, 1, NUM_COLOURS))[:, :3] * OPACITY + GREY * (1 - OPACITY)
    each = "".join(
        f'<rect x="{index}" width="1.05" height="1" fill="{to_hex(shade)}"/>' for index, shade in enumerate(shades)
    )
    bar = f'<svg viewBox="0 0 {NUM_COLOURS} 1" preserveAspectRatio="none" aria-hidden="true">{each}</svg>'
    return Html(f'<p class="scale"><span>least</span>{bar}<span>greatest value of each map</span></p>')


def _laid_over(image: UInt8[ndarray, "h w 3"], attention: Float[ndarray, "h w"]) -> UInt8[ndarray, "_ _ 3"]:
    """As large as the largest thumbnail, also of a small image, so that the outline stays thin."""
    height, width = image.shape[:2]
    scale = LONG_SIDE_PX / max(height, width)
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    figure = Figure(figsize=(size_wh[0] / DPI, size_wh[1] / DPI), dpi=DPI)
    small = np.asarray(Image.fromarray(image).resize(size_wh, Image.Resampling.LANCZOS))
    heat = np.asarray(Image.fromarray(attention.astype(np.float32)).resize(size_wh, Image.Resampling.BILINEAR))
    overlay_heat_map(image_axes(figure, 0, 0, 1, 1), small, heat)
    return render_pixels(figure)
