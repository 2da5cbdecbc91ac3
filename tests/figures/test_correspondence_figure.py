import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from orl.figures.correspondence_figure import draw_joined_boxes, side_by_side, similarity_text
from orl.figures.pair_selection import top_correspondences

IMAGE_IDS = np.array([0, 0, 0, 1, 1, 2], dtype=np.int32)
NEIGHBOUR_IDS = np.array([1, 1, 2, 0, 2, 0], dtype=np.int32)
SIMILARITIES = np.array([0.5, 0.9, 0.8, 0.95, 0.6, 0.7], dtype=np.float32)


def test_top_correspondences_are_the_best_of_distinct_query_images_and_distinct_image_pairs():
    # Row 3 (1 -> 0) is best; row 1 is the same two images the other way round; then row 2 (0 -> 2);
    # row 5 (2 -> 0) is row 2 the other way round.
    assert top_correspondences(IMAGE_IDS, NEIGHBOUR_IDS, SIMILARITIES, 3) == [3, 2]


def test_top_correspondences_are_as_many_as_asked_for():
    assert top_correspondences(IMAGE_IDS, NEIGHBOUR_IDS, SIMILARITIES, 1) == [3]


@pytest.fixture
def drawn_axes():
    image = np.zeros((100, 200, 3), dtype=np.uint8)
    neighbour = np.zeros((50, 100, 3), dtype=np.uint8)
    boxes = np.array([[10, 20, 60, 80], [0, 0, 30, 30]], dtype=np.float32)
    neighbour_boxes = np.array([[10, 10, 40, 30], [50, 20, 100, 50]], dtype=np.float32)
    axes = Figure().add_subplot()
    draw_joined_boxes(axes, image, neighbour, boxes, neighbour_boxes)
    return axes


def test_a_pair_has_one_colour_and_another_pair_another(drawn_axes):
    frames = [patch for patch in drawn_axes.patches if isinstance(patch, Rectangle)]
    lines = [line for line in drawn_axes.lines if isinstance(line, Line2D)]
    colours = [to_rgba(frame.get_edgecolor()) for frame in frames]
    assert len(frames) == 4
    assert colours[0] == colours[1] == to_rgba(lines[0].get_color())
    assert colours[2] == colours[3] == to_rgba(lines[1].get_color())
    assert colours[0] != colours[2]


def test_boxes_of_the_neighbour_are_scaled_and_shifted_with_it(drawn_axes):
    frames = [patch.get_bbox().extents.tolist() for patch in drawn_axes.patches]
    assert frames[0] == [10, 20, 60, 80]
    # The neighbour is drawn twice as high, beginning at 200 px plus a gap of 4% of them.
    np.testing.assert_allclose(frames[1], [208 + 20, 20, 208 + 80, 60])
    line = drawn_axes.lines[0]
    np.testing.assert_allclose(line.get_xdata(), [60, 228])
    np.testing.assert_allclose(line.get_ydata(), [50, 40])


def test_a_similarity_has_two_digits_and_one_that_is_not_known_is_a_dash():
    assert [similarity_text(value) for value in (0.876, 0.5, float("nan"))] == ["0.88", "0.50", "–"]


def test_a_box_that_several_pairs_share_has_one_frame_inside_the_other():
    image = np.zeros((100, 200, 3), dtype=np.uint8)
    boxes = np.array([[10, 20, 60, 80], [10, 20, 60, 80], [0, 0, 9, 4], [10, 20, 60, 80]], dtype=np.float32)
    others = np.tile(np.array([[5, 5, 9, 9]], dtype=np.float32), (4, 1))
    axes = Figure().add_subplot()
    draw_joined_boxes(axes, image, image, boxes, others)
    frames = np.array([patch.get_bbox().extents for patch in axes.patches]).reshape(4, 2, 4)
    # 1.7% of the height inwards for each frame that is there already, at most a quarter of the side.
    expected = [[10, 20, 60, 80], [11.7, 21.7, 58.3, 78.3], [0, 0, 9, 4], [13.4, 23.4, 56.6, 76.6]]
    np.testing.assert_allclose(frames[:, 0], expected, rtol=1e-6)
    shift = np.array([208, 0, 208, 0])
    np.testing.assert_allclose(frames[:, 1] - shift, [[5, 5, 9, 9]] + [[6, 6, 8, 8]] * 3, rtol=1e-6)


def test_two_images_side_by_side_have_one_height_and_a_gap():
    image = np.zeros((50, 100, 3), dtype=np.uint8)
    aspect_ratio, second = side_by_side(image, np.zeros((20, 10, 3), dtype=np.uint8))
    assert aspect_ratio == pytest.approx(2 * 1.04 + 0.5)
    assert second == pytest.approx(2 * 1.04 / (2 * 1.04 + 0.5))
