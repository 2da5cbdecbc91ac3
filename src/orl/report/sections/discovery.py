"""The section of the discovery score: how many matched boxes are objects of one class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orl.datasets.labels import COVERING_IOU
from orl.report.content import Cell, Fraction, ScoreTable, Section
from orl.report.runs import ReportedRun, ReportInputs
from orl.rundir import read_discovery_score

KINDS = {
    "": "Best pair of two images",
    "kept_": "All kept pairs",
    "size_matched_": "Random pairs of the same sizes",
    "random_": "Random pairs",
}
"""Prefix of the keys of a score -> name of the scored pairs."""
SIZE_COLUMNS = ["Pairs", "Number", "Both, one class (%)", "Random of the same sizes (%)", "Times that"]
FRACTIONS = {
    "object_fraction": "Both on an object (%)",
    "same_class_fraction": "Of those, one class (%)",
    "both_fraction": "Both, one class (%)",
}
LIFTS = {"size_matched_lift": "Times same sizes", "lift": "Times random"}
"""Keys of a score that compare its best pairs with random pairs -> title of the column; old scores have the last."""


@dataclass(frozen=True, kw_only=True)
class Discovery(Section):
    """Scores of matched pairs and of random pairs."""

    template = "discovery.html"
    scores: ScoreTable | None
    by_size: ScoreTable | None
    iou_threshold: float
    sentences: Sequence[str]


def discovery_section(inputs: ReportInputs) -> Discovery:
    """Gather the discovery scores of the runs."""
    scores = [(run, score) for run in inputs.runs if (score := read_discovery_score(run.run)) is not None]
    scored = [run for run, _ in scores]
    reason = "Discovery has not been scored; that needs images whose objects are known (boxes with classes)"
    rows = [
        [run.named(name), *_cells(score, kind, [each for _, each in scores])]
        for run, score in scores
        for kind, name in KINDS.items()
        if f"{kind}num_pairs" in score
    ]
    columns = ["Pairs", "Number", *LIFTS.values(), *FRACTIONS.values()]
    by_size = [
        [run.named(name), *_size_cells(group)]
        for run, score in scores
        for name, group in score.get("by_size", {}).items()
    ]
    return Discovery(
        title="Discovery score",
        notes=[run.note(reason) for run in inputs.runs if run not in scored],
        scores=ScoreTable(caption="Matched pairs and random pairs", columns=columns, rows=rows) if rows else None,
        by_size=ScoreTable(caption="Best pairs by the size of their boxes", columns=SIZE_COLUMNS, rows=by_size)
        if by_size
        else None,
        iou_threshold=scores[0][1].get("iou_threshold", COVERING_IOU) if scores else COVERING_IOU,
        sentences=[_sentence(run, score) for run, score in scores],
    )


def _cells(score: Mapping[str, Any], kind: str, all_scores: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """Return a row; with several runs the best of the matched pairs is marked."""
    cells: list[Cell] = [f"{score[f'{kind}num_pairs']:,}"]
    cells += [_number(score.get(lift) if not kind else None) for lift in LIFTS]
    for fraction in FRACTIONS:
        value = score.get(f"{kind}{fraction}")
        best = max(each.get(f"{kind}{fraction}") or 0.0 for each in all_scores)
        is_best = len(all_scores) > 1 and not kind and value == best
        cells.append(Fraction(value, score.get(f"{kind}{fraction}_interval_95"), is_best))
    return cells


def _size_cells(group: Mapping[str, Any]) -> list[Cell]:
    interval = group["size_matched_lift_interval_95"]
    return [
        f"{group['num_pairs']:,}",
        Fraction(group["both_fraction"]),
        Fraction(group["size_matched_both_fraction"]),
        _number(group["size_matched_lift"]) + _range(interval),
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _range(interval: Sequence[float] | None) -> str:
    return f" ({interval[0]:.2f}–{interval[1]:.2f})" if interval else ""


def _sentence(run: ReportedRun, score: Mapping[str, Any]) -> str:
    """Return the size-matched lift and its meaning; for scores without it, the fractions on objects."""
    lift, interval = (score.get(key) for key in ("size_matched_lift", "size_matched_lift_interval_95"))
    if lift is None:
        return _object_sentence(run, score)
    both, expected = 100 * score["both_fraction"], 100 * score["size_matched_both_fraction"]
    sentence = run.titled(f"size-matched lift {lift:.2f}{_range(interval)}: {both:.2f}% of the best pairs join two ")
    sentence += f"objects of one class, and {expected:.2f}% of random pairs of RoIs of the same images and sizes"
    if lift <= 1:
        return f"{sentence}. Discovery is no better than chance here: stage 3 learns from noise."
    if not interval:
        return f"{sentence}. Too few pairs are of one class for an interval: this may be chance."
    if interval[0] <= 1:
        return f"{sentence}. The interval includes 1: with so few images this may be chance."
    return f"{sentence}. The further above 1, the more stage 3 can learn."


def _object_sentence(run: ReportedRun, score: Mapping[str, Any]) -> str:
    matched, chance = score["object_fraction"], score["random_object_fraction"]
    sentence = run.titled(f"both boxes lie on objects in {100 * matched:.1f}% of the best pairs ")
    sentence += f"and in {100 * chance:.1f}% of the random pairs"
    same, same_chance = score.get("same_class_fraction"), score.get("random_same_class_fraction")
    if same is not None and same_chance is not None:
        sentence += f"; where they do, the two are of one class in {100 * same:.1f}% against {100 * same_chance:.1f}%"
    if matched <= chance:
        return f"{sentence}. Discovery is no better than chance here: stage 3 learns from noise."
    interval, random_interval = (score.get(f"{kind}object_fraction_interval_95") for kind in ("", "random_"))
    if interval and random_interval and interval[0] <= random_interval[1]:
        return f"{sentence}. The two intervals overlap: with so few images this may be chance."
    return f"{sentence}. The further above chance, the more stage 3 can learn."
