import re
import xml.etree.ElementTree as ElementTree

import numpy as np

from orl.report.overlays import GAP, HEIGHT, image_svg, pair_svg
from orl.report.thumbnails import Thumbnail

WIDE = Thumbnail(name="image-1", uri="", size_wh=(120, 60), image_size_wh=(1200, 600))
TALL = Thumbnail(name="image-2", uri="", size_wh=(50, 100), image_size_wh=(500, 1000))


def paths(svg: str) -> list[list[float]]:
    """The numbers of each coloured path."""
    found = re.findall(r'class="over-line" d="([^"]*)"', svg)
    return [[float(number) for number in re.findall(r"[-\d.]+", path)] for path in found]


def test_a_box_lies_where_it_lies_in_the_image():
    svg = image_svg(WIDE, "an image", np.array([[0, 0, 1200, 600], [600, 300, 1200, 600]], np.float32))
    whole, quarter = paths(svg)
    assert whole == [0, 0, 600, HEIGHT, 0]
    assert quarter == [300, 150, 600, HEIGHT, 300]
    assert 'viewBox="0 0 600 300"' in svg
    assert "scale(5.0000)" in svg


def test_small_boxes_are_drawn_over_large_ones_in_turning_colours():
    boxes = np.array([[0, 0, 12, 12], [0, 0, 1200, 600]], np.float32)
    svg = image_svg(WIDE, "an image", boxes)
    assert [path[2] for path in paths(svg)] == [600, 6]
    assert re.findall(r"pair-\d", svg) == ["pair-0", "pair-1"]
    assert re.findall(r"pair-\d", image_svg(WIDE, "an image", boxes, colours=[3, 5])) == ["pair-5", "pair-3"]


def test_the_line_joins_the_two_boxes_across_the_gap():
    svg = pair_svg(
        WIDE, TALL, np.array([[0, 0, 600, 300]], np.float32), np.array([[250, 500, 500, 1000]], np.float32), "x"
    )
    shift = 600 + GAP
    assert paths(svg) == [[0, 0, 300, 150, 0, shift + 75, 150, shift + 150, 300, shift + 75, 300, 75, shift + 75, 225]]
    assert f'viewBox="0 0 {shift + 150:.0f} 300"' in svg
    assert f"translate({shift:.0f})" in svg


def test_the_most_similar_pair_lies_on_top_and_a_shared_box_is_nested():
    boxes = np.array([[0, 0, 600, 300], [0, 0, 600, 300]], np.float32)
    others = np.array([[0, 0, 250, 500], [250, 500, 500, 1000]], np.float32)
    svg = pair_svg(WIDE, TALL, boxes, others, "x")
    second, first = paths(svg)
    assert first[:4] == [0, 0, 300, 150]
    assert second[:4] == [5, 5, 295, 145]
    assert re.findall(r"pair-\d", svg) == ["pair-1", "pair-0"]


def test_words_are_escaped_and_the_drawing_is_well_formed():
    svg = image_svg(WIDE, 'a "image" <b>', np.zeros((0, 4), np.float32))
    root = ElementTree.fromstring(svg)
    assert root.attrib["aria-label"] == 'a "image" <b>'
    assert root.attrib["role"] == "img"
    assert "boxes" not in svg
