import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from tests.figures.conftest import frames, rewrite_table, texts
from tests.finished_run import WIDTH

from orl import tables
from orl.datasets.image_table import load_image_table
from orl.figures.correspondence_figure import (
    CorrespondenceOptions,
    correspondence_figure,
    draw_joined_boxes,
    side_by_side,
    similarity_text,
)
from orl.figures.figure_files import FigureFile
from orl.rundir import RunDir

SMALL = FigureFile(dpi=40)


def rewrite_correspondences(run: RunDir, **columns: list) -> None:
    kinds = {"roi": np.int64, "neighbour_roi": np.int64, "similarity": np.float32}
    arrays = {name: np.array(each, kinds.get(name, np.int32)) for name, each in columns.items()}
    rewrite_table(run, "correspondences", arrays)


@pytest.fixture
def joined_axes():
    image = np.zeros((100, 200, 3), dtype=np.uint8)
    neighbour = np.zeros((50, 100, 3), dtype=np.uint8)
    boxes = np.array([[10, 20, 60, 80], [0, 0, 30, 30]], dtype=np.float32)
    neighbour_boxes = np.array([[10, 10, 40, 30], [50, 20, 100, 50]], dtype=np.float32)
    axes = Figure().add_subplot()
    draw_joined_boxes(axes, image, neighbour, boxes, neighbour_boxes)
    return axes


def test_a_pair_has_one_colour_and_another_pair_another(joined_axes):
    frames = [patch for patch in joined_axes.patches if isinstance(patch, Rectangle)]
    lines = [line for line in joined_axes.lines if isinstance(line, Line2D)]
    colours = [to_rgba(frame.get_edgecolor()) for frame in frames]
    assert len(frames) == 4
    assert colours[0] == colours[1] == to_rgba(lines[0].get_color())
    assert colours[2] == colours[3] == to_rgba(lines[1].get_color())
    assert colours[0] != colours[2]


def test_boxes_of_the_neighbour_are_scaled_and_shifted_with_it(joined_axes):
    frames = [patch.get_bbox().extents.tolist() for patch in joined_axes.patches]
    assert frames[0] == [10, 20, 60, 80]
    # The neighbour is drawn twice as high, beginning at 200 px plus a gap of 4% of them.
    np.testing.assert_allclose(frames[1], [208 + 20, 20, 208 + 80, 60])
    line = joined_axes.lines[0]
    np.testing.assert_allclose(line.get_xdata(), [60, 228])
    np.testing.assert_allclose(line.get_ydata(), [50, 40])


def test_a_similarity_has_two_digits_and_one_that_is_unknown_is_a_dash():
    assert [similarity_text(value) for value in (0.876, 0.5, float("nan"))] == ["0.88", "0.50", "–"]


def test_a_box_that_several_pairs_use_has_one_frame_inside_the_other():
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


def test_the_best_pairs_are_named_with_their_similarity(discovered: RunDir, sheets: list[Figure]) -> None:
    correspondence_figure(discovered, CorrespondenceOptions(rows=1, cols=2), FigureFile())
    images = load_image_table(discovered.images)
    # Image 0 with its neighbours 1, 2, 3 has the rows 0 to 2 of 0.95 to 0.5 in 18 steps; image 1 begins at row 3,
    # with image 0, whose pair is shown already, then image 2.
    step = (0.95 - 0.5) / 17
    shown = [f"{0.95:.3f}", f"{0.95 - 4 * step:.3f}"]
    expected = ["The most similar correspondences", "found", images.names[0], images.names[1], "similarity", shown[0]]
    assert texts(sheets[0]) == [*expected, images.names[1], images.names[2], "similarity", shown[1]]
    box, other = frames(sheets[0])
    assert box == [8, 8, 40, 40]
    np.testing.assert_allclose(other, np.array([30, 10, 90, 60]) + np.array([1, 0, 1, 0]) * WIDTH * 1.04, rtol=1e-6)


