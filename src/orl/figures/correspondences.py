"""Correspondence pairs (the paper's supplementary Figure 1): a choice, and a photo by its neighbour."""

from collections.abc import Sequence

import matplotlib.patheffects as effects
import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy import ndarray

from orl.figures.pictures import panel

PAIR_COLOURS = ("#ffb000", "#18c8ff", "#ff4f9a", "#74f05c", "#b79bff", "#ff6a2b")
GAP_SHARE = 0.04
OUTLINE = effects.withStroke(linewidth=4.5, foreground="#000000a0")


def top_correspondences(
    image_ids: Int[ndarray, "n"],
    neighbour_ids: Int[ndarray, "n"],
    similarities: Float[ndarray, "n"],
    num_pairs: int,
) -> list[int]:
    """The most similar pairs, one a query photo and one for two photos that are each other's neighbours.

    Args:
        image_ids: the query photo of each row of the correspondence table.
        neighbour_ids: the neighbour it was matched in.
        similarities: cosine of the two RoIs.
        num_pairs: how many to choose; fewer are returned when there are not as many query photos.

    Returns:
        Rows of the table, most similar first; among equals the first row.
    """
    chosen: list[int] = []
    seen_queries: set[int] = set()
    seen_photos: set[frozenset[int]] = set()
    for row in np.argsort(-similarities, kind="stable"):
        query, photos = int(image_ids[row]), frozenset((int(image_ids[row]), int(neighbour_ids[row])))
        if len(chosen) == num_pairs:
            break
        if query not in seen_queries and photos not in seen_photos:
            chosen.append(int(row))
            seen_queries.add(query)
            seen_photos.add(photos)
    return chosen


def random_correspondences(
    image_ids: Int[ndarray, "n"],
    neighbour_ids: Int[ndarray, "n"],
    similarities: Float[ndarray, "n"],
    num_pairs: int,
    generator: np.random.Generator,
) -> list[int]:
    """For query photos drawn at random, one neighbour drawn at random and the most similar pair in it.

    This is what stage 3 sees, where `top_correspondences` is the best of it.
    """
    queries = np.unique(image_ids)
    chosen = []
    for query in generator.permutation(queries)[:num_pairs]:
        rows = np.flatnonzero(image_ids == query)
        neighbour = generator.choice(np.unique(neighbour_ids[rows]))
        rows = rows[neighbour_ids[rows] == neighbour]
        chosen.append(int(rows[np.argmax(similarities[rows])]))
    return chosen


def draw_correspondence(
    axes: Axes,
    photo: UInt8[ndarray, "h w 3"],
    neighbour: UInt8[ndarray, "h2 w2 3"],
    boxes: Float[ndarray, "p 4"],
    neighbour_boxes: Float[ndarray, "p 4"],
    similarities: Float[ndarray, "p"],
) -> None:
    """A photo beside its neighbour at one height; boxes, line and similarity of a pair in one colour.

    Args:
        axes: where to draw, without frame.
        photo: the query.
        neighbour: the photo it was matched with.
        boxes: RoIs of the query, in its pixels.
        neighbour_boxes: the RoI each was matched to, in the neighbour's pixels.
        similarities: cosine of each pair.
    """
    height, width = photo.shape[:2]
    scale = height / neighbour.shape[0]
    shift = width * (1 + GAP_SHARE)
    right = shift + neighbour.shape[1] * scale
    axes.imshow(photo, extent=(0, width, height, 0))
    axes.imshow(neighbour, extent=(shift, right, height, 0))
    placed = neighbour_boxes * scale + np.array([shift, 0, shift, 0], dtype=np.float32)
    for index, (box, other, similarity) in enumerate(zip(boxes, placed, similarities)):
        _draw_pair(axes, box, other, float(similarity), PAIR_COLOURS[index % len(PAIR_COLOURS)])
    axes.set(xlim=(0, right), ylim=(height, 0))


def correspondence_figure(
    photo: UInt8[ndarray, "h w 3"],
    neighbour: UInt8[ndarray, "h2 w2 3"],
    boxes: Float[ndarray, "p 4"],
    neighbour_boxes: Float[ndarray, "p 4"],
    similarities: Float[ndarray, "p"],
    width_in: float = 7.0,
) -> Figure:
    """One `draw_correspondence` on a figure that fits it without margins."""
    sides = (photo.shape[1] / photo.shape[0], neighbour.shape[1] / neighbour.shape[0])
    aspect_ratio = sides[0] * (1 + GAP_SHARE) + sides[1]
    figure = Figure(figsize=(width_in, width_in / aspect_ratio), dpi=130)
    axes = panel(figure, 0, 0, 1, 1)
    draw_correspondence(axes, photo, neighbour, boxes, neighbour_boxes, similarities)
    return figure


def _draw_pair(axes: Axes, box: ndarray, other: ndarray, similarity: float, colour: str) -> None:
    for x0, y0, x1, y1 in (box, other):
        frame = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=2.4)
        frame.set_path_effects([OUTLINE])
        axes.add_patch(frame)
    ends: Sequence[tuple[float, float]] = (_middle_right(box), _middle_left(other))
    line = Line2D([ends[0][0], ends[1][0]], [ends[0][1], ends[1][1]], color=colour, linewidth=1.8)
    line.set_path_effects([OUTLINE])
    axes.add_line(line)
    axes.text(
        (ends[0][0] + ends[1][0]) / 2,
        (ends[0][1] + ends[1][1]) / 2,
        f"{similarity:.2f}",
        ha="center",
        va="center",
        fontsize=9,
        fontweight="bold",
        color="#111111",
        bbox={"boxstyle": "round,pad=0.25", "facecolor": colour, "edgecolor": "#111111", "linewidth": 0.6},
    )


def _middle_right(box: ndarray) -> tuple[float, float]:
    return float(box[2]), float(box[1] + box[3]) / 2


def _middle_left(box: ndarray) -> tuple[float, float]:
    return float(box[0]), float(box[1] + box[3]) / 2
