"""A photo and its nearest neighbours, most similar first."""

from collections.abc import Sequence

from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy import ndarray

from orl.figures.pictures import panel

QUERY_COLOUR = "#e5484d"
PHOTO_ASPECT_RATIO = 4 / 3


def draw_neighbours(
    photo: UInt8[ndarray, "h w 3"],
    neighbours: Sequence[UInt8[ndarray, "..."]],
    similarities: Float[ndarray, "k"],
    num_columns: int = 3,
    width_in: float = 5.4,
) -> Figure:
    """The query, framed, then its neighbours with their cosine, row by row.

    Args:
        photo: the query.
        neighbours: its neighbours, most similar first.
        similarities: cosine of the two photos' embeddings.
        num_columns: photos side by side.
        width_in: width of the figure.
    """
    num_rows = -(-(len(neighbours) + 1) // num_columns)
    cell_in = width_in / num_columns
    height_in = num_rows * (cell_in / PHOTO_ASPECT_RATIO + 0.28)
    figure = Figure(figsize=(width_in, height_in), dpi=130)
    titles = ["query", *(f"{similarity:.3f}" for similarity in similarities)]
    for index, (shown, title) in enumerate(zip([photo, *neighbours], titles)):
        row, column = divmod(index, num_columns)
        axes = panel(
            figure,
            (column + 0.015) / num_columns,
            1 - (row + 1) / num_rows + 0.01,
            0.97 / num_columns,
            1 / num_rows - 0.26 / height_in,
            title,
        )
        axes.imshow(shown)
        if index == 0:
            height, width = shown.shape[:2]
            frame = Rectangle((0, 0), width, height, fill=False, edgecolor=QUERY_COLOUR, linewidth=4)
            axes.add_patch(frame)
    return figure