@pytest.mark.parametrize(
    ("order", "neighbours"), [("top", [3, 0, 1]), ("lowest", [1, 0, 3]), ("image", [0, 1, 3]), ("random", [0, 1, 3])]
)
def test_the_neighbours_of_one_image_come_in_the_order_asked_for(
    discovered: RunDir, sheets: list[Figure], order: str, neighbours: list[int]
) -> None:
    # Two RoIs of an image: image 2 has rows 4 and 5 of rois.
    rewrite_correspondences(
        discovered,
        image_id=[2] * 4,
        neighbour_id=[0, 1, 3, 3],
        roi=[4, 4, 5, 4],
        neighbour_roi=[0, 2, 6, 7],
        similarity=[0.5, 0.4, 0.3, 0.9],
    )
    options = CorrespondenceOptions(image="image_2.png", order=order)
    correspondence_figure(discovered, options, FigureFile())
    names = load_image_table(discovered.images).names
    shown = [text for text in texts(sheets[0])[2:] if text in names and text != "image_2.png"]
    assert texts(sheets[0])[0].startswith("image_2.png, ")
    if order == "random":
        shown.sort(key=names.index)
    assert shown == [names[index] for index in neighbours]
    if order == "top":
        assert texts(sheets[0])[4:7] == ["similarity", "0.900", "0.300"]
        assert [frame[:2] for frame in frames(sheets[0])[::2]] == [[8, 8], [30, 10]]
        correspondence_figure(discovered, replace(options, pairs=1), FigureFile())
        assert len(frames(sheets[1])) == 2


def test_orders_of_all_images_differ_in_what_they_show(discovered: RunDir, sheets: list[Figure]) -> None:
    similarities = tables.load(discovered.table("correspondences")).column("similarity")
    for order in ("top", "lowest", "image", "random"):
        correspondence_figure(discovered, CorrespondenceOptions(rows=6, cols=1, order=order), FigureFile())
    shown = [[text for text in texts(figure) if re.fullmatch(r"0\.\d{3}", text)] for figure in sheets]
    assert shown[0][0] == f"{similarities.max():.3f}"
    assert shown[1][0] == f"{similarities.min():.3f}"
    assert shown[2] == [f"{value:.3f}" for value in similarities[::3]]
    assert sorted(shown[3]) != sorted(shown[2])
    assert len({texts(figure)[0] for figure in sheets}) == 4
    for seed in (0, 0, 1):
        options = CorrespondenceOptions(rows=6, cols=1, seed=seed, order="random")
        correspondence_figure(discovered, options, FigureFile())
    assert texts(sheets[4]) == texts(sheets[5]) != texts(sheets[6])


def test_similarities_that_are_unknown_are_dashes_and_give_no_order(discovered: RunDir, sheets: list[Figure]) -> None:
    rewrite_correspondences(discovered, image_id=[0], neighbour_id=[1], roi=[0], neighbour_roi=[2], similarity=[np.nan])
    for order in ("random", "image"):
        correspondence_figure(discovered, CorrespondenceOptions(order=order), SMALL)
    assert [texts(figure)[-1] for figure in sheets] == ["–", "–"]
    for order in ("top", "lowest"):
        with pytest.raises(ValueError, match=f"holds no similarities .* no order '{order}'; use --order random"):
            correspondence_figure(discovered, CorrespondenceOptions(order=order), SMALL)


@pytest.mark.parametrize(
    ("neighbour_id", "neighbour_roi", "message"),
    [
        (1, 1, "neighbour_roi is not an RoI of the image in neighbour_id .*neighbour_id 1, neighbour_roi 1"),
        (1, 4, "neighbour_roi is not an RoI of the image in neighbour_id .*neighbour_id 1, neighbour_roi 4"),
        (9, 2, "neighbour_id is not one of the 6 images"),
    ],
)
def test_correspondences_of_other_rois_are_refused(
    discovered: RunDir, neighbour_id: int, neighbour_roi: int, message: str
) -> None:
    columns = {"image_id": [0], "roi": [0], "similarity": [0.5]}
    rewrite_correspondences(discovered, **columns, neighbour_id=[neighbour_id], neighbour_roi=[neighbour_roi])
    with pytest.raises(ValueError, match=message):
        correspondence_figure(discovered, CorrespondenceOptions(), SMALL)


def test_a_table_without_correspondences_is_refused(discovered: RunDir) -> None:
    rewrite_correspondences(discovered, image_id=[0], neighbour_id=[1], roi=[0], neighbour_roi=[2], similarity=[0.5])
    with pytest.raises(ValueError, match=r"holds no correspondences of image_3\.png; nothing can be drawn"):
        correspondence_figure(discovered, CorrespondenceOptions(image="image_3.png"), SMALL)
    rewrite_correspondences(discovered, image_id=[], neighbour_id=[], roi=[], neighbour_roi=[], similarity=[])
    with pytest.raises(ValueError, match="holds no correspondences of this run; nothing can be drawn"):
        correspondence_figure(discovered, CorrespondenceOptions(), SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 0}, "pairs must be from 1 to 6, one per colour, got 0"),
        ({"pairs": 7}, "pairs must be from 1 to 6, one per colour, got 7"),
        ({"rows": 0}, "rows must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CorrespondenceOptions(**options)
