"""What a run has left as numbers: read, and said as a person says them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orl.report import html as page
from orl.report.html import Html
from orl.rundir import RunDir

BACKBONES = {
    "random": "Random weights",
    "stage1": "Stage 1, whole images",
    "stage3": "Stage 3, objects",
}
TASKS = {"svm": "Linear SVM", "knn": "Weighted kNN"}
Scored = dict[tuple[str, str], dict[str, Any]]
"""Results by task and backbone."""


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; nothing if there is no such file.

    Raises:
        ValueError: if the file is torn or holds something else.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it and run again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an object; delete it and run again")
    return content


def read_results(run: RunDir) -> dict[str, Scored]:
    """Transfer results by labelled set, and there by task and backbone.

    Those in the run come first, then those that 'orl evaluate' left beside its weights.
    """
    found: dict[str, Scored] = {}
    for task in TASKS:
        for label, result in _results_of(run, task):
            found.setdefault(labelled_set(result), {}).setdefault((task, label), result)
    return found


def read_low_shot(run: RunDir) -> dict[str, dict[str, dict[str, Any]]]:
    """Low-shot results by labelled set and backbone, from the same places."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for label, result in _results_of(run, "low-shot"):
        if result.get("shots"):
            found.setdefault(labelled_set(result), {}).setdefault(label, result)
    return found


def _results_of(run: RunDir, task: str) -> Iterator[tuple[str, dict[str, Any]]]:
    own = [(label, run.evaluation(task, label)) for label in BACKBONES]
    beside = [
        (label, path)
        for label in BACKBONES
        for path in sorted(run.backbone(label).with_name("backbone_evaluation").glob(f"{task}_*.json"))
    ]
    for label, path in (*own, *beside):
        result = read_json(path)
        if result is not None:
            yield label, result


def labelled_set(result: Mapping[str, Any]) -> str:
    """What a backbone was judged on: scores on other splits, of other sizes or by fewer images do not compare."""
    name = Path(str(result.get("data") or "the labelled set")).name
    splits = [
        str(result[f"{part}_split"]) + (f" ({result[f'num_{part}']:,} images)" if result.get(f"num_{part}") else "")
        for part in ("train", "test")
        if result.get(f"{part}_split")
    ]
    size = [f"{result['size_px']} px"] if result.get("size_px") else []
    return ", ".join([name, *([" to ".join(splits)] if splits else []), *size])


def how_to_go_on(run: RunDir) -> Html:
    """The command that makes what is missing."""
    command = (read_json(run.record) or {}).get("command")
    if command:
        return page.join("The same command goes on where it stopped: ", page.code(command))
    return page.join("To make it: ", page.code(f"orl run --images DIR --out {run.root}"))


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
