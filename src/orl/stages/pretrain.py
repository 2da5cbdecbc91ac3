"""Stages 1 and 3: BYOL on whole photos, then ORL on photos and their objects."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import nn

from orl import tables
from orl.config import FREE_TRAIN_FIELDS, RunConfig, TrainConfig, ViewConfig, to_plain
from orl.images.colour import ColourDistribution
from orl.images.datasets import EpochBatches, ImageViews, ObjectTable, ObjectViews, Samples, ViewRules
from orl.images.held import HeldPhotos, HeldSamples, hold_in_memory, require_pack
from orl.images.table import ImageTable
from orl.memory import keep_freed_memory
from orl.methods.byol import BYOL
from orl.methods.orl import ORL, TERMS
from orl.networks.backbones import Backbone, build_backbone, load_backbone, save_backbone
from orl.networks.mlp import load_projector, mlp, save_projector
from orl.networks.online_target import Encoder
from orl.processes import Processes, local_device
from orl.rundir import RunDir
from orl.schedules import ema_momentum, warmup_cosine
from orl.training.fabric import launch_fabric
from orl.training.learner import Learner
from orl.training.loop import Options, Schedules, train
from orl.training.reading import Source, cut_on_device, read_from_files

logger = logging.getLogger(__name__)

ASPECT_RATIO_RANGE = (3 / 4, 4 / 3)

Probe = Callable[[nn.Module], dict[str, float]]
"""Judges a backbone while it is trained: scores by name."""


def pretrain_images(
    config: RunConfig, images: ImageTable, processes: Processes | None = None, probe: Probe | None = None
) -> bool:
    """Stage 1: BYOL; leaves `stage1/backbone.safetensors`.

    Args:
        config: the run.
        images: its photos.
        processes: all that train together; this one alone if not given.
        probe: judges the backbone every `probe_epochs`.

    Returns:
        Whether anything was left to do.

    Raises:
        StaleTableError: if the folder holds a stage 1 of other settings.
        Stopped: after Ctrl-C; the same call goes on.
    """
    made_from = _made_from(config, config.stage1, images)
    placer = ImageViews(images, view_rules(config.views), config.seed)
    return _run_stage(config, "stage1", made_from, partial(build_byol, config), placer, processes or Processes(), probe)


def pretrain_objects(
    config: RunConfig, images: ImageTable, processes: Processes | None = None, probe: Probe | None = None
) -> bool:
    """Stage 3: ORL on the correspondences of stage 2; leaves `stage3/backbone.safetensors`.

    Args:
        config: the run.
        images: its photos.
        processes: all that train together; this one alone if not given.
        probe: judges the backbone every `probe_epochs`.

    Returns:
        Whether anything was left to do.

    Raises:
        FileNotFoundError: if stage 2 has not run.
        StaleTableError: if the folder holds a stage 3 of other settings.
        Stopped: after Ctrl-C; the same call goes on.
    """
    run, settings = RunDir(config.out), config.objects
    correspondences = tables.load(run.table("correspondences"))
    made_from = _made_from(config, config.stage3, images) | {
        "objects": to_plain(settings),
        "correspondences": correspondences.fingerprint,
    }
    if settings.warm_start:
        made_from["warm_start"] = [
            tables.file_digest(path) for path in (run.backbone("stage1"), run.projector("stage1"))
        ]
    objects = object_table(tables.load(run.table("rois")), correspondences, len(images))
    placer = ObjectViews(images, view_rules(config.views), objects, settings.roi_size_px, config.seed)
    return _run_stage(config, "stage3", made_from, partial(build_orl, config), placer, processes or Processes(), probe)


def build_byol(config: RunConfig) -> BYOL:
    """Stage 1's method, its random weights drawn from torch's global generator."""
    return BYOL(_build_encoder(config), _build_predictor(config), join_views=config.network.join_views)


def build_orl(config: RunConfig) -> ORL:
    """Stage 3's method, its random weights drawn from torch's global generator; a warm start reads stage 1's files."""
    run, settings = RunDir(config.out), config.objects
    encoder = _build_encoder(config)
    if settings.warm_start:
        encoder = Encoder(load_backbone(run.backbone("stage1")), load_projector(run.projector("stage1")))
    weights = {"global": settings.global_weight, "intra": settings.intra_weight, "inter": settings.inter_weight}
    predictors: dict[str, nn.Module] = {term: _build_predictor(config) for term in TERMS}
    return ORL(encoder, predictors, weights, join_views=config.network.join_views)


