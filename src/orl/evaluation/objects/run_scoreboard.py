"""All object evaluations that a labelled data set allows, of several backbones."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orl.evaluation.evaluations import OBJECT_EVALUATIONS, find_evaluation
from orl.evaluation.objects.object_dataset import ObjectDataset
from orl.evaluation.objects.scoreboard import write_scoreboard
from orl.evaluation.output import EvaluationOutput
from orl.evaluation.protocol import Evaluation, Result
from orl.evaluation.suite import Candidates, Step, raise_failures, run_steps
from orl.processes import Processes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ScoreboardPlan:
    """Object evaluations that a data set allows."""

    steps: Sequence[Step]
    left_out: Mapping[str, str]
    """Reason by the name of each evaluation that the data set does not allow."""


def plan_scoreboard(
    data: ObjectDataset, configs: Mapping[str, Any] | None = None, only: Sequence[str] = ()
) -> ScoreboardPlan:
    """Return the evaluations that the labels allow; no image is opened.

    Args:
        data: the labelled data set.
        configs: config by the name of the evaluation, where it is not the default.
        only: names of the evaluations to run; all if empty.

    Raises:
        ValueError: if there is no such evaluation, the data set allows none, or not one that `only` names.
    """
    configs = configs or {}
    chosen = [_find(name) for name in only] or OBJECT_EVALUATIONS
    steps: list[Step] = []
    left_out: dict[str, str] = {}
    for evaluation in chosen:
        config = configs.get(evaluation.name, evaluation.config())
        step = Step(name=evaluation.name, evaluation=evaluation, data=data, config=config)
        try:
            step.check()
        except ValueError as error:
            left_out[evaluation.name] = str(error)
        else:
            steps.append(step)
    if not steps or (only and left_out):
        reasons = "; ".join(dict.fromkeys(left_out.values()))
        raise ValueError(f"{data.data} does not allow {', '.join(left_out)}: {reasons}")
    return ScoreboardPlan(steps=steps, left_out=left_out)


def run_scoreboard(
    candidates: Candidates,
    plan: ScoreboardPlan,
    folder: Path,
    output_at: Callable[[Path], EvaluationOutput],
    processes: Processes,
) -> list[Result]:
    """Run the planned evaluations on every backbone and write the scoreboard; finished results are kept.

    Args:
        candidates: the backbones.
        plan: evaluations from `plan_scoreboard`.
        folder: folder for all results and for scoreboard.md, .csv and .json.
        output_at: function from the path of a result to its output.
        processes: joined processes; the first evaluates.

    Returns:
        All results, by backbone and then by evaluation.

    Raises:
        FileNotFoundError, ValueError: if weights are missing, before anything is computed.
        RuntimeError: if evaluations failed, with the reasons, after all others are finished.
    """
    candidates.check()
    for reason in dict.fromkeys(plan.left_out.values()):
        names = [name for name, own in plan.left_out.items() if own == reason]
        logger.info("left out: %s (%s)", ", ".join(names), reason)
    results, failures = run_steps(candidates, plan.steps, folder, output_at, processes)
    if processes.is_first and results:
        write_scoreboard(folder, results, plan.left_out)
    raise_failures(failures)
    return results


def _find(name: str) -> Evaluation[Any, Any]:
    evaluation = find_evaluation(name)
    if evaluation not in OBJECT_EVALUATIONS:
        names = ", ".join(each.name for each in OBJECT_EVALUATIONS)
        raise ValueError(f"{name} is not an object evaluation; give one or more of {names}")
    return evaluation
