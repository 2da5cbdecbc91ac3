"""Stages 1 and 3: BYOL on whole photos, then ORL on photos and their objects."""

import logging
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from lightning_fabric import Fabric
from numpy import ndarray

from orl import tables
from orl.config import RunConfig, TrainConfig, ViewConfig, to_plain
from orl.images.colour import ColourDistribution
from orl.images.datasets import EpochBatches, ImageViews, ObjectTable, ObjectViews, Samples, ViewRules
from orl.images.table import ImageTable
from orl.methods.byol import BYOL
from orl.methods.orl import ORL, TERMS
from orl.networks.backbones import build_backbone, save_backbone
from orl.networks.device import compute_device
from orl.networks.mlp import mlp, save_projector
from orl.networks.online_target import Encoder
from orl.rundir import RunDir
from orl.schedules import ema_momentum, warmup_cosine
from orl.training.loop import train

logger = logging.getLogger(__name__)

ASPECT_RATIO_RANGE = (3 / 4, 4 / 3)


def pretrain_images(config: RunConfig, images: ImageTable) -> bool:
    """Stage 1: BYOL from random weights; leaves `stage1/backbone.safetensors`.

    Returns:
        Whether anything was left to do.

    Raises:
        StaleTableError: if the folder holds a stage 1 of other settings.
        Stopped: after Ctrl-C; the same call goes on.
    """
    made_from = _made_from(config, config.stage1, images)
    dataset = Samples(ImageViews(images, view_rules(config.views), config.seed))
    torch.manual_seed(config.seed)
    encoder = _build_encoder(config)
    return _run_stage(config, "stage1", config.stage1, made_from, BYOL(encoder, _build_predictor(config)), dataset)


def pretrain_objects(config: RunConfig, images: ImageTable) -> bool:
    """Stage 3: ORL from random weights on the correspondences of stage 2; leaves `stage3/backbone.safetensors`.

    Returns:
        Whether anything was left to do.

    Raises:
        FileNotFoundError: if stage 2 has not run.
        StaleTableError: if the folder holds a stage 3 of other settings.
        Stopped: after Ctrl-C; the same call goes on.
    """
    run = RunDir(config.out)
    correspondences = tables.load(run.table("correspondences"))
    made_from = _made_from(config, config.stage3, images) | {
        "objects": to_plain(config.objects),
        "correspondences": correspondences.fingerprint,
    }
    objects = object_table(tables.load(run.table("rois")), correspondences, len(images))
    placer = ObjectViews(images, view_rules(config.views), objects, config.objects.roi_size_px, config.seed)
    dataset = Samples(placer)
    torch.manual_seed(config.seed)
    encoder = _build_encoder(config)
    weights = {
        "global": config.objects.global_weight,
        "intra": config.objects.intra_weight,
        "inter": config.objects.inter_weight,
    }
    method = ORL(encoder, {term: _build_predictor(config) for term in TERMS}, weights)
    return _run_stage(config, "stage3", config.stage3, made_from, method, dataset)


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
    settings: TrainConfig,
    made_from: dict[str, Any],
    method: BYOL | ORL,
    dataset: Samples,
) -> bool:
    run = RunDir(config.out)
    tables.claim(run.stage(stage), made_from, config.overwrite)
    if run.backbone(stage).exists():
        logger.info("%s is up to date", stage)
        return False
    device = compute_device(config.device)
    fabric = Fabric(accelerator=device.type, devices=1, precision=config.precision)
    batches = EpochBatches(len(dataset), settings.batch_size, settings.epochs, config.seed)
    num_steps = batches.steps_per_epoch * settings.epochs
    peak_lr = settings.base_lr * settings.batch_size / 256
    optimiser = torch.optim.SGD(
        [weight for weight in method.parameters() if weight.requires_grad],
        lr=peak_lr,
        momentum=settings.sgd_momentum,
        weight_decay=settings.weight_decay,
    )
    warmup_steps = round(settings.warmup_epochs * batches.steps_per_epoch)
    train(
        fabric,
        method,
        optimiser,
        dataset,
        batches,
        lr_at=partial(warmup_cosine, num_steps=num_steps, num_warmup_steps=warmup_steps, peak=peak_lr),
        ema_momentum_at=partial(ema_momentum, num_steps=num_steps, start=settings.ema_momentum),
        folder=run.stage(stage),
        workers=config.workers,
        checkpoint_minutes=settings.checkpoint_minutes,
        title=stage,
    )
    save_projector(method.online.projector, run.projector(stage))
    save_backbone(method.online.backbone, run.backbone(stage), {"stage": stage, "epochs": str(settings.epochs)})
    return True


def _made_from(config: RunConfig, settings: TrainConfig, images: ImageTable) -> dict[str, Any]:
    train_settings = {key: value for key, value in to_plain(settings).items() if key != "checkpoint_minutes"}
    return {
        "images": images.fingerprint,
        "network": to_plain(config.network),
        "views": to_plain(config.views),
        "train": train_settings,
        "seed": config.seed,
        "precision": config.precision,
    }


def _build_encoder(config: RunConfig) -> Encoder:
    backbone = build_backbone(config.network.backbone)
    network = config.network
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
