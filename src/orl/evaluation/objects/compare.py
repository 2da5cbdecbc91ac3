"""Comparison of backbones on the same labelled images: the difference of every score, with one verdict each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import combinations
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from orl.config import one_of
from orl.evaluation.bootstrap import Estimate, expanded_interval, resample_counts
from orl.evaluation.objects.image_sums import DRAW_SEED, ImageSums, resampled_scores
from orl.evaluation.objects.object_result import Row, Unit, read_rows
from orl.evaluation.protocol import Result
from orl.progress import progress_bar

Verdict = Literal["ahead", "behind", "cannot be told apart"]
RowKey = tuple[str, str]
"""Name of the evaluation, and name of the row in it."""

LEVEL = 0.95
"""Level of an interval; also the probability that all corrected intervals of the baseline's pairs cover together."""
NOT_ABOUT = ("task", "backbone", "data", "rows", "protocol_deviations", "elapsed_s", "inputs")
"""Parts of a result that say nothing on its options and its data."""
NUM_BLOCKS, BLOCK_SIZE = 10, 2000
"""Blocks of resamples, and resamples of each: with 50 rows, ten lie beyond each end of a corrected interval."""


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """A score minus another on the same images, with intervals over the test images."""

    value: float
    interval: tuple[float, float]
    """Interval of 95%."""
    corrected_interval: tuple[float, float]
    """Interval of the level that is corrected for the number of rows."""
    num_images: int
    num_differing_images: int
    """Images on which the two differ; the intervals rest on them."""
    verdict: Verdict | None
    """Verdict by the corrected interval; None for a score of which no value is better."""


@dataclass(frozen=True, kw_only=True)
class ComparedRow:
    """One score of two backbones."""

    task: str
    """Name of the evaluation."""
    name: str
    """Name of the score in it."""
    unit: Unit
    chance: float | None
    """Score of random labels, boxes or pairs."""
    score: Estimate
    other_score: Estimate
    paired: PairedDifference | None
    """Score minus other score; None if the scores have no sums by image, which could be paired."""


