"""The section of results: how well each backbone separates the classes of labelled data."""

from collections.abc import Sequence
from dataclasses import dataclass

from orl.evaluation.low_shot import LOW_SHOT
from orl.figures.curve_figure import chart_label
from orl.figures.pictures import as_svg
from orl.figures.score_figures import draw_class_bars
from orl.report.content import Figure, Fraction, Note, ScoreTable, Section, picture_figure
from orl.report.runs import ReportedRun, ReportInputs
from orl.report.scores import BACKBONE_TITLES, Score, read_scores

MIN_POINTS = 0.05
"""Difference of two scores, out of 100, below which they are called equal."""


@dataclass(frozen=True, kw_only=True)
class DatasetResults:
    """Scores of all backbones on one labelled data set."""

    scores: ScoreTable
    sentences: Sequence[str]
    charts: Sequence[Figure]
    classes: Sequence[tuple[str, ScoreTable]]
    """Summary and table of the AP of each class."""


@dataclass(frozen=True, kw_only=True)
class Results(Section):
    """Scores by labelled data set."""

    template = "results.html"
    datasets: Sequence[DatasetResults]


RunScore = tuple[ReportedRun, Score]


def results_section(inputs: ReportInputs) -> Results:
    """Gather the scores of all backbones of all runs, and what has not been scored."""
    scores = [(run, score) for run in inputs.runs for score in read_scores(run.run) if score.evaluation is not LOW_SHOT]
    names = dict.fromkeys(score.dataset for _, score in scores)
    by_dataset = {name: [(run, score) for run, score in scores if score.dataset == name] for name in names}
    return Results(
        title="Results",
        notes=[note for run in inputs.runs for note in _missing_scores(run, [s for r, s in scores if r is run])],
        datasets=[_dataset_results(inputs, name, own) for name, own in by_dataset.items()],
    )


def _missing_scores(run: ReportedRun, scores: Sequence[Score]) -> list[Note]:
    if not scores:
        return [how_to_score(run, "No backbone has been scored")]
    scored = {score.backbone for score in scores}
    return [
        how_to_score(run, f"{name}: not scored yet") for label, name in BACKBONE_TITLES.items() if label not in scored
    ]


def how_to_score(run: ReportedRun, sentence: str, task: str = "svm") -> Note:
    """Return the note on a run whose backbones have no scores, with the command that makes them."""
    if run.config is not None and run.config.eval_data is not None:
        return run.note(sentence)
    command = f"orl evaluate {task} --backbone {run.run.root} --data VOC2007"
    return Note(f"{run.named(sentence)}. A labelled data set is needed:", command)


def _dataset_results(inputs: ReportInputs, name: str, scores: Sequence[RunScore]) -> DatasetResults:
    columns = list(dict.fromkeys(column for _, score in scores for column in score.columns))
    rows: dict[str, dict[str, float | None]] = {}
    for run, score in scores:
        rows.setdefault(run.named(BACKBONE_TITLES[score.backbone]), {}).update(score.columns)
    best = {column: max(row.get(column) or 0.0 for row in rows.values()) for column in columns}
    by_class = _by_class(inputs, scores)
    return DatasetResults(
        scores=ScoreTable(
            caption=f"Scores on {name}",
            columns=["Backbone", *columns],
            rows=[
                [label, *(Fraction(row.get(each), is_best=row.get(each) == best[each]) for each in columns)]
                for label, row in rows.items()
            ],
        ),
        sentences=[sentence for run in inputs.runs for sentence in _changes(run, scores, columns)],
        charts=[
            picture_figure(
                as_svg(draw_class_bars({chart_label(label): each for label, each in lines.items()})),
                f"Bar chart: AP of each class by {evaluation}; the table below has its numbers",
                f"AP of each class on {name}, {evaluation}",
            )
            for evaluation, lines in by_class.items()
        ],
        classes=[_class_table(evaluation, lines) for evaluation, lines in by_class.items()],
    )


def _changes(run: ReportedRun, scores: Sequence[RunScore], columns: Sequence[str]) -> list[str]:
    """Compare stage 3 with stage 1 by every score that both have."""
    known: dict[str, dict[str, float | None]] = {}
    for each, score in scores:
        if each is run:
            known.setdefault(score.backbone, {}).update(score.columns)
    sentences = []
    for column in columns:
        before, after = (known.get(stage, {}).get(column) for stage in ("stage1", "stage3"))
        if before is not None and after is not None:
            points = round(100 * after, 1) - round(100 * before, 1)
            side = "above" if points > 0 else "below"
            change = f"{abs(points):.1f} points {side}" if abs(points) >= MIN_POINTS else "level with"
            sentences.append(f"{run.named(column)}: stage 3 is {change} stage 1.")
    return sentences


def _by_class(inputs: ReportInputs, scores: Sequence[RunScore]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the AP of each class by evaluation and backbone; of several runs only the last backbones count."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for run, score in scores:
        per_class = score.result.get("per_class_ap")
        if per_class and (not inputs.is_comparison or score.backbone == run.last_stage):
            lines = found.setdefault(score.label, {})
            lines.setdefault(run.named(BACKBONE_TITLES[score.backbone]), per_class)
    return found


def _class_table(evaluation: str, lines: dict[str, dict[str, float]]) -> tuple[str, ScoreTable]:
    classes = list(dict.fromkeys(name for per_class in lines.values() for name in per_class))
    rows = [
        [name, *(f"{100 * each[name]:.1f}" if name in each else "–" for each in lines.values())] for name in classes
    ]
    table = ScoreTable(caption=f"AP of each class, {evaluation}", columns=["Class", *lines], rows=rows)
    return f"{evaluation}: AP of each of {len(classes)} classes", table
