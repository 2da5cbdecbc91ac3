"""Boxes and lines over thumbnails as SVG: sharp at any size, and each image lies in the page once."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from orl import boxes as geometry
from orl.figures.correspondence_figure import nest_equal_boxes
from orl.report.html import Html, markup
from orl.report.style import colour_class
from orl.report.thumbnails import Thumbnail

HEIGHT = 300.0
GAP = 12.0
NEST = 5.0
"""Between the frames of two pairs that share a box."""


def image_svg(
    image: Thumbnail,
    alt: str,
    boxes: Float[ndarray, "n 4"] | None = None,
    thin: bool = False,
    colours: Sequence[int] | None = None,
) -> Html:
    """An image, with boxes in turning colours, large ones first so that small ones lie on top.

    Args:
        image: its thumbnail.
        alt: what it shows, in words.
        boxes: in the image's own pixels.
        thin: draw thin lines, for many boxes.
        colours: number of the colour of each box; by turns from the largest on, if not given.
    """
    drawn = ""
    if boxes is not None and len(boxes):
        order = np.argsort(-geometry.area(boxes), kind="stable").tolist()
        placed = (boxes * _scale(image)).astype(float)
        paths = (
            _stroked(_frame(placed[row]), index if colours is None else colours[row]) for index, row in enumerate(order)
        )
        drawn = f'<g class="boxes{" thin" if thin else ""}">{"".join(paths)}</g>'
    return _svg(_width(image), alt, _use(image, 0) + drawn)


def pair_svg(
    image: Thumbnail,
    neighbour: Thumbnail,
    boxes: Float[ndarray, "p 4"],
    neighbour_boxes: Float[ndarray, "p 4"],
    alt: str,
) -> Html:
    """An image beside its neighbour at one height; the two boxes of a pair and the line between them in one colour.

    Args:
        image: thumbnail of the query.
        neighbour: thumbnail of the image it was matched with.
        boxes: RoIs of the query, in its own pixels.
        neighbour_boxes: the RoI each was matched to, in the neighbour's own pixels.
        alt: what it shows, in words.
    """
    shift = _width(image) + GAP
    placed = nest_equal_boxes((boxes * _scale(image)).astype(np.float32), NEST)
    others = nest_equal_boxes((neighbour_boxes * _scale(neighbour)).astype(np.float32), NEST) + np.array(
        [shift, 0, shift, 0]
    )
    paths = [
        _stroked(f"{_frame(box)}{_frame(other)}{_joining(box, other)}", index)
        for index, (box, other) in enumerate(zip(placed, others))
    ]
    # The first is the most similar, and so lies on top.
    drawn = f'<g class="boxes">{"".join(reversed(paths))}</g>'
    return _svg(shift + _width(neighbour), alt, _use(image, 0) + _use(neighbour, shift) + drawn)


def _svg(width: float, alt: str, content: str) -> Html:
    return Html(
        f'<svg viewBox="0 0 {_round(width)} {HEIGHT:.0f}" role="img" aria-label="{markup(alt)}">{content}</svg>'
    )


def _use(image: Thumbnail, x: float) -> str:
    scale = HEIGHT / image.size_wh[1]
    return f'<use href="#{image.name}" transform="translate({_round(x)}) scale({scale:.4f})"/>'


def _width(image: Thumbnail) -> float:
    return HEIGHT * image.size_wh[0] / image.size_wh[1]


def _scale(image: Thumbnail) -> Float[ndarray, "4"]:
    """From the image's pixels to the drawing's units."""
    x, y = _width(image) / image.image_size_wh[0], HEIGHT / image.image_size_wh[1]
    return np.array([x, y, x, y])


def _frame(box: Sequence[float] | ndarray) -> str:
    x0, y0, x1, y1 = map(float, box)
    return f"M{_round(x0)} {_round(y0)}H{_round(x1)}V{_round(y1)}H{_round(x0)}Z"


def _joining(box: ndarray, other: ndarray) -> str:
    """From the middle of the right side of one to the middle of the left side of the other."""
    start, end = (float(box[2]), float(box[1] + box[3]) / 2), (float(other[0]), float(other[1] + other[3]) / 2)
    return f"M{_round(start[0])} {_round(start[1])}L{_round(end[0])} {_round(end[1])}"


def _stroked(path: str, index: int) -> str:
    return f'<g class="{colour_class(index)}"><path class="under" d="{path}"/><path class="over-line" d="{path}"/></g>'


def _round(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
