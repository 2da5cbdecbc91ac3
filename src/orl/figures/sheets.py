"""A sheet: pictures in rows and columns with words below each."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from numpy import ndarray
from PIL import Image

from orl.figures.figure_files import FileOptions, check_file_options, figure_file, save_figure
from orl.figures.pictures import TITLE_COLOUR, image_axes
from orl.rundir import RunDir

MAX_MEGAPIXELS = 60
CELL_IN, TALLEST_IN, GAP_IN, MARGIN_IN = 6.0, 3.0, 0.3, 0.2
TITLE_IN, LINE_IN = 0.4, 0.2
TITLE_PT, WORDS_PT = 12, 8.5
POINTS = 72
NARROWEST_WORDS_IN = 3.5
BADGE_IN, AFTER_WORDS_IN = 0.52, 0.1
INK = "#111111"


@dataclass(frozen=True, kw_only=True)
class SheetOptions(FileOptions):
    """How a sheet is laid out, which images it shows, and where it goes; a picture is 6 inches wide."""

    rows: int = 4
    """Most pictures below each other."""
    cols: int = 2
    """Most pictures side by side."""
    seed: int = 0
    """Seed of whatever is drawn at random."""
    image: str | None = None
    """Show this image only: its name, as in the table of images, or the end of it after a slash."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """Words below a picture, shortened to the space they have."""

    text: str
    left: float = 0
    """Where they begin, as a share of the picture's width, or of 3.5 inches below a narrow one."""
    right: float = 1
    """Where they end at most."""
    badges: tuple[tuple[str, str], ...] = ()
    """After the words: short texts, each on a ground of its own colour."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture of a sheet."""

    aspect_ratio: float
    """Width over height."""
    draw: Callable[[Axes], None]
    lines: tuple[tuple[Words, ...], ...]
    """What stands below it, line by line."""


def check_options(options: SheetOptions) -> None:
    """Refuse what no sheet can be made with, before anything is read or drawn.

    Raises:
        ValueError: if a number is out of its range, or `check_file_options` refuses.
    """
    for name in ("rows", "cols"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(options, name)}")
    if options.seed < 0:
        raise ValueError(f"seed must be 0 or more, not {options.seed}")
    check_file_options(options)


def thumbnail(image: UInt8[ndarray, "h w 3"], dpi: int) -> UInt8[ndarray, "h2 w2 3"]:
    """The image at the largest size that a sheet shows it in; a small image as it is."""
    height, width = image.shape[:2]
    scale = min(1, TALLEST_IN * dpi / height, CELL_IN * dpi / width)
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size_wh, Image.Resampling.LANCZOS, reducing_gap=3))


def sheet_figure(title: str, source: str, pictures: Sequence[Picture], cols: int, dpi: int) -> Figure:
    """Pictures in rows, each as wide as its column unless that makes it too tall.

    Args:
        title: above them all, on the left.
        source: what they were made from, in the space that is left on the right of it.
        pictures: in the order of reading; at least one.
        cols: pictures side by side, fewer when there are not as many.
        dpi: resolution of the images and of a PNG, pixels an inch.

    Raises:
        ValueError: if the sheet would be too large to draw.
    """
    cols = min(cols, len(pictures))
    rows = [pictures[start : start + cols] for start in range(0, len(pictures), cols)]
    width_in = 2 * MARGIN_IN + cols * CELL_IN + (cols - 1) * GAP_IN
    heights_in = [max(_size_in(picture)[1] + LINE_IN * len(picture.lines) for picture in row) + GAP_IN for row in rows]
    height_in = TITLE_IN + MARGIN_IN + sum(heights_in)
    _check_size(width_in, height_in, dpi)
    figure = Figure(figsize=(width_in, height_in), dpi=dpi)
    _write_title(figure, title, source)
    top_in = height_in - TITLE_IN - MARGIN_IN
    for row, row_in in zip(rows, heights_in):
        for column, picture in enumerate(row):
            _place(figure, picture, MARGIN_IN + column * (CELL_IN + GAP_IN), top_in)
        top_in -= row_in
    return figure


