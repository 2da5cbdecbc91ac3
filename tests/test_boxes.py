import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.reference.boxes import iou_by_pixels, jittered_copy

from orl import boxes
from orl.views.crops import round_to_pixels

corners = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 30), st.integers(1, 30))
integer_boxes = corners.map(lambda c: [c[0], c[1], min(63, c[0] + c[2]), min(63, c[1] + c[3])])


def as_boxes(*values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_iou_of_two_squares_with_a_common_quarter() -> None:
    found = boxes.iou(as_boxes([0, 0, 2, 2]), as_boxes([1, 1, 3, 3], [0, 0, 2, 2], [2, 0, 4, 2]))
    np.testing.assert_allclose(found, [[1 / 7, 1.0, 0.0]])


def test_iou_of_empty_boxes_is_zero() -> None:
    np.testing.assert_array_equal(boxes.iou(as_boxes([1, 1, 1, 1]), as_boxes([1, 1, 1, 1])), [[0.0]])


@given(integer_boxes, integer_boxes)
def test_iou_equals_painted_pixels(box: list[int], other: list[int]) -> None:
    assert boxes.iou(as_boxes(box), as_boxes(other))[0, 0] == pytest.approx(iou_by_pixels(box, other))


@given(integer_boxes, integer_boxes)
def test_iou_is_symmetric_bounded_and_one_with_itself(box: list[int], other: list[int]) -> None:
    there, back = boxes.iou(as_boxes(box), as_boxes(other)), boxes.iou(as_boxes(other), as_boxes(box))
    assert there == back
    assert 0 <= there <= 1
    if boxes.area(as_boxes(box)) > 0:
        assert boxes.iou(as_boxes(box), as_boxes(box)) == 1


@given(arrays(np.float32, (5, 4), elements=st.integers(0, 1000).map(float)))
def test_xywh_round_trip(values: np.ndarray) -> None:
    np.testing.assert_array_equal(boxes.to_xywh(boxes.from_xywh(values)), values)


def test_xywh_by_hand() -> None:
    np.testing.assert_array_equal(boxes.from_xywh(as_boxes([10, 20, 30, 40])), [[10, 20, 40, 60]])


def test_area_of_a_box_turned_inside_out_is_zero() -> None:
    np.testing.assert_array_equal(boxes.area(as_boxes([0, 0, 3, 4], [3, 4, 0, 0])), [12, 0])


def test_clip_keeps_the_part_inside_the_image() -> None:
    np.testing.assert_array_equal(boxes.clip(as_boxes([-5, 3, 50, 90]), (40, 30)), [[0, 3, 40, 30]])


@pytest.mark.parametrize("seed", range(20))
def test_jittered_box_lies_inside_and_overlaps_by_more_than_half(seed: int) -> None:
    box = np.array([20, 10, 80, 60], dtype=np.float32)
    new = boxes.jitter(box, (100, 80), np.random.default_rng(seed))
    assert new[0] >= 0
    assert new[1] >= 0
    assert new[2] <= 100
    assert new[3] <= 80
    assert boxes.iou(new[None], box[None])[0, 0] > 0.5
    assert not np.array_equal(new, box)


def test_jitter_covers_the_areas_and_shapes_that_the_overlap_allows() -> None:
    generator = np.random.default_rng(0)
    box = np.array([400, 400, 600, 600], dtype=np.float32)
    copies = np.stack([boxes.jitter(box, (1000, 1000), generator) for _ in range(2000)])
    sides = copies[:, 2:] - copies[:, :2]
    areas, ratios = boxes.area(copies) / 40_000, sides[:, 0] / sides[:, 1]
    assert areas.min() > 0.5
    assert areas.max() < 2
    assert areas.std() > 0.2
    assert ratios.min() == pytest.approx(0.5, abs=0.03)
    assert ratios.max() == pytest.approx(2, abs=0.12)
    # Wide and high boxes are equally frequent.
    assert np.mean(ratios > 1) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("min_iou", [0.2, 0.8])
def test_jittered_copies_reach_down_to_the_lowest_overlap(min_iou: float) -> None:
    generator = np.random.default_rng(0)
    box = np.array([400, 400, 600, 600], dtype=np.float32)
    copies = np.stack([boxes.jitter(box, (1000, 1000), generator, min_iou) for _ in range(200)])
    overlaps = boxes.iou(copies, box[None])[:, 0]
    assert overlaps.min() > min_iou
    assert overlaps.min() < min_iou + 0.1


def random_box(generator: np.random.Generator, size_wh: tuple[int, int], least: int, most: int) -> np.ndarray:
    """A random box inside an image, with edges between pixels and sides of `least` to `most`."""
    sides = generator.uniform(least, most, size=2)
    corner = generator.uniform(0, size_wh - sides)
    return np.array([*corner, *(corner + sides)], dtype=np.float32)


def test_a_jittered_copy_is_that_of_the_published_rule() -> None:
    generator = np.random.default_rng(0)
    for seed in range(100):
        left, top, right, bottom = np.rint(random_box(generator, (200, 150), 8, 140)).astype(int).tolist()
        found = boxes.jitter(as_boxes([left, top, right, bottom])[0], (200, 150), np.random.default_rng(seed))
        expected = jittered_copy((left, top, right - left, bottom - top), (200, 150), np.random.default_rng(seed))
        assert boxes.to_xywh(found).tolist() == list(expected)


@pytest.mark.parametrize("min_iou", [0.2, 0.5])
def test_the_pixels_cut_along_a_jittered_copy_overlap_enough(min_iou: float) -> None:
    generator, size_wh, num_copies = np.random.default_rng(0), (120, 90), 0
    for _ in range(300):
        box = random_box(generator, size_wh, 6, 40)
        copy = boxes.jitter(box, size_wh, generator, min_iou)
        if np.array_equal(copy, box):
            continue
        num_copies += 1
        cut = as_boxes(*(round_to_pixels(each, size_wh) for each in (copy, box)))
        np.testing.assert_array_equal(cut[0], copy)
        assert boxes.iou(cut[:1], cut[1:])[0, 0] > min_iou
    assert num_copies > 200


def test_full_overlap_returns_the_box_itself_and_samples_nothing() -> None:
    box, generator = np.array([20, 10, 80, 60], dtype=np.float32), np.random.default_rng(0)
    np.testing.assert_array_equal(boxes.jitter(box, (100, 80), generator, min_iou=1.0), box)
    assert generator.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_jitter_returns_the_box_where_no_copy_fits() -> None:
    box = np.array([0, 0, 100, 4], dtype=np.float32)
    np.testing.assert_array_equal(boxes.jitter(box, (100, 4), np.random.default_rng(0)), box)


def test_boxes_that_no_image_has_are_faulty() -> None:
    good = [[0, 0, 1, 1], [5, 5, 5, 5], [-3, -3, 700, 1e6]]
    bad = [[0, 0, np.nan, 1], [-np.inf, 0, 1, 1], [0, 0, 1, 1.1e6], [2, 0, 1, 1], [0, 2, 1, 1]]
    assert boxes.is_faulty(np.array([*good, *bad], dtype=np.float64)).tolist() == [False] * 3 + [True] * 5
