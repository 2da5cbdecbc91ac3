"""From a figure to a picture that can lie inside a page: drawn off screen, encoded as a data URI."""

import base64
import io
from dataclasses import dataclass

import matplotlib
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy import ndarray
from PIL import Image

JPEG_QUALITIES = (84, 74, 60, 45, 30, 15)
MAX_FIGURE_BYTES = 350_000
TITLE_COLOUR = "#3a3d42"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An encoded picture and its size in pixels, which a page needs to lay it out before it is decoded."""

    uri: str
    width_px: int
    height_px: int
    is_chart: bool = False
    """Lines and words on white, which may be shown on black."""


def image_axes(figure: Figure, left: float, bottom: float, width: float, height: float, title: str = "") -> Axes:
    """A place for an image, without frame and ticks; where it lies in shares of the figure."""
    axes = figure.add_axes((left, bottom, width, height))
    axes.set_axis_off()
    axes.set_title(title, fontsize=10, color=TITLE_COLOUR, pad=4, parse_math=False)
    return axes


def render_pixels(figure: Figure) -> UInt8[ndarray, "h w 3"]:
    """The figure's pixels on white."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def as_jpeg(figure: Figure) -> Picture:
    """For images: colour at full resolution, so that thin coloured lines stay sharp."""
    pixels = render_pixels(figure)
    data = encode_jpeg(pixels, MAX_FIGURE_BYTES, subsampling=0)
    return Picture(uri=data_uri("image/jpeg", data), width_px=pixels.shape[1], height_px=pixels.shape[0])


def encode_jpeg(pixels: UInt8[ndarray, "h w 3"], max_bytes: int, subsampling: int = 2) -> bytes:
    """A JPEG of the best quality that has at most so many bytes, or of the least quality that is tried.

    Args:
        pixels: RGB.
        max_bytes: of the file.
        subsampling: 0 for colour at full resolution, 2 for a quarter of it.
    """
    data = b""
    for quality in JPEG_QUALITIES:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling, optimize=True)
        data = file.getvalue()
        if len(data) <= max_bytes:
            break
    return data


def as_svg(figure: Figure) -> Picture:
    """For charts: sharp at any size, the same bytes for the same figure."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "orl"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    width_in, height_in = figure.get_size_inches()
    return Picture(
        uri=data_uri("image/svg+xml", file.getvalue()),
        width_px=round(width_in * 96),
        height_px=round(height_in * 96),
        is_chart=True,
    )


def data_uri(media_type: str, data: bytes) -> str:
    """A file as an address that holds it."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
