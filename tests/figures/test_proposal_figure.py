import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from orl.figures.correspondence_figure import PAIR_COLOURS
from orl.figures.proposal_figure import draw_boxes, draw_found_and_kept

BOXES = np.array([[0, 0, 10, 10], [5, 5, 35, 25], [2, 2, 20, 20]], dtype=np.float32)


def test_found_boxes_lie_on_the_first_image_and_kept_ones_on_the_second():
    axes = Figure().add_subplot()
    draw_found_and_kept(axes, np.zeros((30, 50, 3), dtype=np.uint8), BOXES, BOXES[1:2])
    assert [image.get_extent() for image in axes.images] == [[0, 50, 30, 0], [52, 102, 30, 0]]
    frames = [patch.get_bbox().extents.tolist() for patch in axes.patches]
    assert frames == [*BOXES[[1, 2, 0]].tolist(), [57, 5, 87, 25]]
    thin, bold = axes.patches[0].get_linewidth(), axes.patches[-1].get_linewidth()
    assert bold > 2 * thin
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 102), (30, 0))


def test_boxes_have_turning_colours_from_the_largest_on():
    axes = Figure().add_subplot()
    draw_boxes(axes, BOXES.repeat(3, axis=0), linewidth=2)
    colours = [to_rgba(patch.get_edgecolor()) for patch in axes.patches]
    assert colours[:6] == [to_rgba(colour) for colour in PAIR_COLOURS]
    assert colours[6] == colours[0]
    assert {patch.get_linewidth() for patch in axes.patches} == {2}


def test_no_boxes_draw_no_frames():
    axes = Figure().add_subplot()
    draw_boxes(axes, BOXES[:0], linewidth=2)
    assert len(axes.patches) == 0
