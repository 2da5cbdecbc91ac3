"""The page of a comparison of backbones: verdicts, paired differences with their intervals, scores, and data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from orl import files
from orl.evaluation.bootstrap import Estimate
from orl.evaluation.objects.compare import (
    BLOCK_SIZE,
    LEVEL,
    NUM_BLOCKS,
    BackboneComparison,
    BackbonePair,
    ComparedEvaluation,
    ComparedRow,
    PairedDifference,
    Verdict,
)
from orl.evaluation.objects.object_result import Unit
from orl.figures.sheets import count_text
from orl.report.content import Cell, Fraction, Note, ScoreTable, Section
from orl.report.page import render_page
from orl.report.scores import name_dataset
from orl.report.sections.overview import duration

MAX_INTERVALS = 5
"""Intervals between the ticks of an axis, at most."""
KINDS: dict[Verdict, str] = {"ahead": "ahead", "behind": "behind", "cannot be told apart": "undecided"}
"""Class of each verdict in the style sheet."""
UNITS: dict[Unit, str] = {"fraction": "points out of 100", "number": "numbers"}
"""Text for each unit."""
NAMED_IN_DATA = ("train_split", "test_split", "num_train", "num_test", "size_px")
"""Parts of a result that `name_dataset` shows."""


@dataclass(frozen=True, kw_only=True)
class IntervalRow:
    """One difference as it is drawn; positions are per cent of the width of the axis."""

    name: str
    difference: str
    range: str
    """The corrected interval."""
    verdict: str
    remark: str
    kind: str
    """Class of the style sheet."""
    position: float
    interval: tuple[float, float]
    corrected: tuple[float, float]
    description: str
    """Text for screen readers."""


@dataclass(frozen=True, kw_only=True)
class IntervalChart:
    """Differences of one unit on one axis."""

    caption: str
    ticks: Sequence[tuple[float, str, str]]
    """Position, label and class of each tick; those of class 'minor' have no label on a narrow screen."""
    zero: float
    """Position of a difference of 0."""
    rows: Sequence[IntervalRow]


@dataclass(frozen=True, kw_only=True)
class Differences(Section):
    """The differences of one backbone from the baseline."""

    template = "differences.html"
    sentence: str
    charts: Sequence[IntervalChart]


@dataclass(frozen=True, kw_only=True)
class Verdicts(Section):
    """The verdicts in words and numbers, and how they are made."""

    template = "verdicts.html"
    sentences: Sequence[str]
    summary: ScoreTable
    method: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class TableSection(Section):
    """Sentences and tables."""

    template = "tables.html"
    sentences: Sequence[str]
    tables: Sequence[ScoreTable]


def write_compare_page(
    comparison: BackboneComparison,
    path: Path,
    *,
    left_out: Mapping[str, str] | None = None,
    failures: Sequence[str] = (),
) -> Path:
    """Write the HTML page of a comparison; it needs no other file.

    Args:
        comparison: the comparison.
        path: the page.
        left_out: reason by the name of each evaluation that is left out.
        failures: reasons of evaluations that failed.

    Returns:
        The path.
    """
    others = [pair.backbone for pair in comparison.baseline_pairs]
    page = render_page(
        "compare_page.html",
        kind="ORL comparison of backbones",
        names=[f"{' · '.join(others)} against {comparison.baseline}"],
        lead=f"{Path(comparison.data).name} · {count_text(comparison.num_verdicts, 'verdict')} on frozen features",
        tiles=[
            (
                f"{pair.verdicts.count('ahead')} of {len(pair.verdicts)}",
                f"rows in which {pair.backbone} is ahead; behind in {pair.verdicts.count('behind')}",
            )
            for pair in comparison.baseline_pairs
        ],
        sections=[
            _verdicts(comparison, failures),
            *(_differences(pair, comparison) for pair in comparison.baseline_pairs),
            _scores(comparison),
            _computation(comparison, left_out or {}),
        ],
        thumbnails=[],
    )
    files.write_atomically(path, page)
    return path


def _verdicts(comparison: BackboneComparison, failures: Sequence[str]) -> Verdicts:
    decided = [pair.verdicts for pair in comparison.baseline_pairs]
    return Verdicts(
        title="Verdicts",
        notes=[Note(f"An evaluation failed, and its rows are missing: {reason}") for reason in failures],
        sentences=[f"{sentence}." for sentence in comparison.sentences],
        summary=ScoreTable(
            caption=f"Rows by verdict, against {comparison.baseline}",
            columns=["Backbone", *(kind.capitalize() for kind in KINDS), "Rows"],
            rows=[
                [pair.backbone, *(str(verdicts.count(kind)) for kind in KINDS), str(len(verdicts))]
                for pair, verdicts in zip(comparison.baseline_pairs, decided)
            ],
        ),
        method=[
            "Both backbones are scored on the same test images, with the same training images, options and seeds. The "
            f"difference of a score is resampled over the test images {NUM_BLOCKS * BLOCK_SIZE:,} times; each resample "
            "takes the same images for both, so that hard images do not count as differences. Rows with several draws "
            "of training images resample the draws too.",
            f"There are {count_text(comparison.num_verdicts, 'verdict')} on this page. With intervals of "
            f"{LEVEL:.0%}, one of twenty verdicts on equal backbones would be wrong. Each interval that decides "
            f"therefore has the level {_percent(comparison)}, which is corrected for that number (Bonferroni): "
            "the probability that any verdict of ahead or behind is wrong is about 5% at most.",
            'A backbone is "ahead" where this corrected interval is above 0, and "behind" where it is below 0. All '
            'others "cannot be told apart". The intervals are widened for few images as those of Student are, and rest '
            f"on the images on which the two differ: at least {comparison.min_differing_images} for a verdict of ahead "
            "or behind.",
            "The seed of the training is not in these intervals, nor is the choice of the training images.",
        ],
    )


def _differences(pair: BackbonePair, comparison: BackboneComparison) -> Differences:
    notes = [Note(f"Only one of the two has these scores: {', '.join(pair.missing)}")] if pair.missing else []
    return Differences(
        title=f"{pair.backbone} against {pair.other}",
        notes=notes,
        sentence=pair.sentence,
        charts=[
            _chart(rows, unit, pair, comparison)
            for unit in UNITS
            if (rows := [(row, paired) for row, paired in pair.ranked if row.unit == unit])
        ],
    )


def _chart(
    rows: Sequence[tuple[ComparedRow, PairedDifference]], unit: Unit, pair: BackbonePair, comparison: BackboneComparison
) -> IntervalChart:
    scale = 100 if unit == "fraction" else 1
    ends = [0.0, *(scale * end for _, paired in rows for end in paired.corrected_interval)]
    ticks = list(MaxNLocator(MAX_INTERVALS, steps=[1, 2, 2.5, 5, 10]).tick_values(min(ends), max(ends)))
    low, width = ticks[0], ticks[-1] - ticks[0]

    def position(value: float) -> float:
        return round(100 * (scale * value - low) / width, 2)

    return IntervalChart(
        caption=(
            f"{pair.backbone} minus {pair.other}, {UNITS[unit]}: dot, difference; thick line, {LEVEL:.0%} interval; "
            f"thin line, and the range in the column, the interval of {_percent(comparison)} that decides"
        ),
        ticks=[
            (
                round(100 * (tick - low) / width, 2),
                _tick_text(tick),
                {0.0: "zero", ticks[0]: "first", ticks[-1]: "last"}.get(tick, "minor"),
            )
            for tick in ticks
        ],
        zero=position(0.0),
        rows=[_interval_row(row, paired, comparison, position) for row, paired in rows],
    )


def _interval_row(
    row: ComparedRow, paired: PairedDifference, comparison: BackboneComparison, position: Callable[[float], float]
) -> IntervalRow:
    value = _signed(paired.value, row.unit)
    plain, decides = (
        " to ".join(_signed(end, row.unit) for end in ends) for ends in (paired.interval, paired.corrected_interval)
    )
    is_few = paired.num_differing_images < comparison.min_differing_images
    differ = f"differ on {paired.num_differing_images} of {count_text(paired.num_images, 'image')}"
    verdict = paired.verdict or "cannot be told apart"
    return IntervalRow(
        name=f"{row.task}: {row.name}",
        difference=value,
        range=decides,
        verdict=verdict,
        remark=differ if is_few else "",
        kind=KINDS[verdict],
        position=position(paired.value),
        interval=(position(paired.interval[0]), position(paired.interval[1])),
        corrected=(position(paired.corrected_interval[0]), position(paired.corrected_interval[1])),
        description=f"Difference {value}, {LEVEL:.0%} interval {plain}, interval of {_percent(comparison)} {decides}",
    )


def _scores(comparison: BackboneComparison) -> TableSection:
    """Return the scores of all backbones, those without a verdict too."""
    scores: dict[tuple[str, str], dict[str, Estimate]] = {}
    rows: dict[tuple[str, str], ComparedRow] = {}
    for pair in comparison.pairs:
        for row in pair.rows:
            key = row.task, row.name
            rows[key] = row
            scores.setdefault(key, {}).update({pair.backbone: row.score, pair.other: row.other_score})
    return TableSection(
        title="Scores",
        sentences=[
            f"Each score has its own {LEVEL:.0%} interval over the test images. Two of them may overlap where the "
            "paired difference is clear. Chance is the score of random labels, boxes or pairs. Rows marked * get no "
            "verdict: they have no sums by image that could be paired, or no value is better.",
        ],
        tables=[
            ScoreTable(
                caption=f"Scores on {Path(comparison.data).name}, {text}",
                columns=["Score", *comparison.backbones, "Chance"],
                rows=[
                    [
                        f"{row.task}: {row.name}{'' if row.paired and row.paired.verdict else ' *'}",
                        *(_score_cell(scores[key].get(label), unit) for label in comparison.backbones),
                        "–" if row.chance is None else _number(row.chance, unit),
                    ]
                    for key, row in own.items()
                ],
            )
            for unit, text in UNITS.items()
            if (own := {key: row for key, row in rows.items() if row.unit == unit})
        ],
    )


def _computation(comparison: BackboneComparison, left_out: Mapping[str, str]) -> TableSection:
    """Return the data, options and times of all evaluations, and the deviations from their protocols."""
    by_text: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for each in comparison.evaluations:
        for label, found in each.protocol_deviations.items():
            for text in found:
                tasks, labels = by_text.setdefault(text, ({}, {}))
                tasks[each.task] = labels[label] = None
    tables = [
        ScoreTable(
            caption="Evaluations",
            columns=["Evaluation", "Data", "Options"],
            rows=[
                [each.task, name_dataset({**each.about, "data": comparison.data}), _options(each)]
                for each in comparison.evaluations
            ],
        ),
        ScoreTable(
            caption="Time of each backbone; features that another evaluation has computed are reused",
            columns=["Evaluation", *comparison.backbones],
            rows=[
                [
                    each.task,
                    *(
                        duration(each.elapsed_s[name]) if name in each.elapsed_s else "–"
                        for name in comparison.backbones
                    ),
                ]
                for each in comparison.evaluations
            ],
        ),
        ScoreTable(
            caption="Deviations from the published protocols",
            columns=["Deviation", "Evaluations", "Backbones"],
            rows=[
                [text, ", ".join(tasks), "all" if len(labels) == len(comparison.backbones) else ", ".join(labels)]
                for text, (tasks, labels) in by_text.items()
            ],
        ),
        ScoreTable(
            caption="Evaluations that are left out",
            columns=["Evaluation", "Reason"],
            rows=[list(each) for each in left_out.items()],
        ),
    ]
    return TableSection(
        title="Data and options",
        sentences=[
            "Linear SVMs and kNN of complete images (svm, low-shot, knn) are not among the rows: their mean average "
            "precision is no ratio of sums over images, so that their differences cannot be paired in this way.",
            f"Seed of the resamples: {comparison.seed}.",
        ],
        tables=[table for table in tables if table.rows],
    )


def _options(evaluation: ComparedEvaluation) -> str:
    """Return numbers of boxes and options as text; what was fitted differs between backbones and is left out."""
    shown = {
        name: value
        for name, value in evaluation.about.items()
        if name not in NAMED_IN_DATA and not isinstance(value, dict) and value not in ([], None)
    }
    return ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in shown.items())


def _plain(value: object) -> str:
    """Return a JSON value as text."""
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _score_cell(estimate: Estimate | None, unit: Unit) -> Cell:
    if estimate is None:
        return "–"
    if unit == "fraction":
        return Fraction(estimate.value, (estimate.low, estimate.high))
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _number(value: float, unit: Unit) -> str:
    return f"{100 * value:.1f}" if unit == "fraction" else f"{value:.2f}"


def _signed(value: float, unit: Unit) -> str:
    """Return a difference with its sign; the minus is as wide as the plus."""
    text = _number(abs(value), unit)
    is_zero = not text.strip("0.")
    return text if is_zero else f"{'+' if value > 0 else '−'}{text}"


def _percent(comparison: BackboneComparison) -> str:
    """Return the level of the intervals that decide."""
    return f"{100 * comparison.level:.2f}%"


def _tick_text(tick: float) -> str:
    return f"{'−' if tick < 0 else ''}{abs(tick):g}"
