"""Comparison of the results of several backbones with each other and with published scores."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orl import files
from orl.evaluation.evaluations import find_evaluation
from orl.evaluation.markdown_table import markdown_rows
from orl.evaluation.published_scores import PUBLISHED

OURS = "measured here"


@dataclass(frozen=True)
class ComparisonLine:
    """One backbone in one table."""

    comparison: str
    """Title of the table."""
    backbone: str
    scores: dict[str, float | None]
    """Per cent by column; None where there is no score, such as the AP of large objects where there are none."""
    source: str
    notes: str = ""
    """Deviations from the protocol."""


def table_lines(result: Mapping[str, Any]) -> list[ComparisonLine]:
    """Return the lines of one result: one in each table of its evaluation.

    Raises:
        ValueError: if its task is not the name of an evaluation.
    """
    tables = find_evaluation(str(result.get("task"))).tables(dict(result))
    notes = "; ".join(result.get("protocol_deviations", []))
    return [
        ComparisonLine(
            comparison,
            str(result["backbone"]),
            {name: None if value is None else 100 * value for name, value in scores.items()},
            OURS,
            notes,
        )
        for comparison, scores in tables.items()
    ]


def write_comparison(folder: Path, results: Sequence[Mapping[str, Any]]) -> Path:
    """Write `comparison.md`, `.csv` and `.json`: our results first, then published scores of the same table.

    Returns:
        The path of the Markdown file.
    """
    ours = [line for result in results for line in table_lines(result)]
    titles = list(dict.fromkeys(line.comparison for line in ours))
    published = [
        ComparisonLine(row.comparison, row.backbone, dict(row.scores), row.source)
        for row in PUBLISHED
        if row.comparison in titles
    ]
    lines = [line for title in titles for line in (*ours, *published) if line.comparison == title]
    files.write_atomically(folder / "comparison.csv", _csv(lines))
    files.write_atomically(folder / "comparison.json", json.dumps([vars(line) for line in lines], indent=1))
    files.write_atomically(folder / "comparison.md", _markdown(lines, titles))
    return folder / "comparison.md"


def _csv(lines: Sequence[ComparisonLine]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["comparison", "backbone", "score", "per_cent", "source", "notes"])
    for line in lines:
        for name, value in line.scores.items():
            number = "" if value is None else f"{value:.4f}"
            writer.writerow([line.comparison, line.backbone, name, number, line.source, line.notes])
    return text.getvalue()


def _markdown(lines: Sequence[ComparisonLine], titles: Sequence[str]) -> str:
    parts = [
        "# Evaluation: our scores beside published ones\n",
        "Per cent. Published scores: ResNet-50 if nothing else is said; see the source for the training.\n",
    ]
    for title in titles:
        own = [line for line in lines if line.comparison == title]
        parts.append(_markdown_table(title, own))
    return "\n".join(parts)


def _markdown_table(title: str, lines: Sequence[ComparisonLine]) -> str:
    names = list(dict.fromkeys(name for line in lines for name in line.scores))
    rows = [["backbone", *names, "source", "protocol deviations"]]
    for line in lines:
        scores = [line.scores.get(name) for name in names]
        cells = ["" if value is None else f"{value:.2f}" for value in scores]
        rows.append([line.backbone, *cells, line.source, line.notes])
    return f"## {title}\n\n" + "\n".join(markdown_rows(rows, num_right=2)) + "\n"
