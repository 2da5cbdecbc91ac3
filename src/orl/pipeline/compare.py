"""`orl compare`: does a backbone help on labelled data of one's own? Few labels, all object evaluations, verdicts."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from orl import files
from orl.config import one_of
from orl.evaluation.evaluated_backbone import RANDOM
from orl.evaluation.objects.compare import BackboneComparison, compare_results
from orl.evaluation.objects.object_dataset import ObjectDataset
from orl.evaluation.objects.proposals import PROPOSALS
from orl.evaluation.objects.run_scoreboard import ScoreboardPlan
from orl.evaluation.objects.scoreboard import write_scoreboard
from orl.evaluation.output import EvaluationOutput
from orl.evaluation.protocol import Result
from orl.evaluation.suite import Candidates, raise_failures, run_steps
from orl.processes import Processes
from orl.report.compare_page import write_compare_page

logger = logging.getLogger(__name__)

PAGE, DATA = "comparison.html", "comparison.json"


@dataclass(frozen=True, kw_only=True)
class FewLabelledObjects(ObjectDataset):
    """Labelled data set with few images: the question is what features do for users who have few labels."""

    max_images: int | None = 500
    """Images of each split at most, sampled by a fixed seed; None for all."""


def default_folder(data: ObjectDataset) -> Path:
    """Return the folder of a comparison for which none is given."""
    return Path("evaluation") / f"compare_{data.data.resolve().name}"


def compare_backbones(
    candidates: Candidates,
    plan: ScoreboardPlan,
    folder: Path,
    output_at: Callable[[Path], EvaluationOutput],
    processes: Processes,
    baseline: Path | None = None,
) -> BackboneComparison | None:
    """Score backbones on labelled objects, compare them on the same images, and write the page and the JSON file.

    Finished results are kept, and an evaluation that fails does not stop the others.

    Args:
        candidates: two backbones or more.
        plan: evaluations from `plan_scoreboard`.
        folder: folder for all results, for the scoreboard, and for comparison.html and comparison.json.
        output_at: function from the path of a result to its output.
        processes: joined processes; the first evaluates.
        baseline: backbone that all others are compared with; the first if None.

    Returns:
        The comparison; None in a process that is not the first.

    Raises:
        FileNotFoundError, ValueError: if `check_backbones` refuses the backbones, or no planned evaluation depends on
            one, before anything is computed.
        RuntimeError: if evaluations failed, with the reasons, after all others are finished and compared.
    """
    baseline = check_backbones(candidates, baseline)
    plan = _of_backbones(plan)
    results, labels, failures = _run_all(candidates, plan, folder, output_at, processes)
    if not processes.is_first:
        raise_failures(failures)
        return None
    if baseline not in labels or len(labels) < 2:
        raise_failures(failures)
    comparison = compare_results(results, labels[baseline], seed=candidates.seed, quiet=output_at(folder / DATA).quiet)
    write_scoreboard(folder, results, plan.left_out)
    content = {**comparison.to_json(), "left_out": dict(plan.left_out), "failures": failures}
    files.write_atomically(folder / DATA, json.dumps(content, indent=1))
    write_compare_page(comparison, folder / PAGE, left_out=plan.left_out, failures=failures)
    if failures:
        logger.info("the page %s lacks the evaluations that failed", folder / PAGE)
    raise_failures(failures)
    return comparison


def check_backbones(candidates: Candidates, baseline: Path | None) -> Path:
    """Check that the backbones can be compared, and return the baseline.

    Raises:
        FileNotFoundError: if weights are missing.
        ValueError: if there are fewer than two backbones, one is given twice, or the baseline is not among them.
    """
    names = [str(path) for path in candidates.backbones]
    if len(names) < 2:
        raise ValueError(f"a comparison needs two backbones or more, got {', '.join(names) or 'none'}; add 'random'")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{twice[0]} is given twice; give each backbone once")
    if baseline is not None and baseline not in candidates.backbones:
        raise ValueError(f"the baseline must be {one_of(names, str(baseline))}")
    candidates.check()
    return baseline or candidates.backbones[0]


def _of_backbones(plan: ScoreboardPlan) -> ScoreboardPlan:
    """Leave out the evaluation that depends on no backbone: its differences are 0."""
    steps = [step for step in plan.steps if step.evaluation is not PROPOSALS]
    if len(steps) == len(plan.steps):
        return plan
    if not steps:
        raise ValueError(f"{PROPOSALS.name} depends on no backbone, so there is nothing to compare; choose others")
    return replace(plan, steps=steps, left_out={**plan.left_out, PROPOSALS.name: "the boxes depend on no backbone"})


def _run_all(
    candidates: Candidates,
    plan: ScoreboardPlan,
    folder: Path,
    output_at: Callable[[Path], EvaluationOutput],
    processes: Processes,
) -> tuple[list[Result], dict[Path, str], list[str]]:
    """Return all results, the label of each backbone that has one, and the reasons of failures."""
    results: list[Result] = []
    labels: dict[Path, str] = {}
    failures: list[str] = []
    for path in candidates.backbones:
        own, failed = run_steps(candidates, plan.steps, folder, output_at, processes, only=path)
        failures += failed
        if own:
            # A kept result of the same weights may name another path.
            labels[path] = str(own[0]["backbone"]) if path == RANDOM else str(path)
            results += [{**result, "backbone": labels[path]} for result in own]
    return results, labels, failures
