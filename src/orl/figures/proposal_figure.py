"""The boxes of an image: as found, and as kept by the filter."""

from itertools import cycle

import matplotlib.patheffects as effects
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy import ndarray

from orl import boxes as geometry
from orl.figures.correspondence_figure import GAP_FRACTION, PAIR_COLOURS


def draw_found_and_kept(
    axes: Axes, image: UInt8[ndarray, "h w 3"], proposals: Float[ndarray, "n 4"], rois: Float[ndarray, "b 4"]
) -> None:
    """The image twice: with its proposals in thin lines, and with the RoIs that the filter kept.

    Args:
        axes: where to draw, without frame.
        image: as decoded, or a thumbnail.
        proposals: boxes as found, in its pixels.
        rois: boxes as kept.
    """
    height, width = image.shape[:2]
    shift = width * (1 + GAP_FRACTION)
    axes.imshow(image, extent=(0, width, height, 0))
    axes.imshow(image, extent=(shift, shift + width, height, 0))
    draw_boxes(axes, proposals, linewidth=0.6)
    draw_boxes(axes, rois + np.array([shift, 0, shift, 0], dtype=np.float32), linewidth=1.5)
    axes.set(xlim=(0, shift + width), ylim=(height, 0))


def draw_boxes(axes: Axes, boxes: Float[ndarray, "n 4"], linewidth: float) -> None:
    """Boxes in turning colours, large ones first so that small ones lie on top; lines in points."""
    outline = effects.withStroke(linewidth=linewidth + min(1.3, linewidth), foreground="#00000070")
    for index, colour in zip(np.argsort(-geometry.area(boxes), kind="stable"), cycle(PAIR_COLOURS)):
        x0, y0, x1, y1 = boxes[index]
        frame = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=linewidth)
        frame.set_path_effects([outline])
        axes.add_patch(frame)
