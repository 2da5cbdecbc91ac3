"""Correspondence pairs (the paper's supplementary Figure 1): a choice, and an image by its neighbour."""

from itertools import cycle

import matplotlib.patheffects as effects
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy import ndarray

PAIR_COLOURS = ("#ffb000", "#18c8ff", "#ff4f9a", "#74f05c", "#b79bff", "#ff6a2b")
GAP_FRACTION = 0.04
NEST_FRACTION = 0.017
"""Between the frames of two pairs that share a box, over the height of the image: the width of a line."""
OUTLINE = effects.withStroke(linewidth=4.5, foreground="#000000a0")


def similarity_text(similarity: float, digits: int = 2) -> str:
    """As a number, or a dash where it is not known, as in an imported table."""
    return "–" if np.isnan(similarity) else f"{similarity:.{digits}f}"


def draw_joined_boxes(
    axes: Axes,
    image: UInt8[ndarray, "h w 3"],
    neighbour: UInt8[ndarray, "h2 w2 3"],
    boxes: Float[ndarray, "p 4"],
    neighbour_boxes: Float[ndarray, "p 4"],
) -> None:
    """An image beside its neighbour at one height; boxes and line of a pair in one colour.

    A box that several pairs share has a frame inside the other.

    Args:
        axes: where to draw, without frame.
        image: the query.
        neighbour: the image it was matched with.
        boxes: RoIs of the query, in its pixels.
        neighbour_boxes: the RoI each was matched to, in the neighbour's pixels.
    """
    height, width = image.shape[:2]
    scale = height / neighbour.shape[0]
    shift = width * (1 + GAP_FRACTION)
    right = shift + neighbour.shape[1] * scale
    axes.imshow(image, extent=(0, width, height, 0))
    axes.imshow(neighbour, extent=(shift, right, height, 0))
    placed = neighbour_boxes * scale + np.array([shift, 0, shift, 0], dtype=np.float32)
    step = NEST_FRACTION * height
    for pair in zip(nest_equal_boxes(boxes, step), nest_equal_boxes(placed, step), cycle(PAIR_COLOURS)):
        _draw_pair(axes, *pair)
    axes.set(xlim=(0, right), ylim=(height, 0))


def side_by_side(image: UInt8[ndarray, "h w 3"], neighbour: UInt8[ndarray, "h2 w2 3"]) -> tuple[float, float]:
    """Two images at one height with a gap: width over height of both, and where the second begins, as a share."""
    first_and_gap = image.shape[1] / image.shape[0] * (1 + GAP_FRACTION)
    aspect_ratio = first_and_gap + neighbour.shape[1] / neighbour.shape[0]
    return aspect_ratio, first_and_gap / aspect_ratio


def nest_equal_boxes(boxes: Float[ndarray, "p 4"], step: float) -> Float[ndarray, "p 4"]:
    """Boxes, each moved inwards by a step for every equal one before it, and by a quarter of its side at most."""
    times = np.array([sum(np.array_equal(box, other) for other in boxes[:index]) for index, box in enumerate(boxes)])
    sides = boxes[:, 2:] - boxes[:, :2]
    inwards = np.minimum(times.reshape(-1, 1) * step, sides / 4)
    return np.concatenate([boxes[:, :2] + inwards, boxes[:, 2:] - inwards], axis=1).astype(np.float32)


def _draw_pair(axes: Axes, box: ndarray, other: ndarray, colour: str) -> None:
    """Both frames, and a line from the right of the first to the left of the second."""
    for x0, y0, x1, y1 in (box, other):
        frame = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=2.4)
        frame.set_path_effects([OUTLINE])
        axes.add_patch(frame)
    heights = [float(each[1] + each[3]) / 2 for each in (box, other)]
    line = Line2D([float(box[2]), float(other[0])], heights, color=colour, linewidth=1.8)
    line.set_path_effects([OUTLINE])
    axes.add_line(line)
