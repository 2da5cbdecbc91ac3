"""The section of object scores: does each backbone know objects, with an interval for every score."""

from collections.abc import Sequence
from dataclasses import dataclass

from orl.evaluation.objects.scoreboard import Line, scoreboard_lines
from orl.report.content import Cell, Fraction, ScoreTable, Section
from orl.report.runs import ReportedRun, ReportInputs
from orl.report.scores import BACKBONE_TITLES, ObjectScores, read_object_results
from orl.report.sections.results import how_to_score


@dataclass(frozen=True, kw_only=True)
class Objects(Section):
    """The scoreboard of each labelled data set."""

    template = "objects.html"
    tables: Sequence[ScoreTable]


def object_section(inputs: ReportInputs) -> Objects:
    """Gather the object scores of all backbones of all runs."""
    scores = [(run, each) for run in inputs.runs for each in read_object_results(run.run)]
    names = dict.fromkeys(each.dataset for _, each in scores)
    return Objects(
        title="Objects",
        notes=[
            how_to_score(run, "Its features of objects have not been scored", "objects")
            for run in inputs.runs
            if not any(each is run for each, _ in scores)
        ],
        tables=[_table(name, [(run, each) for run, each in scores if each.dataset == name]) for name in names],
    )


def _table(name: str, scores: Sequence[tuple[ReportedRun, ObjectScores]]) -> ScoreTable:
    results = [{**each.result, "backbone": run.named(BACKBONE_TITLES[each.backbone])} for run, each in scores]
    lines = scoreboard_lines(results)
    labels = list(dict.fromkeys(label for line in lines for label in line.estimates))
    return ScoreTable(
        caption=f"Object scores on {name}",
        columns=["Score", *labels, "Chance"],
        rows=[[f"{line.task}: {line.row}", *(_cell(line, label) for label in labels), _chance(line)] for line in lines],
    )


def _cell(line: Line, label: str) -> Cell:
    found = line.estimates.get(label)
    if found is None:
        return "–"
    if line.unit == "number":
        return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
    best = max(each.value for each in line.estimates.values())
    return Fraction(found.value, (found.low, found.high), is_best=found.value == best)


def _chance(line: Line) -> str:
    if line.chance is None:
        return "–"
    return f"{100 * line.chance:.1f}" if line.unit == "fraction" else f"{line.chance:.2f}"
