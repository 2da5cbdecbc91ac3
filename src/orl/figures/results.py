"""What a run has left as numbers: read, and said as a person says them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orl.figures import page
from orl.figures.page import Html
from orl.rundir import RunDir

BACKBONES = {
    "random": "Random weights",
    "stage1": "Stage 1, whole photos",
    "stage3": "Stage 3, objects",
}
TASKS = {"svm": "Linear SVM", "knn": "Weighted kNN"}


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


def read_results(run: RunDir) -> dict[tuple[str, str], dict[str, Any]]:
    """Transfer results by task and backbone, those that there are."""
    found = {(task, label): read_json(run.transfer(task, label)) for task in TASKS for label in BACKBONES}
    return {key: result for key, result in found.items() if result is not None}


def read_low_shot(run: RunDir) -> dict[str, dict[str, dict[str, Any]]]:
    """Low-shot results by labelled set and backbone: those in the run, and those that 'orl transfer' left beside it."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for label in BACKBONES:
        own = run.transfer("low-shot", label)
        beside = sorted(run.backbone(label).with_name("backbone_transfer").glob("low-shot_*.json"))
        for path in (own, *beside):
            result = read_json(path)
            if result is not None and result.get("shots"):
                found.setdefault(labelled_set(result), {}).setdefault(label, result)
    return found


def labelled_set(result: Mapping[str, Any]) -> str:
    """What a backbone was judged on, so far as the result tells: scores on other splits or sizes do not compare."""
    name = Path(str(result.get("data") or "the labelled set")).name
    splits = [str(result[key]) for key in ("train_split", "test_split") if result.get(key)]
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
