"""The evaluations that the config of a run enables, on its labelled data set."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from orl.config import RunConfig
from orl.evaluation.evaluated_backbone import RANDOM, load_evaluated_backbone
from orl.evaluation.evaluations import RUN_EVALUATIONS
from orl.evaluation.output import EvaluationOutput
from orl.evaluation.protocol import Evaluation
from orl.evaluation.voc_dataset import VocDataset
from orl.processes import Processes
from orl.rundir import BACKBONES, RunDir

logger = logging.getLogger(__name__)


def run_dataset(config: RunConfig) -> VocDataset:
    """Return the labelled data set of a run; no label is read yet.

    Raises:
        ValueError: if the config names none.
    """
    if config.eval_data is None:
        raise ValueError("no labelled data set: give a VOC devkit with --eval-data")
    own = config.evaluation
    return VocDataset(
        data=config.eval_data, train_split=own.train_split, test_split=own.test_split, size_px=own.size_px
    )


def check_run_dataset(config: RunConfig) -> VocDataset:
    """Check before the training that the labels allow all evaluations of a run, and return the data set.

    Raises:
        ValueError: if they do not.
    """
    data = run_dataset(config)
    try:
        for evaluation, own in _evaluations(config):
            evaluation.check(data, own)
    except ValueError as error:
        raise ValueError(
            f"the labelled data set of --eval-data does not allow the evaluations of this run: {error}. Their options "
            "begin with --evaluation"
        ) from error
    return data


def evaluate_backbone(config: RunConfig, label: str, data: VocDataset) -> None:
    """Score one backbone of a run by every evaluation that the config enables; finished results are kept.

    Args:
        config: the run.
        label: 'stage1', 'stage3', or 'random' for the weights that training starts from.
        data: the labelled data set, from `run_dataset`.
    """
    logger.info("evaluate %s", BACKBONES[label])
    run = RunDir(config.out)
    if label == "random":
        network = config.network
        backbone = load_evaluated_backbone(RANDOM, network.backbone, config.seed, network.initial_weights)
    else:
        backbone = load_evaluated_backbone(run.backbone(label))
    for evaluation, own in _evaluations(config):
        output = EvaluationOutput(
            result=run.evaluation(evaluation.name, label),
            seed=config.seed,
            workers=config.workers,
            device=config.device,
            overwrite=config.overwrite,
        )
        evaluation.run(replace(backbone, label=label), data, own, output, Processes())


def _evaluations(config: RunConfig) -> Iterator[tuple[Evaluation[Any, Any], Any]]:
    """Yield each evaluation that the config enables, with its config."""
    for evaluation in RUN_EVALUATIONS:
        assert evaluation.run_config is not None
        own = evaluation.run_config(config.evaluation)
        if own is not None:
            yield evaluation, own
