"""Sheets: images in rows and columns, with captions below each."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from numpy import ndarray
from PIL import Image

from orl.figures.figure_files import check_at_least
from orl.figures.pictures import TITLE_COLOUR, image_axes

MAX_MEGAPIXELS = 60
CELL_IN, TALLEST_IN, GAP_IN, MARGIN_IN = 6.0, 3.0, 0.3, 0.2
TITLE_IN, LINE_IN = 0.4, 0.2
TITLE_PT, CAPTION_PT = 12, 8.5
POINTS_PER_IN = 72
NARROWEST_CAPTION_IN = 3.5
BADGE_IN, AFTER_TEXT_IN = 0.52, 0.1
TEXT_COLOUR = "#111111"


@dataclass(frozen=True, kw_only=True)
class SheetOptions:
    """The layout of a sheet and the choice of its images."""

    rows: int = 4
    """Most images below each other."""
    cols: int = 2
    """Most images side by side; each is 6 inches wide."""
    seed: int = 0
    """Seed of the random choices."""
    image: str | None = None
    """Show one image only: its name in the table of images, or the end of the name after a slash."""

    def __post_init__(self) -> None:
        check_at_least(self, rows=1, cols=1, seed=0)


@dataclass(frozen=True, kw_only=True)
class CaptionText:
    """Text below an image, shortened to the space between two positions."""

    text: str
    left: float = 0
    """Start, as a fraction of the width of the image, or of 3.5 inches below a narrower one."""
    right: float = 1
    """End, as a fraction of the same width."""
    badges: tuple[tuple[str, str], ...] = ()
    """Short texts after it, each with the colour of its background."""


@dataclass(frozen=True, kw_only=True)
class SheetImage:
    """One image of a sheet."""

    aspect_ratio: float
    """Width over height."""
    draw: Callable[[Axes], None]
    lines: tuple[tuple[CaptionText, ...], ...]
    """Captions, line by line."""


def shrink_to_cell(image: UInt8[ndarray, "h w 3"], dpi: int) -> UInt8[ndarray, "h2 w2 3"]:
    """Resize an image to the largest size that a sheet shows; a small image is returned as it is."""
    height, width = image.shape[:2]
    scale = min(1, TALLEST_IN * dpi / height, CELL_IN * dpi / width)
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size_wh, Image.Resampling.LANCZOS, reducing_gap=3))


def draw_sheet(title: str, source: str, images: Sequence[SheetImage], cols: int, dpi: int) -> Figure:
    """Draw images in rows, each as wide as its column unless it would be too tall.

    Args:
        title: text above all images, on the left.
        source: name of the run, above all images on the right.
        images: at least one, row by row.
        cols: images side by side, at most.
        dpi: resolution of the images and of a PNG, in pixels per inch.

    Raises:
        ValueError: if the sheet would have too many pixels.
    """
    cols = min(cols, len(images))
    rows = [images[start : start + cols] for start in range(0, len(images), cols)]
    width_in = 2 * MARGIN_IN + cols * CELL_IN + (cols - 1) * GAP_IN
    heights_in = [max(_size_in(image)[1] + LINE_IN * len(image.lines) for image in row) + GAP_IN for row in rows]
    height_in = TITLE_IN + MARGIN_IN + sum(heights_in)
    _check_size(width_in, height_in, dpi)
    figure = Figure(figsize=(width_in, height_in), dpi=dpi)
    _draw_title(figure, title, source)
    top_in = height_in - TITLE_IN - MARGIN_IN
    for row, row_in in zip(rows, heights_in):
        for column, image in enumerate(row):
            _draw_image(figure, image, MARGIN_IN + column * (CELL_IN + GAP_IN), top_in)
        top_in -= row_in
    return figure


def count_text(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural if it is not 1."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shorten_to_fit(text: str, width_in: float, size_pt: float) -> str:
    """Cut the start of a text that is too wide: file names differ at their ends.

    Returns:
        The text, or an ellipsis and as much of its end as fits; empty if nothing fits.
    """
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    candidates = (text, *("…" + text[start:] for start in range(1, len(text))))
    return next((shown for shown in candidates if _width_in(shown, size_pt) <= width_in), "")


def _width_in(text: str, size_pt: float) -> float:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size_pt), ismath=False)
    return width / POINTS_PER_IN


def _size_in(image: SheetImage) -> tuple[float, float]:
    height_in = min(CELL_IN / image.aspect_ratio, TALLEST_IN)
    return height_in * image.aspect_ratio, height_in


def _check_size(width_in: float, height_in: float, dpi: int) -> None:
    megapixels = width_in * height_in * dpi**2 / 1e6
    if megapixels > MAX_MEGAPIXELS or max(width_in, height_in) * dpi >= 2**16:
        raise ValueError(
            f"the sheet would have {width_in * dpi:,.0f} x {height_in * dpi:,.0f} pixels, over the limit of "
            f"{MAX_MEGAPIXELS} million; show fewer rows or cols, or lower the dpi"
        )


def _draw_title(figure: Figure, title: str, source: str) -> None:
    width_in, height_in = figure.get_size_inches()
    space_in = width_in - 2 * MARGIN_IN
    title = shorten_to_fit(title, space_in, TITLE_PT)
    source = shorten_to_fit(source, space_in - _width_in(title, TITLE_PT) - GAP_IN, CAPTION_PT)
    style: dict[str, Any] = {"y": 1 - 1.6 * MARGIN_IN / height_in, "va": "baseline", "parse_math": False}
    figure.text(x=MARGIN_IN / width_in, s=title, fontsize=TITLE_PT, color=TEXT_COLOUR, **style)
    figure.text(x=1 - MARGIN_IN / width_in, s=source, fontsize=CAPTION_PT, color=TITLE_COLOUR, ha="right", **style)


def _draw_image(figure: Figure, image: SheetImage, column_in: float, top_in: float) -> None:
    """Draw an image in the middle of its column, and its captions below."""
    width_in, height_in = figure.get_size_inches()
    own_width_in, own_height_in = _size_in(image)
    left_in, bottom_in = column_in + (CELL_IN - own_width_in) / 2, top_in - own_height_in
    axes = image_axes(
        figure, left_in / width_in, bottom_in / height_in, own_width_in / width_in, own_height_in / height_in
    )
    image.draw(axes)
    caption_in = max(own_width_in, NARROWEST_CAPTION_IN)
    for number, line in enumerate(image.lines):
        y_in = bottom_in - (number + 0.62) * LINE_IN
        for caption in line:
            _draw_caption(figure, caption, column_in + (CELL_IN - caption_in) / 2, caption_in, y_in)


def _draw_caption(figure: Figure, caption: CaptionText, left_in: float, width_in: float, y_in: float) -> None:
    figure_width_in, figure_height_in = figure.get_size_inches()
    x_in = left_in + caption.left * width_in
    space_in = (caption.right - caption.left) * width_in - AFTER_TEXT_IN - BADGE_IN * len(caption.badges)
    style: dict[str, Any] = {"y": y_in / figure_height_in, "fontsize": CAPTION_PT, "va": "center", "parse_math": False}
    text = shorten_to_fit(caption.text, space_in, CAPTION_PT)
    figure.text(x=x_in / figure_width_in, s=text, color=TITLE_COLOUR, **style)
    x_in += _width_in(text, CAPTION_PT) + AFTER_TEXT_IN
    for badge, colour in caption.badges:
        box: dict[str, Any] = {
            "boxstyle": "round,pad=0.2",
            "facecolor": colour,
            "edgecolor": TEXT_COLOUR,
            "linewidth": 0.5,
        }
        figure.text(
            x=(x_in + BADGE_IN / 2) / figure_width_in, s=badge, color=TEXT_COLOUR, ha="center", bbox=box, **style
        )
        x_in += BADGE_IN
