"""Ratios of sums over images: known values, intervals, pairing, and JSON."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orl.evaluation.objects.image_sums import ImageSums, estimate, paired_difference, sums_from_json, sums_to_json


def random_sums(seed: int, draws: int = 1, images: int = 40, classes: int = 3, rate: float = 0.5) -> ImageSums:
    generator = np.random.default_rng(seed)
    denominators = generator.integers(0, 4, (draws, images, classes)).astype(float)
    numerators = generator.binomial(denominators.astype(int), rate).astype(float)
    names = tuple(f"{index}.jpg" for index in range(images))
    return ImageSums(images=names, numerators=numerators, denominators=denominators)


def loop_score(sums: ImageSums, rows: list[int]) -> float:
    """Compute the score of a list of images, as the text says."""
    draws = []
    for draw in range(len(sums.numerators)):
        ratios = []
        for column in range(sums.numerators.shape[2]):
            below = sum(sums.denominators[draw, row, column] for row in rows)
            if below > 0:
                ratios.append(sum(sums.numerators[draw, row, column] for row in rows) / below)
        draws.append(sum(ratios) / len(ratios))
    return sum(draws) / len(draws)


@pytest.mark.parametrize("draws", [1, 3])
def test_the_value_is_the_mean_over_draws_and_classes(draws: int) -> None:
    sums = random_sums(0, draws)
    assert sums.value == pytest.approx(loop_score(sums, list(range(40))))
    assert estimate(sums).value == pytest.approx(sums.value)


def test_a_class_that_no_image_has_is_left_out() -> None:
    sums = random_sums(1)
    sums.denominators[:, :, 2] = sums.numerators[:, :, 2] = 0
    only = ImageSums(images=sums.images, numerators=sums.numerators[:, :, :2], denominators=sums.denominators[:, :, :2])
    assert sums.value == only.value


def test_perfect_scores_have_an_interval_without_width() -> None:
    sums = random_sums(2, rate=1.0)
    found = estimate(sums)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_the_interval_covers_the_truth_in_most_repeats() -> None:
    covered = 0
    for seed in range(200):
        found = estimate(random_sums(seed, images=80, rate=0.3), seed)
        covered += found.low <= 0.3 <= found.high
    assert 180 <= covered <= 199


def test_the_interval_is_that_of_resampled_images() -> None:
    sums = random_sums(3, images=15)
    generator = np.random.default_rng(7)
    values = [loop_score(sums, generator.integers(15, size=15).tolist()) for _ in range(2000)]
    found = estimate(sums)
    # Two samples of 2,000 resamples: their quantiles differ by about a twentieth of the std.
    assert np.allclose(np.quantile(values, [0.025, 0.975]), [found.low, found.high], atol=0.25 * np.std(values))


def test_draws_widen_the_interval() -> None:
    sums = random_sums(4, draws=5, images=200)
    sums.numerators[0] = 0
    sums.numerators[1] = sums.denominators[1]
    widths = [
        found.high - found.low
        for found in (
            estimate(sums),
            estimate(
                ImageSums(
                    **{
                        **vars(sums),
                        "numerators": np.repeat(sums.numerators.mean(axis=0, keepdims=True), 5, axis=0),
                        "denominators": np.repeat(sums.denominators.mean(axis=0, keepdims=True), 5, axis=0),
                    }
                )
            ),
        )
    ]
    assert widths[0] > 2 * widths[1]


def test_a_backbone_does_not_differ_from_itself() -> None:
    sums = random_sums(5, draws=2)
    found = paired_difference(sums, sums)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_pairing_removes_the_difficulty_of_images() -> None:
    generator = np.random.default_rng(0)
    hard = generator.random(200) < 0.5
    names = tuple(str(row) for row in range(200))
    ones = np.ones((1, 200, 1))
    first = np.where(hard, 0.0, 1.0)
    second = first.copy()
    second[np.flatnonzero(first)[:10]] = 0
    one, two = (ImageSums(images=names, numerators=each[None, :, None], denominators=ones) for each in (first, second))
    found = paired_difference(one, two)
    assert found.value == pytest.approx(0.05)
    assert found.low > 0
    assert estimate(one).low < estimate(two).high  # unpaired intervals overlap


@given(st.integers(0, 2**31), st.integers(1, 3))
def test_json_keeps_every_sum(seed: int, draws: int) -> None:
    sums = random_sums(seed, draws, images=6)
    again = sums_from_json(json.loads(json.dumps(sums_to_json(sums))))
    assert again.images == sums.images
    np.testing.assert_array_equal(again.denominators, sums.denominators)
    np.testing.assert_array_equal(again.numerators, sums.numerators)


def test_other_images_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="40 images cannot be paired with 39"):
        paired_difference(random_sums(0), random_sums(0, images=39))
    with pytest.raises(ValueError, match="1 draws cannot be paired with 2"):
        paired_difference(random_sums(0), random_sums(0, draws=2))


def test_sums_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sums of 2 images .* got \(1, 3, 1\)"):
        ImageSums(images=("a", "b"), numerators=np.ones((1, 3, 1)), denominators=np.ones((1, 3, 1)))
