"""The evaluations that the config of a run enables, on its labelled data set."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from orl.config import RunConfig
from orl.evaluation.evaluated_backbone import RANDOM, load_evaluated_backbone
from orl.evaluation.evaluations import OBJECT_EVALUATIONS, RUN_EVALUATIONS
from orl.evaluation.objects.object_dataset import ObjectDataset
from orl.evaluation.objects.roi_knn import ROI_KNN
from orl.evaluation.output import EvaluationOutput
from orl.evaluation.protocol import Evaluation
from orl.evaluation.voc_dataset import VocDataset
from orl.processes import Processes
from orl.rundir import BACKBONES, RunDir

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunDatasets:
    """The labelled data set of a run, for evaluations of images and for those of objects."""

    images: VocDataset
    objects: ObjectDataset


def run_datasets(config: RunConfig) -> RunDatasets:
    """Return the labelled data set of a run; no label is read yet.

    Raises:
        ValueError: if the config names none.
    """
    if config.eval_data is None:
        raise ValueError("no labelled data set: give a VOC devkit with --eval-data")
    own = config.evaluation
    data, train, test = config.eval_data, own.train_split, own.test_split
    return RunDatasets(
        images=VocDataset(data=data, train_split=train, test_split=test, size_px=own.size_px),
        objects=ObjectDataset(data=data, train_split=train, test_split=test, max_images=own.max_object_images),
    )


def check_run_datasets(config: RunConfig) -> RunDatasets:
    """Check before the training that the labels allow the evaluations of a run, and return the data set.

    Evaluations of objects that they do not allow are left out, with a message: many data sets have no masks.

    Raises:
        ValueError: if they do not allow an evaluation of images.
    """
    data = run_datasets(config)
    try:
        for evaluation, own in _evaluations(config):
            if evaluation not in OBJECT_EVALUATIONS:
                evaluation.check(data.images, own)
            elif reason := _reason_against(evaluation, data.objects, own):
                logger.info("%s is left out of the evaluations: %s", evaluation.name, reason)
    except ValueError as error:
        raise ValueError(
            f"the labelled data set of --eval-data does not allow the evaluations of this run: {error}. Their options "
            "begin with --evaluation"
        ) from error
    return data


def evaluate_backbone(config: RunConfig, label: str, data: RunDatasets) -> None:
    """Score one backbone of a run by every evaluation that the config enables; finished results are kept.

    Args:
        config: the run.
        label: 'stage1', 'stage3', or 'random' for the weights that training starts from.
        data: the labelled data set, from `run_datasets`.
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
        is_objects = evaluation in OBJECT_EVALUATIONS
        if is_objects and _reason_against(evaluation, data.objects, own):
            continue
        evaluation.run(
            replace(backbone, label=label), data.objects if is_objects else data.images, own, output, Processes()
        )


def allows_roi_knn(config: RunConfig, data: RunDatasets) -> bool:
    """Return whether a run evaluates the crops of labelled boxes."""
    return any(
        evaluation is ROI_KNN and not _reason_against(evaluation, data.objects, own)
        for evaluation, own in _evaluations(config)
    )


def _evaluations(config: RunConfig) -> Iterator[tuple[Evaluation[Any, Any], Any]]:
    """Yield each evaluation that the config enables, with its config."""
    for evaluation in RUN_EVALUATIONS:
        assert evaluation.run_config is not None
        own = evaluation.run_config(config.evaluation)
        if own is not None:
            yield evaluation, own


def _reason_against(evaluation: Evaluation[Any, Any], data: ObjectDataset, config: Any) -> str:
    """Return the reason why the labels do not allow an evaluation; empty if they do."""
    try:
        evaluation.check(data, config)
    except ValueError as error:
        return str(error)
    return ""
