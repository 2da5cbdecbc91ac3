"""Comparison of backbones: known verdicts, the correction for the number of rows, pairing, JSON, and refusals."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import paired_bootstrap

from orl.evaluation.bootstrap import Estimate, expanded_interval
from orl.evaluation.objects import compare
from orl.evaluation.objects.compare import compare_results, min_differing_images
from orl.evaluation.objects.image_sums import ImageSums, paired_difference
from orl.evaluation.objects.object_result import Row, object_result, row_of


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw 4,000 resamples in two blocks, so that a comparison takes milliseconds."""
    monkeypatch.setattr(compare, "NUM_BLOCKS", 2)


def sums_of(correct: Sequence[float], names: str = "image") -> ImageSums:
    """Return the sums of one object an image."""
    values = np.array(correct, dtype=float)[None, :, None]
    images = tuple(f"{names} {index}" for index in range(len(correct)))
    return ImageSums(images=images, numerators=values, denominators=np.ones_like(values))


def result(label: str, task: str = "roi-knn", data: str = "labelled", **rows: ImageSums | Row) -> dict[str, Any]:
    """Return a result whose rows have the given sums."""
    found = [each if isinstance(each, Row) else row_of(name, each, seed=0) for name, each in rows.items()]
    return object_result(task, found, backbone=label, data=data, protocol_deviations=[], elapsed_s=1.0)


HALF = [0, 1] * 30
ALL = [1] * 60


def test_known_sums_have_known_verdicts() -> None:
    few = [1, *HALF[1:]]
    first = {"ahead": sums_of(ALL), "behind": sums_of([0] * 60), "same": sums_of(HALF), "few": sums_of(few)}
    found = compare_results(
        [result("random", **dict.fromkeys(first, sums_of(HALF))), result("mine", **first)]
    ).baseline_pairs[0]
    assert [each.paired.verdict for each in found.rows] == [
        "ahead",
        "behind",
        "cannot be told apart",
        "cannot be told apart",
    ]
    assert [each.paired.value for each in found.rows] == pytest.approx([0.5, -0.5, 0.0, 1 / 60])
    assert [each.paired.num_differing_images for each in found.rows] == [30, 30, 0, 1]
    assert found.sentence == "mine is ahead of random in 1 of 4 rows, behind in 1"


def test_a_backbone_does_not_differ_from_itself() -> None:
    rows = {"top-1": sums_of(HALF), "mIoU": sums_of([0.3] * 60)}
    found = compare_results([result("a", **rows), result("again", **rows)]).baseline_pairs[0]
    assert [(each.paired.value, each.paired.interval, each.paired.verdict) for each in found.rows] == [
        (0.0, (0.0, 0.0), "cannot be told apart")
    ] * 2
    assert found.sentence == "again and a cannot be told apart in any of 2 rows"


@pytest.mark.parametrize("draws", [1, 4])
def test_the_interval_is_that_of_paired_resamples(draws: int) -> None:
    generator = np.random.default_rng(0)
    images = tuple(map(str, range(300)))
    first, second = (
        ImageSums(
            images=images,
            # Some draws of training images give better scores.
            numerators=generator.random((draws, 300, 2))
            * np.linspace(0.2, 1, draws)[generator.permutation(draws), None, None],
            denominators=np.ones((draws, 300, 2)),
        )
        for _ in range(2)
    )
    found = compare_results([result("b", x=second), result("a", x=first)]).pairs[0].rows[0].paired
    plain = paired_difference(first, second)
    assert found.value == pytest.approx(plain.value)
    # Widened for 300 images by 0.5%; quantiles of two samples of resamples differ by about a tenth of their std.
    assert found.interval == pytest.approx((plain.low, plain.high), abs=0.25 * (plain.high - plain.low) / 4)