def view_rules(views: ViewConfig) -> ViewRules:
    """How views are cut and coloured, out of the settings."""
    distributions = [
        ColourDistribution(
            brightness=0.4 * views.jitter_strength,
            contrast=0.4 * views.jitter_strength,
            saturation=0.2 * views.jitter_strength,
            hue=0.1 * views.jitter_strength,
            blur_probability=views.blur_probabilities[view],
            blur_sigma_px=views.blur_sigma_px,
            solarise_probability=views.solarise_probabilities[view],
        )
        for view in range(2)
    ]
    return ViewRules(
        size_px=views.size_px,
        area_range=views.area_range,
        aspect_ratio_range=ASPECT_RATIO_RANGE,
        colours=(distributions[0], distributions[1]),
    )


def object_table(rois: tables.Table, correspondences: tables.Table, num_images: int) -> ObjectTable:
    """Stage 2's tables in the form that samples are drawn from."""
    roi_image_ids = rois.column("image_id")
    image_ids = correspondences.column("image_id")
    neighbour_ids = correspondences.column("neighbour_id")
    return ObjectTable(
        rois=np.array(rois.column("box"), dtype=np.float32),
        roi_starts=tables.row_starts(roi_image_ids, num_images),
        roi_image_ids=roi_image_ids,
        pairs=np.stack([correspondences.column("roi"), correspondences.column("neighbour_roi")], axis=1),
        pair_groups=_pair_groups(image_ids, neighbour_ids, num_images),
    )


def _run_stage(
    config: RunConfig,
    stage: str,
    made_from: dict[str, Any],
    build: Callable[[], BYOL | ORL],
    placer: ImageViews | ObjectViews,
    processes: Processes,
    probe: Probe | None,
) -> bool:
    run, settings = RunDir(config.out), stage_settings(config, stage)
    if processes.is_first:
        tables.claim(run.stage(stage), made_from, config.overwrite)
    processes.wait(f"the folder of {stage}")
    is_done = processes.gather(int(run.backbone(stage).exists()))[0][0]
    if is_done:
        logger.info("%s is up to date", stage)
        return False
    keep_freed_memory()
    learner = _build_learner(config, settings, build, processes)
    batches = EpochBatches(
        len(placer.images),
        settings.batch_size,
        settings.epochs,
        config.seed,
        rank=processes.rank,
        num_processes=processes.count,
    )
    options = Options(
        folder=run.stage(stage),
        title=stage,
        workers=config.workers,
        checkpoint_minutes=settings.checkpoint_minutes,
        num_checkpoints=settings.keep_checkpoints,
        max_unreadable=int(config.scan.max_rejected_share * len(placer.images)),
        wandb=config.wandb,
        probe=probe if settings.probe_epochs else None,
        probe_steps=settings.probe_epochs * batches.steps_per_epoch,
    )
    source = _source(config, placer, learner.fabric.device)
    train(learner, source, batches, _schedules(settings, batches.steps_per_epoch), options, processes)
    if processes.is_first:
        save_projector(learner.method.online.projector, run.projector(stage))
        notes = {"stage": stage, "epochs": str(settings.epochs)}
        save_backbone(learner.method.online.backbone, run.backbone(stage), notes)
    processes.wait(f"the weights of {stage}")
    return True


