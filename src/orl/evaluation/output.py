"""Where a judge writes its result, how it works, and the result that is there already."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orl import files, provenance
from orl.evaluation.evaluated_backbone import RANDOM, RANDOM_ARCHITECTURE
from orl.training.fabric import Precision
from orl.weights.find import find_weights_file


@dataclass(frozen=True, kw_only=True)
class EvaluationOutput:
    """Where and how a judge works; of what is here only the seed and the precision change a result."""

    result: Path
    """The JSON file to write."""
    seed: int = 0
    workers: int = 2
    """Processes that read images."""
    device: str = "auto"
    precision: Precision = "32-true"
    overwrite: bool = False
    """Make the result again where it was made from something else."""
    checkpoint_minutes: float = 10.0
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.result.suffix != ".json":
            raise ValueError(f"{self.result} is to hold a result as JSON; give a name that ends in .json")

    @property
    def folder(self) -> Path:
        """What a judge keeps for itself while it works: checkpoints, metrics, features, detections."""
        return self.result.with_suffix("")


def finished(place: EvaluationOutput, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result that was made from the same weights, data and settings; none if there is none yet.

    Raises:
        StaleResultError: if the file holds a result of something else, unless it is to be overwritten.
        ValueError: likewise, if it holds no result at all.
    """
    try:
        content = place.result.read_bytes()
    except FileNotFoundError:
        return None
    found = _inputs(content)
    asked = json.loads(json.dumps(inputs))
    if found == asked:
        return json.loads(content)
    if place.overwrite:
        return None
    if found is None:
        raise ValueError(
            f"{place.result} is there and is no result of a judge, so it is not written over; take another --out, or "
            "--overwrite it"
        )
    differing = sorted(key for key in {*found, *asked} if found.get(key) != asked.get(key))
    raise provenance.StaleResultError(
        f"stale: {place.result} was made from other weights or settings ({', '.join(differing)}). Take another --out, "
        "or rebuild it with --overwrite"
    )


def _inputs(content: bytes) -> dict[str, Any] | None:
    """What a result says of itself; none if it is none."""
    try:
        result = json.loads(content)
    except (ValueError, RecursionError):
        return None
    inputs = result.get("inputs") if isinstance(result, dict) else None
    return inputs if isinstance(inputs, dict) else None


def write_result(place: EvaluationOutput, result: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Write a result and what it was made from, whole or not at all; returns both."""
    whole = {**result, "inputs": dict(inputs)}
    files.write_atomically(place.result, json.dumps(whole, indent=1))
    return whole


def results_folder(backbone: Path, architecture: str | None = None) -> Path:
    """Where the results of weights go if nothing else is said: beside their file, in a folder with its name.

    Raises:
        FileNotFoundError: if there are no such weights.
    """
    if backbone == RANDOM:
        return Path("evaluation") / f"random_{architecture or RANDOM_ARCHITECTURE}"
    path = find_weights_file(backbone)
    return path.with_name(f"{path.stem}_transfer")