def test_the_interval_widens_with_the_number_of_rows() -> None:
    generator = np.random.default_rng(1)
    first, second = (sums_of(generator.random(50)) for _ in range(2))
    widths = []
    for count in (1, 10):
        rows = [{f"row {index}": each for index in range(count)} for each in (first, second)]
        found = compare_results([result("a", **rows[0]), result("b", **rows[1])])
        assert found.num_verdicts == count
        assert found.level == pytest.approx(1 - 0.05 / count)
        each = found.pairs[0].rows[0].paired
        widths.append(each.corrected_interval[1] - each.corrected_interval[0])
    assert widths[1] > 1.2 * widths[0]
    assert found.pairs[0].rows[0].paired.interval[0] > each.corrected_interval[0]


def test_one_row_has_one_interval() -> None:
    generator = np.random.default_rng(2)
    first, second = (sums_of(generator.random(20)) for _ in range(2))
    found = compare_results([result("a", x=first), result("b", x=second)]).pairs[0].rows[0].paired
    assert found.interval == pytest.approx(found.corrected_interval)


def random_pairs(seed: int, num_images: int) -> list[tuple[ImageSums, ImageSums]]:
    """Return pairs of sums of three classes, the second of which is better and better."""
    generator = np.random.default_rng(seed)
    pairs = []
    for gain in (0.0, 0.0, 0.6, -0.6):
        denominators = generator.integers(0, 3, (1, num_images, 3)).astype(float)
        both = [generator.binomial(denominators.astype(int), rate).astype(float) for rate in (0.5, 0.5 + gain / 2)]
        images = tuple(map(str, range(num_images)))
        pairs.append(tuple(ImageSums(images=images, numerators=each, denominators=denominators) for each in both))
    return pairs


@pytest.mark.parametrize("num_images", [8, 40])
def test_verdicts_are_those_of_loops(num_images: int) -> None:
    pairs = random_pairs(3, num_images)
    rows = [{str(index): pair[side] for index, pair in enumerate(pairs)} for side in (0, 1)]
    found = compare_results([result("a", **rows[0]), result("b", **rows[1])]).baseline_pairs[0]

    def plain(sums: ImageSums) -> list[list[tuple[float, float]]]:
        return [list(zip(*each)) for each in zip(sums.numerators[0].tolist(), sums.denominators[0].tolist())]

    expected = paired_bootstrap.verdicts([(plain(second), plain(first)) for first, second in pairs], 2000)
    assert found.verdicts == expected
    assert ("ahead" in expected) == (num_images == 40)