def _source(config: RunConfig, placer: ImageViews | ObjectViews, device: torch.device) -> Source:
    if config.hold == "device":
        require_pack(placer.images)
        photos = HeldPhotos(placer.images, device, workers=config.workers)
        return cut_on_device(HeldSamples(placer), photos)
    if config.hold == "ram":
        hold_in_memory(placer.images)
    return read_from_files(Samples(placer))


def stage_settings(config: RunConfig, stage: str) -> TrainConfig:
    """The settings of 'stage1' or 'stage3'."""
    return {"stage1": config.stage1, "stage3": config.stage3}[stage]


def load_start(config: RunConfig) -> Backbone | None:
    """The backbone that training starts from, if not from random weights.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no backbone, or another one than the settings say.
    """
    if config.init_from is None:
        return None
    start = load_backbone(config.init_from)
    if start.name != config.network.backbone:
        raise ValueError(
            f"--init-from {config.init_from} holds a {start.name}, and --network.backbone is {config.network.backbone}"
        )
    return start


def _build_learner(
    config: RunConfig, settings: TrainConfig, build: Callable[[], BYOL | ORL], processes: Processes
) -> Learner:
    fabric = launch_fabric(local_device(config.device), config.precision, processes)
    torch.manual_seed(config.seed)
    method = build()
    optimiser = torch.optim.SGD(
        [weight for weight in method.parameters() if weight.requires_grad],
        lr=peak_lr(settings),
        momentum=settings.sgd_momentum,
        weight_decay=settings.weight_decay,
    )
    return Learner(
        fabric,
        method,
        optimiser,
        seed=config.seed,
        accumulation_steps=settings.accumulation_steps,
        compile=config.compile,
    )


def peak_lr(settings: TrainConfig) -> float:
    """The highest learning rate: linear in the batch over all processes and parts."""
    return settings.base_lr * settings.batch_size / 256


def _schedules(settings: TrainConfig, steps_per_epoch: int) -> Schedules:
    num_steps = steps_per_epoch * settings.epochs
    num_warmup_steps = round(settings.warmup_epochs * steps_per_epoch)
    return Schedules(
        lr_at=partial(warmup_cosine, num_steps=num_steps, num_warmup_steps=num_warmup_steps, peak=peak_lr(settings)),
        ema_momentum_at=partial(ema_momentum, num_steps=num_steps, start=settings.ema_momentum),
        num_warmup_steps=num_warmup_steps,
    )


def _made_from(config: RunConfig, settings: TrainConfig, images: ImageTable) -> dict[str, Any]:
    made_from = {
        "images": images.fingerprint,
        "network": to_plain(config.network),
        "views": to_plain(config.views),
        "train": {key: value for key, value in to_plain(settings).items() if key not in FREE_TRAIN_FIELDS},
        "seed": config.seed,
        "precision": config.precision,
    }
    return made_from | ({"init_from": tables.file_digest(config.init_from)} if config.init_from else {})


def _build_encoder(config: RunConfig) -> Encoder:
    network = config.network
    backbone = load_start(config) or build_backbone(network.backbone)
    return Encoder(backbone, mlp(backbone.num_channels, network.hidden_features, network.projection_features))


def _build_predictor(config: RunConfig) -> torch.nn.Sequential:
    network = config.network
    return mlp(network.projection_features, network.hidden_features, network.projection_features)


def _pair_groups(
    image_ids: Int[ndarray, "p"], neighbour_ids: Int[ndarray, "p"], num_images: int
) -> list[Int[ndarray, "_ 2"]]:
    new_group = np.flatnonzero((np.diff(image_ids) != 0) | (np.diff(neighbour_ids) != 0)) + 1
    starts = np.concatenate([[0], new_group])
    groups = np.stack([starts, np.append(new_group, len(image_ids))], axis=1)
    return np.split(groups, np.searchsorted(image_ids[starts], np.arange(1, num_images)))
