"""The suite: every evaluation that the given data sets allow, for several backbones, and their comparison."""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from orl.evaluation.comparison import write_comparison
from orl.evaluation.evaluated_backbone import RANDOM, EvaluatedBackbone, load_evaluated_backbone
from orl.evaluation.evaluations import EVALUATIONS
from orl.evaluation.objects.scoreboard import write_scoreboard
from orl.evaluation.output import EvaluationOutput
from orl.evaluation.protocol import Datasets, Evaluation, Result
from orl.networks.names import BackboneName
from orl.processes import Processes
from orl.training.interrupts import Stopped
from orl.weights.find import find_weights_file

logger = logging.getLogger(__name__)

ERRORS = (ValueError, OSError, RuntimeError, ImportError)
"""Errors of an evaluation that do not stop the suite; anything else is a fault of this package."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One evaluation on one data set."""

    name: str
    """Name of the JSON file, without its suffix."""
    evaluation: Evaluation[Any, Any]
    data: Any
    config: Any

    def check(self) -> None:
        """Read the labels and check that they allow the evaluation."""
        self.evaluation.check(self.data, self.config)

    def run(self, backbone: EvaluatedBackbone, output: EvaluationOutput, processes: Processes) -> Result | None:
        """Score a backbone."""
        return self.evaluation.run(backbone, self.data, self.config, output, processes)


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Weights to compare."""

    backbones: Sequence[Path]
    """Paths that `load_evaluated_backbone` takes."""
    architecture: str | None = None
    """Architecture of the weights, where the files do not name it."""
    seed: int = 0
    """Seed of random weights."""

    def check(self) -> None:
        """Check that all files exist, before one of them is evaluated for hours.

        Raises:
            FileNotFoundError, ValueError: if `find_weights_file` finds no weights.
        """
        for backbone in self.backbones:
            if backbone != RANDOM:
                find_weights_file(backbone)

    def load(self, backbone: Path) -> EvaluatedBackbone:
        """Load one of them; random weights have the network of the first other backbone, if it is one of ours."""
        architecture = self._random_architecture() if backbone == RANDOM else self.architecture
        return load_evaluated_backbone(backbone, architecture, self.seed)

    def _random_architecture(self) -> str | None:
        others = [path for path in self.backbones if path != RANDOM]
        if self.architecture is not None or not others:
            return self.architecture
        try:
            name = load_evaluated_backbone(others[0]).network.name
        except ERRORS:
            return None  # its own turn reports the error
        return name if name in get_args(BackboneName) else None


def suite_configs() -> dict[str, Any]:
    """Return the default config of each group of options of `orl evaluate all`, by the name of the group."""
    groups: dict[str, Any] = {}
    for evaluation in EVALUATIONS:
        if evaluation.suite_entries is not None:
            groups.setdefault(evaluation.suite_group, evaluation.config())
    return groups


def plan_suite(datasets: Datasets, configs: Mapping[str, Any] | None = None) -> list[Step]:
    """Return the evaluations that the data sets allow, the quick ones first.

    Args:
        datasets: the given data sets; the labels of each are read once.
        configs: config of each group of options, where it is not the default of `suite_configs`.

    Raises:
        ValueError: if no data set is given, or one list of labels for two fractions.
    """
    configs = {**suite_configs(), **(configs or {})}
    shared: dict[Any, Any] = {}
    steps = [
        Step(
            name=entry.name,
            evaluation=evaluation,
            data=shared.setdefault(entry.data, entry.data),
            config=entry.config,
        )
        for evaluation in EVALUATIONS
        if evaluation.suite_entries is not None
        for entry in evaluation.suite_entries(datasets, configs[evaluation.suite_group])
    ]
    if not steps:
        raise ValueError(
            "no labelled data set is given, so there is nothing to evaluate; give one or more of --voc07, --imagenet, "
            "--places205, --inat18, --classes, --objects, --coco, --voc-detection"
        )
    return steps


def run_suite(
    candidates: Candidates,
    steps: Sequence[Step],
    folder: Path,
    output_at: Callable[[Path], EvaluationOutput],
    processes: Processes,
) -> Path | None:
    """Run every evaluation on every backbone and write the comparison; finished results are kept.

    All checks that are possible in advance come first. An evaluation that fails later does not stop the
    others; but where several processes train together, all end when one fails.

    Args:
        candidates: the backbones.
        steps: evaluations from `plan_suite`.
        folder: folder for all results and the comparison.
        output_at: function from the path of a result to its output.
        processes: joined processes; evaluations of one process run in the first.

    Returns:
        The path of the comparison; None in a process that is not the first.

    Raises:
        ValueError: if weights or data sets do not allow an evaluation, with all reasons, before anything is computed.
        RuntimeError: if evaluations failed, with the reasons, after all others are finished.
        Stopped: after Ctrl-C or a signal; the same call resumes.
    """
    refusals = processes.from_first(partial(_refusals, candidates, steps), "the check of the data sets")
    if refusals:
        raise ValueError(
            f"nothing is evaluated yet: {'; '.join(refusals)}. The options of an evaluation begin with its name, such "
            "as --low-shot.shots"
        )
    results, failures = run_steps(candidates, steps, folder, output_at, processes)
    comparison = _write_tables(folder, results) if processes.is_first and results else None
    raise_failures(failures)
    return comparison


def run_steps(
    candidates: Candidates,
    steps: Sequence[Step],
    folder: Path,
    output_at: Callable[[Path], EvaluationOutput],
    processes: Processes,
    only: Path | None = None,
) -> tuple[list[Result], list[str]]:
    """Run checked evaluations on every backbone; finished results are kept, and a failure stops no other.

    Args:
        candidates: the backbones.
        steps: evaluations whose data have been checked.
        folder: folder for the results, one folder below it for each backbone.
        output_at: function from the path of a result to its output.
        processes: joined processes; evaluations of one process run in the first.
        only: the one backbone to evaluate; all if not given.

    Returns:
        The results by backbone and then by evaluation, and the reason of each failure.

    Raises:
        Stopped: after Ctrl-C or a signal; the same call resumes.
    """
    results: list[Result] = []
    failures: list[str] = []
    for path in candidates.backbones if only is None else (only,):
        try:
            backbone = candidates.load(path)
        except ERRORS as error:
            if processes.count > 1:
                raise
            failures.append(_failure("load", str(path), error))
            continue
        for step in steps:
            logger.info("%s: %s", backbone.label, step.name)
            output = output_at(folder / f"{file_name(backbone.label)}_{backbone.digest[:8]}" / f"{step.name}.json")
            attempt = partial(_attempt, step, backbone, output, processes)
            if step.evaluation.one_process:
                result, failure = processes.from_first(attempt, f"the evaluation {step.name}")
            else:
                result, failure = attempt()
            results += [result] if result is not None else []
            failures += [failure] if failure is not None else []
    return results, failures


def _write_tables(folder: Path, results: Sequence[Result]) -> Path:
    """Write the comparison, and the scoreboard of the results on objects, which have rows with intervals."""
    on_objects = [result for result in results if "rows" in result]
    others = [result for result in results if "rows" not in result]
    scoreboard = write_scoreboard(folder, on_objects) if on_objects else None
    return write_comparison(folder, others) if others or scoreboard is None else scoreboard


def raise_failures(failures: Sequence[str]) -> None:
    """Raise one error for all evaluations that failed.

    Raises:
        RuntimeError: if there are any.
    """
    if failures:
        raise RuntimeError(f"{len(failures)} evaluations failed, the others are finished: " + "; ".join(failures))


def _refusals(candidates: Candidates, steps: Sequence[Step]) -> list[str]:
    """Return each reason against the suite once, with the evaluations that it stops."""
    refused: dict[str, list[str]] = defaultdict(list)
    for name, check in [("weights", candidates.check), *((step.name, step.check) for step in steps)]:
        try:
            check()
        except ERRORS as error:
            refused[str(error)].append(name)
    return [f"{', '.join(names)}: {error}" for error, names in refused.items()]


def _attempt(
    step: Step, backbone: EvaluatedBackbone, output: EvaluationOutput, processes: Processes
) -> tuple[Result | None, str | None]:
    """Return the result, or the reason why there is none."""
    try:
        return step.run(backbone, output, processes), None
    except Stopped:
        raise
    except ERRORS as error:
        if processes.count > 1 and not step.evaluation.one_process:
            # The other processes will wait for this one.
            raise
        return None, _failure(step.name, backbone.label, error)


def _failure(step: str, label: str, error: Exception) -> str:
    logger.error("%s of %s failed: %s", step, label, error)
    return f"{step} of {label}: {error}"


def file_name(label: str) -> str:
    """Return a label as one part of a path."""
    path = Path(label)
    # The path '.' has no name.
    path = path.resolve() if path.name in ("", "..") else path
    parts = [part for part in path.with_suffix("").parts[-3:] if part != "/"]
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in "_".join(parts))
