"""The judges of a run: which its settings ask for, on which labelled set, and each of them on one backbone."""

import logging
from collections.abc import Callable
from dataclasses import replace

from orl.config import RunConfig
from orl.rundir import RunDir
from orl.transfer.place import Place
from orl.transfer.settings import KnnSettings, LowShotSettings, SvmSettings, VocSettings
from orl.transfer.subject import RANDOM, load_subject
from orl.transfer.tasks import Result, Settings, check_photos, run_knn, run_low_shot, run_svm
from orl.transfer.voc_photos import VocPhotos

logger = logging.getLogger(__name__)


def transfer_photos(config: RunConfig) -> VocPhotos:
    """The labelled set of a run.

    Raises:
        ValueError: if the settings name none.
    """
    if config.transfer_data is None:
        raise ValueError("no labelled set: give a VOC devkit with --transfer-data")
    own = config.transfer
    settings = VocSettings(train_split=own.train_split, test_split=own.test_split, size_px=own.size_px)
    return VocPhotos(config.transfer_data, settings, config.workers)


def check_labelled_set(config: RunConfig) -> None:
    """Refuse a labelled set that the judges could not work on after the training.

    Raises:
        ValueError: if it is so.
    """
    photos = transfer_photos(config)
    try:
        for _, settings in _judges(config).values():
            check_photos(*photos.listed, settings)
    except ValueError as error:
        raise ValueError(
            f"the labelled set of --transfer-data cannot be judged on: {error}. Its settings begin with --transfer."
        ) from error


def judge_backbone(config: RunConfig, label: str, photos: VocPhotos) -> None:
    """Score one backbone of a run by every judge that the settings ask for; what is scored already is kept.

    Args:
        config: the run.
        label: 'stage1', 'stage3', or 'random' for the weights that training starts from.
        photos: the labelled set, as `transfer_photos` gives it.
    """
    logger.info("judge %s", label)
    run = RunDir(config.out)
    if label == "random":
        subject = load_subject(RANDOM, config.network.backbone, config.seed)
    else:
        subject = load_subject(run.backbone(label))
    for task, (judge, settings) in _judges(config).items():
        place = Place(
            result=run.transfer(task, label),
            seed=config.seed,
            workers=config.workers,
            device=config.device,
            overwrite=config.overwrite,
        )
        judge(replace(subject, label=label), photos, settings, place)


def _judges(config: RunConfig) -> dict[str, tuple[Callable[..., Result], Settings]]:
    own = config.transfer
    judges: dict[str, tuple[Callable[..., Result], Settings]] = {
        "svm": (run_svm, SvmSettings()),
        "knn": (run_knn, KnnSettings(k=own.knn_neighbours, temperature=own.knn_temperature)),
    }
    if own.shots:
        judges["low-shot"] = (run_low_shot, LowShotSettings(shots=own.shots))
    return judges
