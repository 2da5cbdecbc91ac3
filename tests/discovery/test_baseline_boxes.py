import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orl.boxes import iou
from orl.discovery.baseline_boxes import grid_boxes, random_boxes

SIDES = (1.0, 0.7, 0.5, 0.35, 0.25)
sizes = st.tuples(st.integers(1, 900), st.integers(1, 900)).filter(lambda size_wh: max(size_wh) < 20 * min(size_wh))


def starts_by_loops(size: float, side: float) -> list[float]:
    """Evenly spread, about half a side apart, the first at one end and the last at the other."""
    if side > size:
        return []
    steps = round((size - side) / (side / 2))
    return [(size - side) * step / steps for step in range(steps + 1)] if steps else [0.0]


def test_the_grid_of_a_square_is_known() -> None:
    found = grid_boxes((100, 100))
    # The whole image and the square of its side; 70 and 30 left; 50, 25 apart; 35 by fours; 25, 12.5 apart.
    squares = found[np.isclose(found[:, 2] - found[:, 0], found[:, 3] - found[:, 1])]
    sides = np.round(squares[:, 2] - squares[:, 0]).astype(int)
    assert {side: int((sides == side).sum()) for side in np.unique(sides)} == {100: 2, 70: 4, 50: 9, 35: 25, 25: 49}
    assert sorted(set(squares[sides == 50][:, 0].tolist())) == [0, 25, 50]
    assert found[0].tolist() == [0, 0, 100, 100]


def test_half_and_double_aspect_ratios_keep_the_area() -> None:
    found = grid_boxes((400, 300)).astype(float)
    wide, high = (found[1:, 2:] - found[1:, :2]).T
    assert set(np.round(wide / high, 2)) == {0.5, 1.0, 2.0}
    areas = np.sqrt(wide * high) / 300
    np.testing.assert_allclose(np.unique(np.round(areas, 3)), sorted(SIDES), atol=1e-3)
    assert (np.diff(areas) < 1e-5).all()


@given(sizes)
@settings(max_examples=50, deadline=None)
def test_the_grid_is_that_of_loops(size_wh: tuple[int, int]) -> None:
    width, height = size_wh
    wanted = [[0.0, 0.0, width, height]]
    for side in SIDES:
        for ratio in (1, 1 / 2, 2):
            box_width, box_height = side * min(size_wh) * np.sqrt(ratio), side * min(size_wh) / np.sqrt(ratio)
            for top in starts_by_loops(height, box_height):
                for left in starts_by_loops(width, box_width):
                    wanted.append([left, top, left + box_width, top + box_height])
    np.testing.assert_allclose(grid_boxes(size_wh), wanted, rtol=1e-5, atol=1e-4)


@given(sizes)
@settings(max_examples=50, deadline=None)
def test_boxes_of_both_kinds_lie_inside_the_image(size_wh: tuple[int, int]) -> None:
    for found in (grid_boxes(size_wh), random_boxes(size_wh, np.random.default_rng(size_wh[0]))):
        assert found.dtype == np.float32
        assert (found[:, :2] >= 0).all()
        assert (found[:, 2:] <= size_wh).all()
        assert (found[:, 2:] > found[:, :2]).all()


@given(sizes)
@settings(max_examples=30, deadline=None)
def test_the_grid_of_a_rotated_image_is_the_rotated_grid(size_wh: tuple[int, int]) -> None:
    turned = grid_boxes(size_wh)[:, [1, 0, 3, 2]]
    others = grid_boxes(size_wh[::-1])
    assert len(turned) == len(others)
    np.testing.assert_allclose(
        sorted(np.round(turned, 2).tolist()), sorted(np.round(others, 2).tolist()), rtol=1e-5, atol=0.02
    )


def test_a_grid_covers_every_large_object() -> None:
    objects = random_boxes((640, 480), np.random.default_rng(0))
    sides = objects[:, 2:] - objects[:, :2]
    large = objects[(sides.min(axis=1) > 150) & (sides.max(axis=1) < 2 * sides.min(axis=1))]
    assert len(large) > 100
    assert iou(large, grid_boxes((640, 480))).max(axis=1).min() > 0.35


@pytest.mark.parametrize("size_wh", [(640, 480), (50, 2000), (1, 1)])
def test_random_sides_are_uniform_on_a_log_scale_and_places_are_uniform(size_wh: tuple[int, int]) -> None:
    generator = np.random.default_rng(3)
    found = np.concatenate([random_boxes(size_wh, generator) for _ in range(20)]).astype(float)
    assert len(found) == 20_000
    sides = (found[:, 2:] - found[:, :2]) / size_wh
    assert 0.0999 < sides.min() < 0.101
    assert 0.99 < sides.max() <= 1
    quantiles = np.linspace(0.1, 0.9, 9)
    for axis in range(2):
        # Standard errors are below 0.004.
        exponents = 1 + np.log10(sides[:, axis])
        np.testing.assert_allclose(np.quantile(exponents, quantiles), quantiles, atol=0.02)
        room = size_wh[axis] - (found[:, 2 + axis] - found[:, axis])
        free = room > 0.05 * size_wh[axis]
        np.testing.assert_allclose(np.quantile((found[:, axis] / room)[free], quantiles), quantiles, atol=0.02)
    draws = np.concatenate([np.log(sides), found[:, :2] / size_wh], axis=1)
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 0.03
    assert abs(np.corrcoef(draws[:, 2], draws[:, 3])[0, 1]) < 0.03


def test_random_boxes_come_from_the_generator() -> None:
    first, again, other = (random_boxes((64, 48), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