@dataclass(frozen=True, kw_only=True)
class BackbonePair:
    """A backbone compared with another by all scores that both have."""

    backbone: str
    other: str
    rows: tuple[ComparedRow, ...]
    missing: tuple[str, ...]
    """Scores that only one of the two has."""

    @property
    def ranked(self) -> list[tuple[ComparedRow, PairedDifference]]:
        """The rows that have a verdict, with their differences."""
        return [(row, row.paired) for row in self.rows if row.paired is not None and row.paired.verdict is not None]

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdicts of the rows that have one."""
        return [paired.verdict for _, paired in self.ranked if paired.verdict is not None]

    @property
    def sentence(self) -> str:
        """Verdicts in words, such as 'a is ahead of b in 6 of 8 rows, behind in none'."""
        num_ahead, num_behind = self.verdicts.count("ahead"), self.verdicts.count("behind")
        num_rows = len(self.verdicts)
        if not num_rows:
            return f"{self.backbone} and {self.other} have no row that can be compared"
        if not num_ahead and not num_behind:
            return f"{self.backbone} and {self.other} cannot be told apart in any of {num_rows} rows"
        return (
            f"{self.backbone} is ahead of {self.other} in {num_ahead} of {num_rows} rows, "
            f"behind in {num_behind or 'none'}"
        )


@dataclass(frozen=True, kw_only=True)
class ComparedEvaluation:
    """One evaluation as it was computed."""

    task: str
    about: Mapping[str, Any]
    """Splits, numbers of images and boxes, and options, from the result of the first backbone."""
    elapsed_s: Mapping[str, float]
    """Time by backbone, seconds."""
    protocol_deviations: Mapping[str, Sequence[str]]
    """Deviations from the published protocol by backbone."""


@dataclass(frozen=True, kw_only=True)
class BackboneComparison:
    """Backbones compared on one labelled data set."""

    data: str
    baseline: str
    backbones: tuple[str, ...]
    """Labels of all backbones, the baseline among them."""
    pairs: tuple[BackbonePair, ...]
    """All pairs: each backbone with the baseline first, then the others."""
    evaluations: tuple[ComparedEvaluation, ...]
    level: float
    """Level of each corrected interval."""
    seed: int
    """Seed of the resamples."""

    @property
    def baseline_pairs(self) -> tuple[BackbonePair, ...]:
        """Pairs with the baseline; their verdicts are those that the levels are corrected for."""
        return self.pairs[: len(self.backbones) - 1]

    @property
    def num_verdicts(self) -> int:
        """Verdicts on all backbones against the baseline."""
        return sum(len(pair.verdicts) for pair in self.baseline_pairs)

    @property
    def min_differing_images(self) -> int:
        """Fewest images on which two backbones must differ for a verdict of ahead or behind."""
        return min_differing_images(self.level)

    @property
    def sentences(self) -> list[str]:
        """One line in words for each backbone but the baseline."""
        return [pair.sentence for pair in self.baseline_pairs]

    def to_json(self) -> dict[str, Any]:
        """Return all pairs and the sentences as JSON values."""
        return {
            "kind": "comparison of backbones",
            **asdict(self),
            "sentences": self.sentences,
            "num_verdicts": self.num_verdicts,
            "min_differing_images": self.min_differing_images,
            "num_resamples": NUM_BLOCKS * BLOCK_SIZE,
        }


def compare_results(
    results: Sequence[Result], baseline: str | None = None, *, seed: int = 0, quiet: bool = True
) -> BackboneComparison:
    """Compare backbones by the results of object evaluations on the same data.

    Each difference is paired: every resample takes the same images for both backbones. The intervals that decide the
    verdicts are corrected by Bonferroni: with n verdicts, each has the level 1 - 0.05 / n. The probability of one false
    verdict or more is then at most 5%, over the choice of the test images.

    Args:
        results: of object evaluations, of two backbones or more.
        baseline: label of the backbone that all others are compared with; the first if None.
        seed: seed of the resamples.
        quiet: show no progress bar.

    Raises:
        ValueError: if there are fewer than two backbones, the baseline is not among them, a backbone has two results of
            an evaluation, or the data or the images differ.
    """
    rows, data = _rows_by_backbone(results)
    labels = list(rows)
    if len(labels) < 2:
        raise ValueError(f"a comparison needs two backbones or more, got {', '.join(labels) or 'none'}")
    baseline = labels[0] if baseline is None else baseline
    if baseline not in labels:
        raise ValueError(f"the baseline must be {one_of(labels, baseline)}")
    others = [label for label in labels if label != baseline]
    names = [*((label, baseline) for label in others), *((second, first) for first, second in combinations(others, 2))]
    num_verdicts = sum(len(_ranked_rows(rows[label], rows[baseline])) for label in others)
    level = 1 - (1 - LEVEL) / max(num_verdicts, 1)
    scores = _resample_all(rows, seed, quiet)
    return BackboneComparison(
        data=data,
        baseline=baseline,
        backbones=tuple(labels),
        pairs=tuple(_compare_pair(first, second, rows, scores, level) for first, second in names),
        evaluations=tuple(
            _as_computed(task, [result for result in results if result["task"] == task])
            for task in dict.fromkeys(str(result["task"]) for result in results)
        ),
        level=level,
        seed=seed,
    )


def _as_computed(task: str, results: Sequence[Result]) -> ComparedEvaluation:
    return ComparedEvaluation(
        task=task,
        about={name: value for name, value in results[0].items() if name not in NOT_ABOUT},
        elapsed_s={str(result["backbone"]): result["elapsed_s"] for result in results},
        protocol_deviations={str(result["backbone"]): result["protocol_deviations"] for result in results},
    )


def _rows_by_backbone(results: Sequence[Result]) -> tuple[dict[str, dict[RowKey, Row]], str]:
    """Return the rows of each backbone, and the data of all results."""
    rows: dict[str, dict[RowKey, Row]] = {}
    found: set[tuple[str, str]] = set()
    for result in results:
        label, task = str(result["backbone"]), str(result["task"])
        if (label, task) in found:
            raise ValueError(f"two results of {task} have the same backbone, {label}; give each backbone once")
        found.add((label, task))
        rows.setdefault(label, {}).update({(task, row.name): row for row in read_rows(result)})
    data = list(dict.fromkeys(str(result["data"]) for result in results))
    if len(data) > 1:
        raise ValueError(f"the results are of {len(data)} data sets ({', '.join(data)}); compare on one")
    return rows, "".join(data)


def _ranked_rows(first: Mapping[RowKey, Row], second: Mapping[RowKey, Row]) -> list[RowKey]:
    """Return the rows of both backbones that get a verdict."""
    return [
        key
        for key, row in first.items()
        if row.higher_is_better and row.sums is not None and key in second and second[key].sums is not None
    ]


def _resample_all(
    rows: Mapping[str, Mapping[RowKey, Row]], seed: int, quiet: bool
) -> dict[tuple[str, RowKey], Float[ndarray, "b"]]:
    """Return the scores of all images, then those of all resamples, by backbone and row.

    All rows with the same number of images have the same resamples.
    """
    sums = {(label, key): row.sums for label, own in rows.items() for key, row in own.items() if row.sums is not None}
    blocks: dict[tuple[str, RowKey], list[Float[ndarray, "b"]]] = {name: [] for name in sums}
    bar = progress_bar(range(NUM_BLOCKS), total=NUM_BLOCKS, title="paired bootstrap", unit="blocks", quiet=quiet)
    for block in bar:
        counts = cache(resample_counts)
        # Even seeds are those of the images, odd ones those of the draws.
        block_seed = seed + 2 * DRAW_SEED * block
        for name, each in sums.items():
            num_draws, num_images, _ = each.numerators.shape
            image_counts = counts(num_images, block_seed, BLOCK_SIZE)
            scores = resampled_scores(each, image_counts, counts(num_draws, block_seed + DRAW_SEED, BLOCK_SIZE))
            # The first value of a block is the score of all images.
            blocks[name].append(scores if block == 0 else scores[1:])
    return {name: np.concatenate(parts) for name, parts in blocks.items()}


def _compare_pair(
    label: str,
    other: str,
    rows: Mapping[str, Mapping[RowKey, Row]],
    scores: Mapping[tuple[str, RowKey], Float[ndarray, "b"]],
    level: float,
) -> BackbonePair:
    first, second = rows[label], rows[other]
    compared = []
    for key in (key for key in first if key in second):
        row, other_row = first[key], second[key]
        paired = None
        if row.sums is not None and other_row.sums is not None:
            _check_images(key, row.sums, other_row.sums)
            values = scores[label, key] - scores[other, key]
            paired = _paired(row.sums, other_row.sums, values, level, is_ranked=row.higher_is_better)
        compared.append(
            ComparedRow(
                task=key[0],
                name=key[1],
                unit=row.unit,
                chance=row.chance,
                score=row.estimate,
                other_score=other_row.estimate,
                paired=paired,
            )
        )
    missing = [": ".join(key) for key in {**first, **second} if key not in first or key not in second]
    return BackbonePair(backbone=label, other=other, rows=tuple(compared), missing=tuple(missing))


def _check_images(key: RowKey, first: ImageSums, second: ImageSums) -> None:
    if first.images != second.images or first.numerators.shape != second.numerators.shape:
        raise ValueError(
            f"{': '.join(key)} of two backbones cannot be paired: sums of {first.numerators.shape} and "
            f"{second.numerators.shape} (draws, images, classes), or of other images; score both on the same images "
            "with the same options"
        )


def _paired(
    first: ImageSums, second: ImageSums, values: Float[ndarray, "b"], level: float, *, is_ranked: bool
) -> PairedDifference:
    """Return a difference from its value on all images and those on resamples."""
    num_differing = count_differing_images(first, second)
    corrected = expanded_interval(values, num_differing, level)
    is_enough = num_differing >= min_differing_images(level)
    return PairedDifference(
        value=float(values[0]),
        interval=expanded_interval(values, num_differing, LEVEL),
        corrected_interval=corrected,
        num_images=len(first.images),
        num_differing_images=num_differing,
        verdict=_verdict(*corrected, is_enough=is_enough) if is_ranked else None,
    )


def _verdict(low: float, high: float, *, is_enough: bool) -> Verdict:
    if is_enough and low > 0:
        return "ahead"
    return "behind" if is_enough and high < 0 else "cannot be told apart"


def count_differing_images(first: ImageSums, second: ImageSums) -> int:
    """Count the images on which two backbones have other sums."""
    is_other = (first.numerators != second.numerators) | (first.denominators != second.denominators)
    return int(is_other.any(axis=(0, 2)).sum())


def min_differing_images(level: float) -> int:
    """Return the fewest differing images that can decide: a sign test on fewer cannot reach the level.

    If every image is as likely to favour either backbone, all n favour one of them with probability 2^(1 - n).
    """
    return math.ceil(1 - math.log2(1 - level))
