"""The comparison: what judges wrote of several backbones, side by side and beside published scores."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orl import files
from orl.evaluation.published_scores import PUBLISHED

OURS = "measured here"
DATASETS = {"imagenet": "ImageNet", "places205": "Places205", "inat18": "iNaturalist18", "folder": "own classes"}

Comparisons = dict[str, dict[str, float | None]]
"""Scores by name, of each table that a result has a line in."""


@dataclass(frozen=True)
class Line:
    """One backbone in one table."""

    comparison: str
    backbone: str
    scores: dict[str, float | None]
    """In per cent; None where there is none, such as the AP of large objects where there are none."""
    source: str
    notes: str = ""
    """What differs from the protocol."""


def lines_of(result: Mapping[str, Any]) -> list[Line]:
    """The lines of one judge's result.

    Raises:
        ValueError: if no judge of ours has written it.
    """
    read = READERS.get(str(result.get("task")))
    if read is None:
        raise ValueError(f"a result of task {result.get('task')!r} is not known; known are {', '.join(READERS)}")
    notes = "; ".join(result.get("protocol_deviations", []))
    return [
        Line(
            comparison,
            str(result["backbone"]),
            {name: None if value is None else 100 * value for name, value in scores.items()},
            OURS,
            notes,
        )
        for comparison, scores in read(result).items()
    ]


def write_comparison(folder: Path, results: Sequence[Mapping[str, Any]]) -> Path:
    """Write `comparison.md`, `.csv` and `.json`: ours first, then the published lines of the same table.

    Returns:
        The path of the Markdown file.
    """
    ours = [line for result in results for line in lines_of(result)]
    compared = list(dict.fromkeys(line.comparison for line in ours))
    published = [
        Line(row.comparison, row.backbone, dict(row.scores), row.source)
        for row in PUBLISHED
        if row.comparison in compared
    ]
    lines = [line for name in compared for line in (*ours, *published) if line.comparison == name]
    files.write_atomically(folder / "comparison.csv", _csv(lines))
    files.write_atomically(folder / "comparison.json", json.dumps([vars(line) for line in lines], indent=1))
    files.write_atomically(folder / "comparison.md", _markdown(lines, compared))
    return folder / "comparison.md"


def _csv(lines: Sequence[Line]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["comparison", "backbone", "score", "per_cent", "source", "notes"])
    for line in lines:
        for name, value in line.scores.items():
            number = "" if value is None else f"{value:.4f}"
            writer.writerow([line.comparison, line.backbone, name, number, line.source, line.notes])
    return text.getvalue()


def _markdown(lines: Sequence[Line], compared: Sequence[str]) -> str:
    parts = [
        "# Transfer: ours beside published scores\n",
        "Per cent. Published lines: ResNet-50; how, see the source.\n",
    ]
    for comparison in compared:
        own = [line for line in lines if line.comparison == comparison]
        parts.append(_markdown_table(comparison, own))
    return "\n".join(parts)


def _markdown_table(comparison: str, lines: Sequence[Line]) -> str:
    names = list(dict.fromkeys(name for line in lines for name in line.scores))
    rows = [["backbone", *names, "source", "departs from the protocol"]]
    for line in lines:
        scores = [line.scores.get(name) for name in names]
        cells = ["" if value is None else f"{value:.2f}" for value in scores]
        rows.append([line.backbone, *cells, line.source, line.notes])
    rule = ["---", *["---:"] * len(names), "---", "---"]
    text = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in [rows[0], rule, *rows[1:]]]
    return f"## {comparison}\n\n" + "\n".join(text) + "\n"


def _svm(result: Mapping[str, Any]) -> Comparisons:
    return {"VOC07 SVM": {"mAP": result["mean_ap"]}}


def _knn(result: Mapping[str, Any]) -> Comparisons:
    return {f"VOC07 kNN, k = {result['k']}": {"mAP": result["mean_ap"]}}


def _low_shot(result: Mapping[str, Any]) -> Comparisons:
    return {
        "VOC07 low-shot, cost by test labels": _by_shots(result["mean_ap_best_cost_on_test"]),
        "VOC07 low-shot, cost without test labels": _by_shots(result["mean_ap"]),
    }


def _by_shots(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {f"k={shots}": score for shots, score in scores.items()}


def _linear(result: Mapping[str, Any]) -> Comparisons:
    name = DATASETS[result["dataset"]]
    if result.get("levels"):
        levels = {level: scores["top1"] for level, scores in result["levels"].items()}
        return {f"{name} linear, top-1 of each level": levels}
    return {f"{name} linear": _accuracies(result)}


def _estimate(result: Mapping[str, Any]) -> Comparisons:
    name = DATASETS[result["dataset"]]
    return {f"{name}, fast estimate by cached features (not the linear protocol)": _accuracies(result)}


def _semi(result: Mapping[str, Any]) -> Comparisons:
    name = DATASETS[result["dataset"]]
    return {f"{name} semi-supervised, {100 * result['share']:g}% of the labels": _accuracies(result)}


def _accuracies(result: Mapping[str, Any]) -> dict[str, float | None]:
    return {"top-1": result["top1"], "top-5": result.get("top5")}


def _detection(result: Mapping[str, Any]) -> Comparisons:
    scores = {f"box {name}": value for name, value in result["box"].items()}
    scores |= {f"mask {name}": value for name, value in (result.get("mask") or {}).items()}
    return {f"COCO detection, {result['schedule']}": scores}


def _voc_detection(result: Mapping[str, Any]) -> Comparisons:
    return {f"VOC detection, {result['schedule']}": {f"box {name}": value for name, value in result["box"].items()}}


READERS: dict[str, Callable[[Mapping[str, Any]], Comparisons]] = {
    "svm": _svm,
    "knn": _knn,
    "low-shot": _low_shot,
    "linear": _linear,
    "linear-estimate": _estimate,
    "semi": _semi,
    "detect": _detection,
    "detect-voc": _voc_detection,
}
