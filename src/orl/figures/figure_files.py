"""The file that a figure is written to: its name, format and resolution, and the writing of it."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from orl import files
from orl.figures.pictures import render_pixels

# Dates and versions stay out of the files, so that the same figure is the same bytes.
METADATA: dict[str, dict[str, str | None]] = {
    ".png": {},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@dataclass(frozen=True, kw_only=True)
class FigureFile:
    """The file of a figure, its format and its resolution."""

    to: Path | None = None
    """File to write (.png, .svg or .pdf). By default a PNG in a folder `figures` of the run."""
    pdf: bool = False
    """Write a PDF: lines and text stay sharp at any size, images have the resolution of --dpi."""
    svg: bool = False
    """Write an SVG: lines and text stay sharp at any size, images have the resolution of --dpi."""
    dpi: int = 110
    """Resolution of the images and of a PNG, in pixels per inch."""

    def path(self, folder: Path, name: str) -> Path:
        """Check the options and return the path: `to`, or by default a figure of this name in the folder.

        Raises:
            ValueError: if two formats are asked for, the suffix is unknown, or the resolution is out of range.
        """
        if not 30 <= self.dpi <= 600:
            raise ValueError(f"dpi must be from 30 to 600, got {self.dpi}")
        if self.pdf and self.svg:
            raise ValueError("--pdf and --svg are both given, and a figure is written in one format; leave one out")
        suffix = ".pdf" if self.pdf else ".svg" if self.svg else ".png"
        if self.to is None:
            return folder / f"{name}{suffix}"
        check_suffix(self.to)
        if suffix != ".png" and self.to.suffix.lower() != suffix:
            raise ValueError(f"--{suffix[1:]} does not go with --to {self.to}; leave one out")
        return self.to


def check_at_least(options: Any, **minima: int) -> None:
    """Check that fields of a figure's options are not below a minimum.

    Raises:
        ValueError: if one is; the message names the field.
    """
    for name, minimum in minima.items():
        if getattr(options, name) < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {getattr(options, name)}")


def check_suffix(path: Path) -> None:
    """Check that a figure can be written to a file of this name.

    Raises:
        ValueError: if its suffix is none of .png, .svg and .pdf.
    """
    if path.suffix.lower() not in METADATA:
        found = f"ends in {path.suffix}" if path.suffix else "has no suffix"
        raise ValueError(f"{path} {found}; a figure is written as {', '.join(METADATA)}")


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure atomically, in the format of the path's suffix. The same figure gives the same bytes.

    Raises:
        ValueError: if the suffix is unknown.
    """
    check_suffix(path)
    suffix, buffer = path.suffix.lower(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box is drawn in its place
        if suffix == ".png":
            Image.fromarray(render_pixels(figure)).save(buffer, "PNG")
        else:
            # Publishers refuse the Type 3 fonts that Matplotlib embeds by default.
            with matplotlib.rc_context({"svg.hashsalt": "orl", "pdf.fonttype": 42}):
                figure.savefig(buffer, format=suffix[1:], dpi=figure.dpi, metadata=METADATA[suffix])
    files.write_atomically(path, buffer.getvalue())
