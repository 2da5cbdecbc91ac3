"""Images and their nearest neighbours, most similar first: a row for each (`draw_neighbour_rows`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy import ndarray

from orl import tables
from orl.datasets.image_table import ImageTable
from orl.figures.figure_files import FileOptions, check_file_options, figure_file, save_figure
from orl.figures.pictures import TITLE_COLOUR, image_axes
from orl.figures.run_images import REBUILD, RunImages, find_image, load_run_images
from orl.figures.sheets import shorten_to_fit
from orl.rundir import RunDir

QUERY_COLOUR = "#e5484d"
CELL_IN, GAP_IN, TITLE_IN, WORDS_IN = (1.7, 1.28), 0.08, 0.26, 0.15
WORDS_PT = 7.5
NOTE = "Cosine of the images' embeddings, as stage 2 looked for them."


@dataclass(frozen=True, kw_only=True)
class NeighbourOptions(FileOptions):
    """Whose neighbours are drawn."""

    images: int = 6
    """Query images, at random."""
    image: str | None = None
    """The neighbours of this image only: its name, as in the table of images, or the end of it after a slash."""
    neighbours: int = 5
    """Neighbours of each, the nearest first."""
    seed: int = 0
    """Seed of the choice of images."""


@dataclass(frozen=True, kw_only=True)
class NeighbourRow:
    """A query and its neighbours."""

    names: tuple[str, ...]
    """Of the query, then of its neighbours, nearest first."""
    images: tuple[UInt8[ndarray, "_ _ 3"], ...]
    """Likewise."""
    similarities: tuple[float, ...]
    """Of each neighbour; not a number where it is not known."""


def neighbour_sheet(run: RunDir, options: NeighbourOptions) -> Path:
    """Draw images with the images nearest to each.

    Args:
        run: folder of a run whose stage 2 has looked for neighbours.
        options: whose neighbours, and where the picture goes.

    Returns:
        Where it lies.

    Raises:
        FileNotFoundError: if there is no run, or stage 2 has not left the table.
        ValueError: if an option is out of range, the image is not one of the run, the table is of other images, or a
            image cannot be read.
    """
    check_file_options(options)
    for name, least in (("images", 1), ("neighbours", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise ValueError(f"{name} must be at least {least}, not {getattr(options, name)}")
    images = load_run_images(run)
    neighbour_ids, similarities = _load_neighbours(run, images)
    if options.image is None:
        chosen = np.random.default_rng(options.seed).permutation(len(images))[: options.images].tolist()
    else:
        chosen = [find_image(images, options.image)]
    run_images = RunImages(run, images, options.dpi)
    rows = []
    for query in chosen:
        shown = [query, *neighbour_ids[query, : options.neighbours].tolist()]
        rows.append(
            NeighbourRow(
                names=tuple(images.names[image_id] for image_id in shown),
                images=tuple(run_images.small(image_id)[0] for image_id in shown),
                similarities=tuple(similarities[query, : options.neighbours].tolist()),
            )
        )
    path = figure_file(options, run.figures, "neighbours")
    save_figure(draw_neighbour_rows(rows, options.dpi), path)
    return path


def draw_neighbour_rows(rows: Sequence[NeighbourRow], dpi: int = 110) -> Figure:
    """A row for each query: the query, framed, then its neighbours with their cosine.

    Args:
        rows: at least one.
        dpi: resolution of a PNG, pixels an inch.
    """
    num_columns = max(len(row.images) for row in rows)
    row_in = CELL_IN[1] + 3 * WORDS_IN
    width_in, height_in = num_columns * (CELL_IN[0] + GAP_IN) + GAP_IN, TITLE_IN + len(rows) * row_in + 1.4 * WORDS_IN
    figure = Figure(figsize=(width_in, height_in), dpi=dpi)
    look: dict[str, Any] = {"fontsize": WORDS_PT, "color": TITLE_COLOUR, "parse_math": False}
    for index, row in enumerate(rows):
        bottom_in = height_in - TITLE_IN - index * row_in - CELL_IN[1]
        told = ["", *("–" if np.isnan(value) else f"{value:.3f}" for value in row.similarities)]
        for column, (name, image) in enumerate(zip(row.names, row.images)):
            scale = min(CELL_IN[0] / image.shape[1], CELL_IN[1] / image.shape[0])
            size_in = image.shape[1] * scale, image.shape[0] * scale
            left_in = GAP_IN + column * (CELL_IN[0] + GAP_IN)
            corner_in = left_in + (CELL_IN[0] - size_in[0]) / 2, bottom_in + (CELL_IN[1] - size_in[1]) / 2
            place = (*_shares(figure, *corner_in), *_shares(figure, *size_in))
            title = "" if index else "query" if column == 0 else f"neighbour {column}"
            axes = image_axes(figure, *place, title)
            axes.imshow(image)
            if column == 0:
                _frame(axes, image)
            for line, words in enumerate((shorten_to_fit(name, CELL_IN[0], WORDS_PT), told[column])):
                figure.text(*_shares(figure, left_in, bottom_in - (line + 0.85) * WORDS_IN), words, **look)
    figure.text(*_shares(figure, GAP_IN, 0.4 * WORDS_IN), NOTE, **look)
    return figure


def _frame(axes: Axes, image: ndarray) -> None:
    height, width = image.shape[:2]
    axes.add_patch(Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor=QUERY_COLOUR, linewidth=4))


def _shares(figure: Figure, x_in: float, y_in: float) -> tuple[float, float]:
    width_in, height_in = figure.get_size_inches()
    return x_in / width_in, y_in / height_in


def _load_neighbours(run: RunDir, images: ImageTable) -> tuple[Int[ndarray, "n k"], Float[ndarray, "n k"]]:
    try:
        table = tables.load(run.table("neighbours"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{run.root} has no table of neighbours yet; make it with 'orl discover --out {run.root}'"
        ) from error
    tables.check_image_list(table, images.fingerprint)
    if table.num_rows != len(images):
        raise ValueError(f"{table.folder} has {table.num_rows:,} rows, but there are {len(images):,} images; {REBUILD}")
    return table.column("neighbour_ids"), table.column("similarities")
