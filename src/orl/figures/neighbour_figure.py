"""`orl figures neighbours`: a row for each image, with the images that stage 2 found nearest to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy import ndarray

from orl.figures.correspondence_figure import similarity_text
from orl.figures.figure_files import FigureFile, check_at_least, save_figure
from orl.figures.pictures import TITLE_COLOUR, image_axes
from orl.figures.run_images import RunImages, choose_image_ids, load_run_images, open_run_table
from orl.figures.sheets import shorten_to_fit
from orl.rundir import RunDir

QUERY_COLOUR = "#e5484d"
CELL_WIDTH_IN, CELL_HEIGHT_IN, GAP_IN, TITLE_IN, LINE_IN = 1.7, 1.28, 0.08, 0.26, 0.15
CAPTION_PT = 7.5
NOTE = "Cosine of the images' embeddings, as in the neighbour search of stage 2."


@dataclass(frozen=True, kw_only=True)
class NeighbourOptions:
    """The choice of the images and of their neighbours."""

    images: int = 6
    """Number of query images, sampled at random."""
    image: str | None = None
    """Show one image only: its name in the table of images, or the end of the name after a slash."""
    neighbours: int = 5
    """Number of neighbours of each, the nearest first."""
    seed: int = 0
    """Seed of the choice of images."""

    def __post_init__(self) -> None:
        check_at_least(self, images=1, neighbours=1, seed=0)


@dataclass(frozen=True, kw_only=True)
class NeighbourRow:
    """A query image and its neighbours."""

    names: tuple[str, ...]
    """Names of the query and of its neighbours, nearest first."""
    images: tuple[UInt8[ndarray, "_ _ 3"], ...]
    """Pixels of the query and of its neighbours, nearest first."""
    similarities: tuple[float, ...]
    """Cosine of each neighbour; NaN where it is unknown."""


def neighbour_figure(run: RunDir, options: NeighbourOptions, file: FigureFile) -> Path:
    """Draw images of a run with the images nearest to each; return the path.

    Raises:
        FileNotFoundError: if there is no run, or stage 2 has not searched for neighbours.
        ValueError: if there is no such image, the table was made from other images, or an image cannot be read.
    """
    path = file.path(run.figures, "neighbours")
    images = load_run_images(run)
    table = open_run_table(run, "neighbours", images)
    neighbour_ids, similarities = table.column("neighbour_ids"), table.column("similarities")
    run_images = RunImages(run, images, file.dpi)
    rows = []
    for query in choose_image_ids(images, options.image, options.images, options.seed):
        shown = [query, *neighbour_ids[query, : options.neighbours].tolist()]
        rows.append(
            NeighbourRow(
                names=tuple(images.names[image_id] for image_id in shown),
                images=tuple(run_images.load_thumbnail(image_id)[0] for image_id in shown),
                similarities=tuple(similarities[query, : options.neighbours].tolist()),
            )
        )
    save_figure(draw_neighbour_rows(rows, file.dpi), path)
    return path


def draw_neighbour_rows(rows: Sequence[NeighbourRow], dpi: int = 110) -> Figure:
    """Draw a row for each query: the query in a frame, then its neighbours with their cosine.

    Args:
        rows: at least one.
        dpi: resolution of a PNG, in pixels per inch.
    """
    num_columns = max(len(row.images) for row in rows)
    row_in = CELL_HEIGHT_IN + 3 * LINE_IN
    width_in, height_in = num_columns * (CELL_WIDTH_IN + GAP_IN) + GAP_IN, TITLE_IN + len(rows) * row_in + 1.4 * LINE_IN
    figure = Figure(figsize=(width_in, height_in), dpi=dpi)
    style: dict[str, Any] = {"fontsize": CAPTION_PT, "color": TITLE_COLOUR, "parse_math": False}
    for index, row in enumerate(rows):
        bottom_in = height_in - TITLE_IN - index * row_in - CELL_HEIGHT_IN
        similarities = ["", *(similarity_text(value, 3) for value in row.similarities)]
        for column, (name, image) in enumerate(zip(row.names, row.images)):
            scale = min(CELL_WIDTH_IN / image.shape[1], CELL_HEIGHT_IN / image.shape[0])
            image_width_in, image_height_in = image.shape[1] * scale, image.shape[0] * scale
            left_in = GAP_IN + column * (CELL_WIDTH_IN + GAP_IN)
            axes = image_axes(
                figure,
                (left_in + (CELL_WIDTH_IN - image_width_in) / 2) / width_in,
                (bottom_in + (CELL_HEIGHT_IN - image_height_in) / 2) / height_in,
                image_width_in / width_in,
                image_height_in / height_in,
                "" if index else "query" if column == 0 else f"neighbour {column}",
            )
            axes.imshow(image)
            if column == 0:
                size_wh = image.shape[1], image.shape[0]
                axes.add_patch(Rectangle((-0.5, -0.5), *size_wh, fill=False, edgecolor=QUERY_COLOUR, linewidth=4))
            for line, text in enumerate((shorten_to_fit(name, CELL_WIDTH_IN, CAPTION_PT), similarities[column])):
                figure.text(left_in / width_in, (bottom_in - (line + 0.85) * LINE_IN) / height_in, text, **style)
    figure.text(GAP_IN / width_in, 0.4 * LINE_IN / height_in, NOTE, **style)
    return figure
