"""Boxes and lines over thumbnails, as shapes that a template draws in SVG: sharp at any size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from orl import boxes as geometry
from orl.figures.correspondence_figure import PAIR_COLOURS, nest_equal_boxes
from orl.report.thumbnails import Thumbnail

HEIGHT = 300.0
GAP = 12.0
NEST = 5.0
"""Distance between the frames of two pairs that share a box."""


@dataclass(frozen=True)
class Layer:
    """A thumbnail at a place in an overlay."""

    name: str
    x: float
    scale: float


@dataclass(frozen=True)
class Shape:
    """A path in a colour."""

    colour: str
    """Class of the colour in the style sheet."""
    path: str


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """Thumbnails beside each other at one height, and shapes over them; the last shape lies on top."""

    width: float
    layers: Sequence[Layer]
    shapes: Sequence[Shape] = ()
    thin: bool = False
    """True for thin lines, which suit many boxes."""
    height: float = HEIGHT


def colour_class(index: int) -> str:
    """Return the class of the style sheet for the colour of a pair or a box; the colours repeat."""
    return f"pair-{index % len(PAIR_COLOURS)}"


def overlay_boxes(
    image: Thumbnail,
    boxes: Float[ndarray, "n 4"] | None = None,
    thin: bool = False,
    colours: Sequence[int] | None = None,
) -> Overlay:
    """Draw boxes over an image, large ones first so that small ones lie on top.

    Args:
        image: its thumbnail.
        boxes: boxes in the image's own pixels.
        thin: whether the lines are thin, for many boxes.
        colours: number of the colour of each box; in the order of drawing if not given.
    """
    shapes = []
    if boxes is not None and len(boxes):
        scaled = boxes * _scale(image)
        for index, row in enumerate(np.argsort(-geometry.area(boxes), kind="stable").tolist()):
            colour = colour_class(index if colours is None else colours[row])
            shapes.append(Shape(colour, _frame(scaled[row])))
    return Overlay(width=_width(image), layers=[_layer(image, 0)], shapes=shapes, thin=thin)


def overlay_pair(
    image: Thumbnail,
    neighbour: Thumbnail,
    boxes: Float[ndarray, "p 4"],
    neighbour_boxes: Float[ndarray, "p 4"],
) -> Overlay:
    """Draw an image beside its neighbour; the two boxes of a pair and the line between them have one colour.

    Args:
        image: thumbnail of the query.
        neighbour: thumbnail of the image it was matched with.
        boxes: RoIs of the query, in its own pixels, the most similar first.
        neighbour_boxes: the RoI each was matched to, in the neighbour's own pixels.
    """
    shift = _width(image) + GAP
    left = nest_equal_boxes((boxes * _scale(image)).astype(np.float32), NEST)
    right = nest_equal_boxes((neighbour_boxes * _scale(neighbour)).astype(np.float32), NEST)
    right += np.array([shift, 0, shift, 0], np.float32)
    shapes = [
        Shape(colour_class(index), _frame(box) + _frame(other) + _line(box, other))
        for index, (box, other) in enumerate(zip(left, right))
    ]
    layers = [_layer(image, 0), _layer(neighbour, shift)]
    # The first is the most similar, and so lies on top.
    return Overlay(width=_units(shift + _width(neighbour)), layers=layers, shapes=shapes[::-1])


def _layer(image: Thumbnail, x: float) -> Layer:
    return Layer(image.name, _units(x), round(HEIGHT / image.size_wh[1], 4))


def _width(image: Thumbnail) -> float:
    return _units(HEIGHT * image.size_wh[0] / image.size_wh[1])


def _scale(image: Thumbnail) -> Float[ndarray, "4"]:
    """Return the factors from the image's pixels to the units of the overlay."""
    x, y = HEIGHT * image.size_wh[0] / image.size_wh[1] / image.image_size_wh[0], HEIGHT / image.image_size_wh[1]
    return np.array([x, y, x, y])


def _frame(box: ndarray) -> str:
    x0, y0, x1, y1 = map(_units, box.tolist())
    return f"M{x0:g} {y0:g}H{x1:g}V{y1:g}H{x0:g}Z"


def _line(box: ndarray, other: ndarray) -> str:
    """Join the middle of the right side of one box with the middle of the left side of the other."""
    _, top, right, bottom = box.tolist()
    left, other_top, _, other_bottom = other.tolist()
    start, end = _units((top + bottom) / 2), _units((other_top + other_bottom) / 2)
    return f"M{_units(right):g} {start:g}L{_units(left):g} {end:g}"


def _units(value: float) -> float:
    return round(value, 1)
