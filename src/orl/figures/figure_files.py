"""Where a figure goes: its options, the file that they name, and the writing of it."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

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
class FileOptions:
    """The file of a figure."""

    to: Path | None = None
    """File to write: .png, .svg or .pdf; a PNG in the run's folder `figures` if not given."""
    pdf: bool = False
    """Write a PDF in place of the PNG: lines and words sharp at any size, images at the resolution asked for."""
    svg: bool = False
    """Write an SVG in place of the PNG, likewise."""
    dpi: int = 110
    """Resolution of the images and of a PNG, pixels an inch."""


def check_file_options(options: FileOptions) -> None:
    """Refuse what no file can be written with, before anything is read or drawn.

    Raises:
        ValueError: if two formats are asked for, the file's suffix is unknown, or the resolution is out of range.
    """
    if not 30 <= options.dpi <= 600:
        raise ValueError(f"dpi must be from 30 to 600, not {options.dpi}")
    if options.pdf and options.svg:
        raise ValueError("--pdf and --svg are both given, and a figure is written in one format; leave one out")
    asked = _suffix(options)
    if options.to is not None:
        check_suffix(options.to)
        if asked != ".png" and options.to.suffix.lower() != asked:
            raise ValueError(f"--{asked[1:]} does not go with --to {options.to}; leave one out")


def check_suffix(path: Path) -> None:
    """Refuse a file that no figure can be written to.

    Raises:
        ValueError: if its suffix is none of .png, .svg and .pdf.
    """
    if path.suffix.lower() not in METADATA:
        found = f"ends in {path.suffix}" if path.suffix else "has no suffix"
        raise ValueError(f"{path} {found}; a figure is written as {', '.join(METADATA)}")


def figure_file(options: FileOptions, folder: Path, name: str) -> Path:
    """The file that is asked for, or one of this name in the folder, in the format that is asked for."""
    return options.to or folder / f"{name}{_suffix(options)}"


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure in the format of the file's suffix: whole or not at all, the same bytes for the same figure.

    Raises:
        ValueError: if the suffix is unknown.
    """
    check_suffix(path)
    kind, file = path.suffix.lower(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for it
        if kind == ".png":
            Image.fromarray(render_pixels(figure)).save(file, "PNG")
        else:
            # Publishers refuse the Type 3 fonts that Matplotlib embeds by default.
            with matplotlib.rc_context({"svg.hashsalt": "orl", "pdf.fonttype": 42}):
                figure.savefig(file, format=kind[1:], dpi=figure.dpi, metadata=METADATA[kind])
    files.write_atomically(path, file.getvalue())


def _suffix(options: FileOptions) -> str:
    return ".pdf" if options.pdf else ".svg" if options.svg else ".png"
