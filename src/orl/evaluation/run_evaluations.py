"""The judges of a run: which its settings ask for, on which labelled set, and each of them on one backbone."""

import logging
from collections.abc import Callable
from dataclasses import replace

from orl.config import RunConfig
from orl.evaluation.configs import KnnSettings, LowShotSettings, SvmSettings, VocSettings
from orl.evaluation.evaluated_backbone import RANDOM, load_evaluated_backbone
from orl.evaluation.evaluations import Result, Settings, check_images, run_knn, run_low_shot, run_svm
from orl.evaluation.output import EvaluationOutput
from orl.evaluation.voc_dataset import VocDataset
from orl.rundir import RunDir

logger = logging.getLogger(__name__)


def voc_dataset_of(config: RunConfig) -> VocDataset:
    """The labelled set of a run.

    Raises:
        ValueError: if the settings name none.
    """
    if config.eval_data is None:
        raise ValueError("no labelled set: give a VOC devkit with --eval-data")
    own = config.evaluation
    settings = VocSettings(train_split=own.train_split, test_split=own.test_split, size_px=own.size_px)
    return VocDataset(config.eval_data, settings, config.workers)


def check_labelled_set(config: RunConfig) -> None:
    """Refuse a labelled set that the judges could not work on after the training.

    Raises:
        ValueError: if it is so.
    """
    images = voc_dataset_of(config)
    try:
        for _, settings in _judges(config).values():
            check_images(*images.listed, settings)
    except ValueError as error:
        raise ValueError(
            f"the labelled set of --eval-data cannot be judged on: {error}. Its settings begin with --evaluation."
        ) from error


def evaluate_backbone(config: RunConfig, label: str, images: VocDataset) -> None:
    """Score one backbone of a run by every judge that the settings ask for; what is scored already is kept.

    Args:
        config: the run.
        label: 'stage1', 'stage3', or 'random' for the weights that training starts from.
        images: the labelled set, as `transfer_images` gives it.
    """
    logger.info("judge %s", label)
    run = RunDir(config.out)
    if label == "random":
        subject = load_evaluated_backbone(RANDOM, config.network.backbone, config.seed)
    else:
        subject = load_evaluated_backbone(run.backbone(label))
    for task, (judge, settings) in _judges(config).items():
        place = EvaluationOutput(
            result=run.evaluation(task, label),
            seed=config.seed,
            workers=config.workers,
            device=config.device,
            overwrite=config.overwrite,
        )
        judge(replace(subject, label=label), images, settings, place)


def _judges(config: RunConfig) -> dict[str, tuple[Callable[..., Result], Settings]]:
    own = config.evaluation
    judges: dict[str, tuple[Callable[..., Result], Settings]] = {
        "svm": (run_svm, SvmSettings()),
        "knn": (run_knn, KnnSettings(k=own.knn_neighbours, temperature=own.knn_temperature)),
    }
    if own.shots:
        judges["low-shot"] = (run_low_shot, LowShotSettings(shots=own.shots))
    return judges
