"""The kept RoIs of a photo."""

from itertools import cycle

import matplotlib.patheffects as effects
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy import ndarray

from orl import boxes as geometry
from orl.figures.correspondences import PAIR_COLOURS
from orl.figures.pictures import panel

OUTLINE = effects.withStroke(linewidth=2.8, foreground="#00000070")


def draw_proposals(photo: UInt8[ndarray, "h w 3"], boxes: Float[ndarray, "b 4"], width_in: float = 5.4) -> Figure:
    """Every box on the photo, large ones first so that small ones lie on top.

    Args:
        photo: as decoded.
        boxes: in its pixels.
        width_in: width of the figure.
    """
    height, width = photo.shape[:2]
    figure = Figure(figsize=(width_in, width_in * height / width), dpi=130)
    axes = panel(figure, 0, 0, 1, 1)
    axes.imshow(photo)
    for index, colour in zip(np.argsort(-geometry.area(boxes), kind="stable"), cycle(PAIR_COLOURS)):
        x0, y0, x1, y1 = boxes[index]
        frame = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.5)
        frame.set_path_effects([OUTLINE])
        axes.add_patch(frame)
    return figure
