"""Rendering of figures to pixels, and encoding of pictures for an HTML page (data URIs)."""

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
    """An encoded picture and its size in pixels, which a page needs for its layout before it decodes the picture."""

    uri: str
    width_px: int
    height_px: int
    is_chart: bool = False
    """Whether it has lines and text on white, which may be shown inverted on a dark page."""


def image_axes(figure: Figure, left: float, bottom: float, width: float, height: float, title: str = "") -> Axes:
    """Add axes for an image, without frame and ticks; their position is in fractions of the figure."""
    axes = figure.add_axes((left, bottom, width, height))
    axes.set_axis_off()
    axes.set_title(title, fontsize=10, color=TITLE_COLOUR, pad=4, parse_math=False)
    return axes


def render_pixels(figure: Figure) -> UInt8[ndarray, "h w 3"]:
    """Draw the figure on white and return its pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def as_jpeg(figure: Figure) -> Picture:
    """Encode a figure of images, with colour at full resolution so that thin coloured lines stay sharp."""
    pixels = render_pixels(figure)
    data = encode_jpeg(pixels, MAX_FIGURE_BYTES, subsampling=0)
    return Picture(uri=data_uri("image/jpeg", data), width_px=pixels.shape[1], height_px=pixels.shape[0])


def encode_jpeg(pixels: UInt8[ndarray, "h w 3"], max_bytes: int, subsampling: int = 2) -> bytes:
    """Encode a JPEG of the highest quality within a number of bytes, or of the lowest quality tried.

    Args:
        pixels: RGB.
        max_bytes: limit on the size of the file.
        subsampling: 0 for colour at full resolution, 2 for a quarter of it.
    """
    data = b""
    for quality in JPEG_QUALITIES:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=subsampling, optimize=True)
        data = buffer.getvalue()
        if len(data) <= max_bytes:
            break
    return data


def as_svg(figure: Figure) -> Picture:
    """Encode a chart, sharp at any size; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "orl"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    width_in, height_in = figure.get_size_inches()
    return Picture(
        uri=data_uri("image/svg+xml", buffer.getvalue()),
        width_px=round(width_in * 96),
        height_px=round(height_in * 96),
        is_chart=True,
    )


def data_uri(media_type: str, data: bytes) -> str:
    """Return a file as a `data:` address, which contains its bytes."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
