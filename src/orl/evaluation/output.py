"""Output of an evaluation: its JSON file, the options of the computation, and an existing result."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orl import files, provenance
from orl.evaluation.evaluated_backbone import RANDOM, RANDOM_ARCHITECTURE
from orl.networks.names import DeviceName, Precision
from orl.training.loop import TrainOptions
from orl.weights.find import find_weights_file

MAX_UNREADABLE_FRACTION = 0.01
"""Largest fraction of unreadable training images, which other images replace, and of images to score."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOutput:
    """File of a result and options of the computation; only seed and precision change the result."""

    result: Path
    """The JSON file to write."""
    seed: int = 0
    workers: int = 2
    """Processes that read images."""
    device: DeviceName = "auto"
    precision: Precision = "32-true"
    overwrite: bool = False
    """Whether to replace a result that was made from other inputs."""
    checkpoint_minutes: float = 10.0
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.result.suffix != ".json":
            raise ValueError(f"the result is a JSON file, got {self.result}; give a name that ends in .json")

    @property
    def folder(self) -> Path:
        """Folder for checkpoints, metrics, features and detections while the evaluation runs."""
        return self.result.with_suffix("")

    def train_options(self, title: str, num_images: int, out_of_memory_hint: str) -> TrainOptions:
        """Return the options of a training on a number of images."""
        return TrainOptions(
            folder=self.folder,
            title=title,
            workers=self.workers,
            checkpoint_minutes=self.checkpoint_minutes,
            max_unreadable=math.ceil(MAX_UNREADABLE_FRACTION * num_images),
            unreadable_hint=f"{MAX_UNREADABLE_FRACTION:.0%} of them, or one",
            out_of_memory_hint=out_of_memory_hint,
        )


def finished(output: EvaluationOutput, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the result that was made from the same weights, data and config, or None if there is no result.

    Raises:
        StaleResultError: if the file holds a result made from other inputs, and must not be overwritten.
        ValueError: if the file holds no result of an evaluation, and must not be overwritten.
    """
    try:
        content = output.result.read_bytes()
    except FileNotFoundError:
        return None
    found = _read_inputs(content)
    asked = json.loads(json.dumps(inputs))
    if found == asked:
        return json.loads(content)
    if output.overwrite:
        return None
    if found is None:
        raise ValueError(
            f"{output.result} exists and is not a result of this version of 'orl evaluate', so it is not overwritten; "
            "use another --out, or give --overwrite"
        )
    differing = sorted(key for key in {*found, *asked} if found.get(key) != asked.get(key))
    raise provenance.StaleResultError(
        f"stale: {output.result} was made from other weights or options ({', '.join(differing)}). Use another --out, "
        "or rebuild it with --overwrite"
    )


def _read_inputs(content: bytes) -> dict[str, Any] | None:
    """Return the inputs that a result was made from, or None if the content is not a result."""
    try:
        result = json.loads(content)
    except (ValueError, RecursionError):
        return None
    inputs = result.get("inputs") if isinstance(result, dict) else None
    return inputs if isinstance(inputs, dict) else None


def write_result(output: EvaluationOutput, result: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Write a result with the inputs that it was made from, atomically, and return both."""
    complete = {**result, "inputs": dict(inputs)}
    files.write_atomically(output.result, json.dumps(complete, indent=1))
    return complete


def results_folder(backbone: Path, architecture: str | None = None) -> Path:
    """Return the default folder of the results: beside the file of the weights, with its name.

    Raises:
        FileNotFoundError: if there are no such weights.
    """
    if backbone == RANDOM:
        return Path("evaluation") / f"random_{architecture or RANDOM_ARCHITECTURE}"
    path = find_weights_file(backbone)
    return path.with_name(f"{path.stem}_evaluation")