@given(st.integers(2, 200), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_the_widened_tail_is_that_of_the_reference(num_images: int, level: float) -> None:
    values = np.concatenate([[0.0], np.linspace(0, 1, 1001)])  # quantiles of the resamples are their own order
    low, high = expanded_interval(values, num_images, level)
    tail = paired_bootstrap.tail_of(level, num_images)
    assert (low, high) == pytest.approx((tail, 1 - tail), abs=1e-9)


def test_verdicts_of_equal_backbones_are_rarely_wrong() -> None:
    generator = np.random.default_rng(4)
    num_wrong = 0
    for _ in range(40):
        rows = [{str(i): sums_of(generator.integers(0, 2, 40)) for i in range(4)} for _ in range(2)]
        verdicts = compare_results([result("a", **rows[0]), result("b", **rows[1])]).baseline_pairs[0].verdicts
        num_wrong += verdicts != ["cannot be told apart"] * 4
    assert num_wrong <= 6  # 2 of 40 are expected at most


@pytest.mark.parametrize(("level", "fewest"), [(0.95, 6), (0.75, 3), (1 - 0.05 / 20, 10)])
def test_few_differing_images_cannot_decide(level: float, fewest: int) -> None:
    assert min_differing_images(level) == fewest
    assert 2 * 0.5**fewest <= 1 - level < 4 * 0.5**fewest


def test_images_that_all_favour_one_need_a_certain_number() -> None:
    for count, verdict in ((5, "cannot be told apart"), (6, "ahead")):
        found = compare_results([result("a", x=sums_of([0] * count)), result("b", x=sums_of([1] * count))])
        assert found.baseline_pairs[0].verdicts == [verdict]


def test_every_backbone_is_compared_with_the_baseline_first() -> None:
    results = [result(label, x=sums_of(each)) for label, each in (("a", HALF), ("b", ALL), ("c", [0] * 60))]
    found = compare_results(results, "b")
    assert [(pair.backbone, pair.other) for pair in found.pairs] == [("a", "b"), ("c", "b"), ("c", "a")]
    assert found.sentences == [
        "a is ahead of b in 0 of 1 rows, behind in 1",
        "c is ahead of b in 0 of 1 rows, behind in 1",
    ]
    assert found.num_verdicts == 2
    assert found.pairs[2].verdicts == ["behind"]


def test_scores_without_sums_have_intervals_and_no_verdict() -> None:
    rank = Row(name="rank", estimate=Estimate(value=3.0, low=2.5, high=3.5), unit="number")
    std = row_of("std", sums_of(ALL), seed=0)
    std = Row(**{**vars(std), "higher_is_better": False})
    found = compare_results([result(label, rank=rank, std=std, x=sums_of(HALF)) for label in "ab"])
    first, second, _ = found.pairs[0].rows
    assert (first.score, first.paired) == (rank.estimate, None)
    assert (second.paired.value, second.paired.verdict) == (0.0, None)
    assert found.num_verdicts == 1


def test_scores_of_one_backbone_only_are_named() -> None:
    found = compare_results([result("a", x=sums_of(HALF), y=sums_of(HALF)), result("b", x=sums_of(HALF))])
    assert found.pairs[0].missing == ("roi-knn: y",)


def test_nothing_in_common_is_said() -> None:
    found = compare_results([result("a", x=sums_of(HALF)), result("b", task="rank", x=sums_of(HALF))])
    assert found.sentences == ["b and a have no row that can be compared"]


def test_json_holds_every_pair() -> None:
    results = [result(label, x=sums_of(each)) for label, each in (("a", HALF), ("b", ALL), ("c", HALF))]
    found = compare_results(results)
    content = json.loads(json.dumps(found.to_json()))
    assert content["sentences"] == found.sentences
    assert content["level"] == pytest.approx(0.975)
    assert [(pair["backbone"], pair["other"]) for pair in content["pairs"]] == [("b", "a"), ("c", "a"), ("c", "b")]
    row = content["pairs"][0]["rows"][0]
    one = row["paired"]
    assert one["value"] == pytest.approx(0.5)
    assert (one["verdict"], one["num_images"], one["num_differing_images"]) == ("ahead", 60, 30)
    assert row["score"]["value"] == 1.0


def test_the_seed_alone_decides_the_resamples() -> None:
    results = [result("a", x=sums_of(HALF)), result("b", x=sums_of([*HALF[:20], *ALL[20:]]))]
    assert compare_results(results) == compare_results(results)
    assert compare_results(results, seed=1) != compare_results(results)


def test_one_backbone_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="needs two backbones or more, got a"):
        compare_results([result("a", x=sums_of(HALF))])
    with pytest.raises(ValueError, match="got none"):
        compare_results([])


def test_two_results_of_one_backbone_are_refused() -> None:
    with pytest.raises(ValueError, match="two results of roi-knn have the same backbone, a;"):
        compare_results([result("a", x=sums_of(HALF)), result("a", x=sums_of(ALL))])


def test_an_unknown_baseline_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the baseline must be .*'randon'"):
        compare_results([result(label, x=sums_of(HALF)) for label in ("random", "b")], "randon")


def test_other_data_or_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 data sets \(labelled, other\)"):
        compare_results([result("a", x=sums_of(HALF)), result("b", data="other", x=sums_of(HALF))])
    with pytest.raises(ValueError, match=r"roi-knn: x of two backbones .*\(1, 60, 1\)"):
        compare_results([result("a", x=sums_of(HALF)), result("b", x=sums_of(HALF, names="photo"))])