def write_sheet(run: RunDir, options: SheetOptions, name: str, heading: str, pictures: Sequence[Picture]) -> Path:
    """Draw a sheet of a run's pictures and write it; returns its path."""
    path = figure_file(options, run.figures, name)
    save_figure(sheet_figure(heading, run.root.resolve().name, pictures, options.cols, options.dpi), path)
    return path


def shorten_to_fit(text: str, width_in: float, size_pt: float) -> str:
    """The text if it fits, else as much of its end as fits, after an ellipsis: names of files differ there."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    candidates = (text, *("…" + text[start:] for start in range(1, len(text))))
    return next((shown for shown in candidates if _width_in(shown, size_pt) <= width_in), "")


def _width_in(text: str, size_pt: float) -> float:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size_pt), ismath=False)
    return width / POINTS


def _size_in(picture: Picture) -> tuple[float, float]:
    height_in = min(CELL_IN / picture.aspect_ratio, TALLEST_IN)
    return height_in * picture.aspect_ratio, height_in


def _check_size(width_in: float, height_in: float, dpi: int) -> None:
    megapixels = width_in * height_in * dpi**2 / 1e6
    if megapixels > MAX_MEGAPIXELS or max(width_in, height_in) * dpi >= 2**16:
        raise ValueError(
            f"the sheet would have {width_in * dpi:,.0f} x {height_in * dpi:,.0f} pixels, over the limit of "
            f"{MAX_MEGAPIXELS} million; show fewer rows or cols, or lower the dpi"
        )


def _write_title(figure: Figure, title: str, source: str) -> None:
    width_in, height_in = figure.get_size_inches()
    space_in = width_in - 2 * MARGIN_IN
    title = shorten_to_fit(title, space_in, TITLE_PT)
    source = shorten_to_fit(source, space_in - _width_in(title, TITLE_PT) - GAP_IN, WORDS_PT)
    look: dict[str, Any] = {"y": 1 - 1.6 * MARGIN_IN / height_in, "va": "baseline", "parse_math": False}
    figure.text(x=MARGIN_IN / width_in, s=title, fontsize=TITLE_PT, color=INK, **look)
    figure.text(x=1 - MARGIN_IN / width_in, s=source, fontsize=WORDS_PT, color=TITLE_COLOUR, ha="right", **look)


def _place(figure: Figure, picture: Picture, column_in: float, top_in: float) -> None:
    """Draw a picture in the middle of its column, and its words below it."""
    width_in, height_in = figure.get_size_inches()
    own_width_in, own_height_in = _size_in(picture)
    left_in, bottom_in = column_in + (CELL_IN - own_width_in) / 2, top_in - own_height_in
    place = (left_in / width_in, bottom_in / height_in, own_width_in / width_in, own_height_in / height_in)
    picture.draw(image_axes(figure, *place))
    words_in = max(own_width_in, NARROWEST_WORDS_IN)
    for number, line in enumerate(picture.lines):
        y_in = bottom_in - (number + 0.62) * LINE_IN
        for words in line:
            _write(figure, words, column_in + (CELL_IN - words_in) / 2, words_in, y_in)


def _write(figure: Figure, words: Words, left_in: float, width_in: float, y_in: float) -> None:
    sheet_in = figure.get_size_inches()
    x_in = left_in + words.left * width_in
    space_in = (words.right - words.left) * width_in - AFTER_WORDS_IN - BADGE_IN * len(words.badges)
    look: dict[str, Any] = {"y": y_in / sheet_in[1], "fontsize": WORDS_PT, "va": "center", "parse_math": False}
    text = shorten_to_fit(words.text, space_in, WORDS_PT)
    figure.text(x=x_in / sheet_in[0], s=text, color=TITLE_COLOUR, **look)
    x_in += _width_in(text, WORDS_PT) + AFTER_WORDS_IN
    for badge, colour in words.badges:
        ground: dict[str, Any] = {"boxstyle": "round,pad=0.2", "facecolor": colour, "edgecolor": INK, "linewidth": 0.5}
        figure.text(x=(x_in + BADGE_IN / 2) / sheet_in[0], s=badge, color=INK, ha="center", bbox=ground, **look)
        x_in += BADGE_IN
