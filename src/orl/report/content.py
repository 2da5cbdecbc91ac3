"""Plain data that the templates of the report lay out: notes, tables and figures."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from matplotlib.figure import Figure as Chart

from orl.figures.pictures import Picture, as_svg
from orl.report.overlays import Overlay

WIDE_TEXT = 40
"""Characters of a cell from which its column gets a minimum width."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page; each section has its own subclass and template."""

    template: ClassVar[str]
    title: str
    notes: Sequence["Note"] = ()
    """Sentences about what is missing."""

    @property
    def anchor(self) -> str:
        """Identifier of the section in links."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Note:
    """A sentence in place of a missing part, and the command that makes it."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class Code:
    """Text of a cell that is shown as code."""

    text: str


@dataclass(frozen=True)
class Fraction:
    """A score in [0, 1], shown out of 100 with a bar; a dash where there is none."""

    value: float | None
    interval: Sequence[float] | None = None
    """Lower and upper end, if they are known."""
    is_best: bool = False
    """True for the best score of its column."""

    @property
    def points(self) -> str:
        """The score out of 100."""
        return "–" if self.value is None else f"{100 * self.value:.1f}"

    @property
    def range(self) -> str:
        """The interval out of 100; empty if it is not known."""
        return "" if self.interval is None else " to ".join(f"{100 * end:.1f}" for end in self.interval)

    @property
    def bar_width(self) -> float:
        """Width of the bar in [0, 100]."""
        return round(min(100.0, max(0.0, 100 * (self.value or 0))), 1)


Cell = str | Code | Fraction


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """A table whose first column names the row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def classes(self) -> list[str]:
        """Class of each column in the style sheet: numbers are aligned right, long texts have a minimum width."""
        return [_column_class([row[index] for row in self.rows]) for index in range(len(self.columns))]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture of a figure, with its text."""

    picture: Picture | Overlay
    alt: str
    """Alternative text for screen readers."""
    label: str = ""
    """Text below it."""
    kind: str = ""
    """Classes of the style sheet."""


@dataclass(frozen=True)
class Chip:
    """A short text in a frame below a figure."""

    text: str
    colour: str = ""
    """Class of the colour of a pair; without one the chip names a kind."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One or several pictures with a caption, which a script enlarges."""

    panels: Sequence[Panel | Note]
    caption: str
    layout: str = ""
    """Classes of the style sheet; empty for a single picture without labels."""
    chips: Sequence[Chip] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    """Attributes that a script sorts and filters by."""


def picture_figure(picture: Picture, alt: str, caption: str) -> Figure:
    """Return a figure of one picture on white; a chart is inverted in the dark theme."""
    layout = "chart paper" if picture.is_chart else "paper"
    return Figure(panels=[Panel(picture=picture, alt=alt)], caption=caption, layout=layout)


def chart_figure(chart: Chart, caption: str) -> Figure:
    """Return a figure of a chart as SVG; the caption is its description too."""
    return picture_figure(as_svg(chart), f"Chart: {caption}", caption)


def _column_class(cells: Sequence[Cell]) -> str:
    if all(isinstance(cell, Fraction) or (isinstance(cell, str) and _is_number(cell)) for cell in cells):
        return "number"
    is_wide = any(len(cell if isinstance(cell, str) else cell.text) > WIDE_TEXT for cell in _texts(cells))
    return "words" if is_wide else ""


def _texts(cells: Sequence[Cell]) -> list[str | Code]:
    return [cell for cell in cells if not isinstance(cell, Fraction)]


def _is_number(text: str) -> bool:
    return text == "–" or re.fullmatch(r"[-+−]?[\d,.]+ ?%?", text) is not None
