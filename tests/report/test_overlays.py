import re
import xml.etree.ElementTree as ElementTree

import numpy as np

from orl.report.overlays import GAP, HEIGHT, Layer, Overlay, overlay_boxes, overlay_pair
from orl.report.page import templates
from orl.report.thumbnails import Thumbnail

WIDE = Thumbnail(name="image-1", uri="", size_wh=(120, 60), image_size_wh=(1200, 600))
TALL = Thumbnail(name="image-2", uri="", size_wh=(50, 100), image_size_wh=(500, 1000))


def numbers(overlay: Overlay) -> list[list[float]]:
    """Return the numbers of each path, the lowest first."""
    return [[float(number) for number in re.findall(r"[-\d.]+", shape.path)] for shape in overlay.shapes]


def colours(overlay: Overlay) -> list[str]:
    return [shape.colour for shape in overlay.shapes]


def test_a_box_lies_at_its_place_in_the_image() -> None:
    overlay = overlay_boxes(WIDE, np.array([[0, 0, 1200, 600], [600, 300, 1200, 600]], np.float32))
    full, quarter = numbers(overlay)
    assert full == [0, 0, 600, HEIGHT, 0]
    assert quarter == [300, 150, 600, HEIGHT, 300]
    assert overlay.width == 600
    assert overlay.layers == [Layer("image-1", 0.0, 5.0)]


def test_small_boxes_lie_over_large_ones_in_repeating_colours() -> None:
    boxes = np.array([[0, 0, 12, 12], [0, 0, 1200, 600]], np.float32)
    overlay = overlay_boxes(WIDE, boxes)
    assert [path[2] for path in numbers(overlay)] == [600, 6]
    assert colours(overlay) == ["pair-0", "pair-1"]
    assert colours(overlay_boxes(WIDE, boxes, colours=[3, 5])) == ["pair-5", "pair-3"]


def test_the_line_joins_the_two_boxes_across_the_gap() -> None:
    overlay = overlay_pair(
        WIDE, TALL, np.array([[0, 0, 600, 300]], np.float32), np.array([[250, 500, 500, 1000]], np.float32)
    )
    shift = 600 + GAP
    assert numbers(overlay) == [
        [0, 0, 300, 150, 0, shift + 75, 150, shift + 150, 300, shift + 75, 300, 75, shift + 75, 225]
    ]
    assert overlay.width == shift + 150
    assert overlay.layers[1] == Layer("image-2", shift, 3.0)


def test_the_most_similar_pair_lies_on_top_and_a_shared_box_is_nested() -> None:
    boxes = np.array([[0, 0, 600, 300], [0, 0, 600, 300]], np.float32)
    others = np.array([[0, 0, 250, 500], [250, 500, 500, 1000]], np.float32)
    overlay = overlay_pair(WIDE, TALL, boxes, others)
    second, first = numbers(overlay)
    assert first[:4] == [0, 0, 300, 150]
    assert second[:4] == [5, 5, 295, 145]
    assert colours(overlay) == ["pair-1", "pair-0"]


def test_the_description_is_escaped_and_the_svg_is_well_formed() -> None:
    picture = templates().get_template("macros.html").module.picture
    root = ElementTree.fromstring(picture(overlay_boxes(WIDE, np.zeros((0, 4), np.float32)), 'a "image" <b>'))
    assert root.attrib["aria-label"] == 'a "image" <b>'
    assert root.attrib["role"] == "img"
    assert [child.attrib["transform"] for child in root] == ["translate(0) scale(5.0)"]
    boxes = np.array([[0, 0, 12, 12], [0, 0, 1200, 600]], np.float32)
    root = ElementTree.fromstring(picture(overlay_boxes(WIDE, boxes, thin=True), "x"))
    assert root[1].attrib["class"] == "boxes thin"
    assert [len(shape) for shape in root[1]] == [2, 2]
