"""The object scoreboard: the results of all object evaluations of several backbones in one table."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orl import files
from orl.evaluation.bootstrap import Estimate
from orl.evaluation.evaluations import OBJECT_EVALUATIONS
from orl.evaluation.markdown_table import markdown_rows
from orl.evaluation.objects.object_result import Unit
from orl.evaluation.protocol import Result
from orl.evaluation.published_scores import PUBLISHED


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the scoreboard: one score of every backbone."""

    task: str
    """Name of the evaluation."""
    row: str
    """Name of the score within it."""
    unit: Unit
    chance: float | None
    """Score of random labels, boxes or pairs."""
    estimates: Mapping[str, Estimate]
    """Score and 95% interval by the label of the backbone; a backbone without this score is missing."""


def scoreboard_lines(results: Sequence[Result]) -> list[Line]:
    """Arrange results in lines: one for each score, in the order of the evaluations.

    Args:
        results: of object evaluations on one data set, of one backbone or several.
    """
    order = [evaluation.name for evaluation in OBJECT_EVALUATIONS]
    found: dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for result in sorted(results, key=lambda result: order.index(result["task"])):
        for row in result["rows"]:
            found.setdefault((result["task"], row["name"]), []).append((str(result["backbone"]), row))
    return [
        Line(
            task=task,
            row=name,
            unit=rows[0][1]["unit"],
            chance=rows[0][1]["chance"],
            estimates={label: Estimate(**row["estimate"]) for label, row in rows},
        )
        for (task, name), rows in found.items()
    ]


def write_scoreboard(folder: Path, results: Sequence[Result], left_out: Mapping[str, str] | None = None) -> Path:
    """Write `scoreboard.md`, `.csv` and `.json`.

    Args:
        folder: the folder.
        results: of object evaluations on one data set.
        left_out: reason by the name of each evaluation that the data set does not allow.

    Returns:
        The path of the Markdown file.
    """
    lines = scoreboard_lines(results)
    notes = {
        task: list(dict.fromkeys(note for each in results if each["task"] == task for note in _notes(each)))
        for task in dict.fromkeys(line.task for line in lines)
    }
    content = {
        "data": str(results[0]["data"]),
        "lines": [asdict(line) for line in lines],
        "notes": notes,
        "left_out": dict(left_out or {}),
    }
    files.write_atomically(folder / "scoreboard.json", json.dumps(content, indent=1))
    files.write_atomically(folder / "scoreboard.csv", _csv(lines))
    files.write_atomically(folder / "scoreboard.md", _markdown(lines, content))
    return folder / "scoreboard.md"


def estimate_text(estimate: Estimate, unit: Unit) -> str:
    """Return a score with its interval, fractions in per cent: '41.3 [38.0, 44.6]'."""
    value, low, high = (_number(each, unit) for each in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def backbone_labels(lines: Sequence[Line]) -> list[str]:
    """Return the labels of the backbones in their order."""
    return list(dict.fromkeys(label for line in lines for label in line.estimates))


def scoreboard_table(lines: Sequence[Line], titles: Sequence[str] | None = None) -> list[list[str]]:
    """Return the scoreboard as text: the row of titles, then a row for each line.

    Args:
        lines: lines from `scoreboard_lines`.
        titles: titles of the backbones' columns; their labels if not given.
    """
    labels = backbone_labels(lines)
    rows = [["evaluation", "score", "chance", *(titles or labels)]]
    for line in lines:
        chance = "" if line.chance is None else _number(line.chance, line.unit)
        cells = [estimate_text(line.estimates[label], line.unit) if label in line.estimates else "" for label in labels]
        rows.append([line.task, line.row, chance, *cells])
    return rows


def _number(value: float, unit: Unit) -> str:
    return f"{100 * value:.1f}" if unit == "fraction" else f"{value:.2f}"


def _notes(result: Result) -> list[str]:
    return [f"{result['backbone']}: {note}" for note in result.get("protocol_deviations", [])]


def _csv(lines: Sequence[Line]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["evaluation", "score", "unit", "backbone", "value", "low", "high", "chance"])
    for line in lines:
        for label, own in line.estimates.items():
            writer.writerow([line.task, line.row, line.unit, label, own.value, own.low, own.high, line.chance])
    return text.getvalue()


def _markdown(lines: Sequence[Line], content: Mapping[str, Any]) -> str:
    parts = [
        "# Object scoreboard\n",
        f"Data: {content['data']}. Fractions in per cent, ranks and lifts as numbers, each with its 95% interval over "
        "images. 'chance' is the score of random labels, boxes or pairs. The intervals do not include the difference "
        "between two trainings.\n",
        "\n".join(markdown_rows(scoreboard_table(lines), num_left=2)) + "\n",
    ]
    tasks = {f"Objects: {task}" for task in content["notes"]}
    published = [row for row in PUBLISHED if row.comparison in tasks]
    if published:
        rows = [["evaluation", "backbone", "score", "source"]]
        for row in published:
            for name, value in row.scores.items():
                cells = [row.comparison.removeprefix("Objects: "), row.backbone, f"{name} {value:.1f}", row.source]
                rows.append(cells)
        parts += ["## Published scores of the same protocols\n", "\n".join(markdown_rows(rows, num_left=4)) + "\n"]
    deviations = [f"- {task}: {note}" for task, notes in content["notes"].items() for note in notes]
    if deviations:
        parts += ["## Deviations from the published protocols\n", "\n".join(deviations) + "\n"]
    if content["left_out"]:
        left_out = [f"- {name}: {reason}" for name, reason in content["left_out"].items()]
        parts += ["## Left out\n", "\n".join(left_out) + "\n"]
    return "\n".join(parts)
