import numpy as np
import pytest
from numpy.testing import assert_allclose

from orl.datasets.object_regions import BACKGROUND, OBJECT, UNKNOWN
from orl.evaluation.localisation import (
    THRESHOLDS,
    ImageScore,
    best_threshold,
    centre_map,
    compare,
    even_map,
    score_image,
    summarise,
)


def region_of(*rows: str) -> np.ndarray:
    """'#' for an object, '.' for background, '?' for unknown."""
    values = {"#": OBJECT, ".": BACKGROUND, "?": UNKNOWN}
    return np.array([[values[letter] for letter in row] for row in rows], dtype=np.uint8)


def map_of(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def score(hit: float, *overlaps: float, inside: float = 0.0) -> ImageScore:
    """An image with these overlaps at the first thresholds, and none at the others."""
    padded = np.zeros(len(THRESHOLDS))
    padded[: len(overlaps)] = overlaps
    return ImageScore(hit=hit, inside=inside, overlaps=padded)


def test_the_pointing_game_is_won_where_the_peak_lies_on_an_object():
    region = region_of("##..", "....")
    assert score_image(map_of([0, 1, 0.9, 0], [0.9, 0, 0, 0]), region).hit == 1
    assert score_image(map_of([0.9, 0.9, 1, 0], [0, 0, 0, 0]), region).hit == 0
    assert score_image(map_of([1, 0, 1, 0], [0, 0, 0, 0]), region).hit == 0.5


def test_the_iou_at_each_threshold_is_counted_by_hand():
    attention = map_of([1.0, 0.5, 0.5, 0.0])
    overlaps = score_image(attention, region_of("##..")).overlaps
    by_threshold = dict(zip(THRESHOLDS.round(2).tolist(), overlaps.tolist()))
    assert by_threshold[0.0] == 2 / 4  # all four pixels
    assert by_threshold[0.02] == 2 / 3
    assert by_threshold[0.5] == 2 / 3  # a pixel at the threshold is kept
    assert by_threshold[0.52] == 1 / 2
    assert by_threshold[0.98] == 1 / 2


def test_inside_is_the_fraction_of_the_sum_on_objects():
    assert score_image(map_of([0.75, 0.0, 0.25, 0.5]), region_of("##..")).inside == 0.5


def test_unknown_pixels_are_left_out():
    known = score_image(map_of([0.5, 1.0, 0.25]), region_of("#.."))
    with_unknown = score_image(map_of([0.5, 1.0, 0.25, 1.0, 0.7]), region_of("#..??"))
    assert known.hit == with_unknown.hit
    assert known.inside == with_unknown.inside
    assert np.array_equal(known.overlaps, with_unknown.overlaps)
    with pytest.raises(ValueError, match="pixels of the image are unknown"):
        score_image(map_of([0.5]), region_of("?"))


def test_an_even_map_scores_the_fraction_of_object_pixels():
    region = region_of("#...", "....")
    found = score_image(even_map((2, 4)), region)
    assert (found.hit, found.inside, found.overlaps.max()) == (1 / 8, 1 / 8, 1 / 8)


def test_the_best_iou_is_at_least_that_of_an_even_map():
    generator = np.random.default_rng(0)
    for _ in range(20):
        region = (generator.random((6, 7)) < 0.3).astype(np.uint8)
        attention = generator.random((6, 7), dtype=np.float32)
        assert score_image(attention, region).overlaps.max() >= region.mean() - 1e-12


def test_a_perfect_map_has_an_iou_of_one():
    region = region_of("##..", "....")
    assert score_image(region.astype(np.float32), region).overlaps.max() == 1


def test_the_centre_map_falls_from_the_middle_to_the_corners():
    attention = centre_map((5, 9))
    assert np.unravel_index(attention.argmax(), attention.shape) == (2, 4)
    assert attention.max() == 1
    corners = attention[::4, ::8]
    assert np.array_equal(corners, np.zeros((2, 2)))
    assert_allclose(attention, attention[::-1, ::-1])


def test_one_threshold_serves_all_images():
    # Alone, the images reach 0.8 and 0.6; together the second threshold is the best, with (0.5 + 0.6) / 2.
    found = [score(1, 0.8, 0.5), score(0, 0.1, 0.6)]
    assert_allclose(summarise(found).overlap.value, 0.55)
    assert best_threshold(found) == THRESHOLDS[1]
    assert summarise(found).pointing.value == 0.5


def test_equal_images_have_an_interval_of_width_zero():
    found = summarise([score(1, 0.3, inside=0.7)] * 9)
    for estimate, value in ((found.pointing, 1), (found.overlap, 0.3), (found.inside, 0.7)):
        assert_allclose([estimate.value, estimate.low, estimate.high], value, rtol=1e-12)


def test_the_interval_has_the_width_of_a_binomial():
    # 400 images of which half are hit: the mean of a resample has the standard deviation 0.025.
    found = summarise([score(1), score(0)] * 200).pointing
    assert found.value == 0.5
    assert_allclose([found.low, found.high], [0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025], atol=0.006)


def test_the_interval_depends_on_the_seed_alone():
    found = [score(1, 0.4), score(0, 0.2), score(1, 0.9)] * 5
    assert summarise(found, seed=1) == summarise(found, seed=1)
    assert summarise(found, seed=1) != summarise(found, seed=2)


def test_a_backbone_minus_itself_is_zero():
    generator = np.random.default_rng(0)
    found = [score(float(hit), *overlaps) for hit, overlaps in zip([1, 0, 0, 1], generator.random((4, 6)))]
    difference = compare(found, found)
    for estimate in (difference.pointing, difference.overlap, difference.inside):
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)


def test_a_constant_difference_has_an_interval_of_width_zero():
    generator = np.random.default_rng(0)
    hard = generator.random(30) / 2
    better, worse = [score(0, each + 0.25) for each in hard], [score(0, each) for each in hard]
    difference = compare(better, worse).overlap
    assert_allclose([difference.value, difference.low, difference.high], 0.25)
    alone = summarise(better).overlap
    assert alone.high - alone.low > 0.05
    swapped = compare(worse, better).overlap
    assert_allclose([swapped.value, swapped.low, swapped.high], -0.25)


def test_maps_and_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"a map of \(1, 2\) pixels does not fit regions of \(1, 3\)"):
        score_image(map_of([0, 1]), region_of("#.."))
    with pytest.raises(ValueError, match="0 images to score"):
        summarise([])
    with pytest.raises(ValueError, match="1 images cannot be paired with 2"):
        compare([score(1)], [score(1)] * 2)
    with pytest.raises(ValueError, match="0 images to score"):
        compare([], [])
