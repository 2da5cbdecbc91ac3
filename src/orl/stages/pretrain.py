"""Stages 1 and 3: BYOL on whole photos, then ORL on photos and their objects."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from orl import tables
from orl.config import FREE_TRAIN_FIELDS, RunConfig, TrainConfig, to_plain
from orl.images.datasets import EpochBatches, ImageViews, ObjectViews, Samples
from orl.images.held import HeldPhotos, HeldSamples, hold_in_memory, require_pack
from orl.images.table import ImageTable
from orl.memory import keep_freed_memory
from orl.networks.backbones import save_backbone
from orl.networks.mlp import save_projector
from orl.processes import Processes, local_device
from orl.rundir import RunDir, forget_stage
from orl.stages.assemble import (
    Method,
    build_image_method,
    build_optimiser,
    build_orl,
    build_schedules,
    stage_settings,
)
from orl.stages.placers import view_placer
from orl.training.fabric import launch_fabric
from orl.training.learner import Learner
from orl.training.loop import Options, train
from orl.training.reading import Source, cut_on_device, read_from_files
from orl.weights.loading import weights_file

logger = logging.getLogger(__name__)

Probe = Callable[[nn.Module], dict[str, float]]
"""Judges a backbone while it is trained: scores by name."""


def pretrain_images(
    config: RunConfig, images: ImageTable, processes: Processes | None = None, probe: Probe | None = None
) -> bool:
    """Stage 1: an image-level method; leaves `stage1/backbone.safetensors`.

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
    made_from = _made_from(config, config.stage1, images) | {"method": to_plain(config.method)}
    if config.method.name == "simclr":
        # The negatives of a photo are those of its part.
        made_from["accumulation_steps"] = config.stage1.accumulation_steps
    build, placer = partial(build_image_method, config), view_placer(config, "stage1", images)
    return _run_stage(config, "stage1", made_from, build, placer, processes or Processes(), probe)


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
        FileNotFoundError: if stage 2 has not run, or with a warm start stage 1 has not.
        ValueError: if stage 2 is not of these photos or this stage 1.
        StaleTableError: if the folder holds a stage 3 of other settings.
        Stopped: after Ctrl-C; the same call goes on.
    """
    run, settings = RunDir(config.out), config.objects
    correspondences = tables.load(run.table("correspondences"))
    _check_looked_with(config)
    made_from = _made_from(config, config.stage3, images) | {
        "objects": to_plain(settings),
        "correspondences": correspondences.fingerprint,
    }
    if settings.warm_start:
        if not run.backbone("stage1").exists():
            raise FileNotFoundError(
                f"stage 3 starts from stage 1's weights, and there is no {run.backbone('stage1')}; train it with "
                "'orl pretrain', or start anew with --objects.no-warm-start"
            )
        made_from["warm_start"] = [
            tables.file_digest(path) for path in (run.backbone("stage1"), run.projector("stage1"))
        ]
    build, placer = partial(build_orl, config), view_placer(config, "stage3", images)
    return _run_stage(config, "stage3", made_from, build, placer, processes or Processes(), probe)


def _check_looked_with(config: RunConfig) -> None:
    """Refuse pairs that another stage 1 found than there is now."""
    run = RunDir(config.out)
    backbone, made_from = run.backbone("stage1"), tables.read_made_from(run.table("embeddings")) or {}
    looked_with = made_from.get("backbone")
    if config.discover.backbone is not None or looked_with is None or not backbone.exists():
        return
    if looked_with != tables.file_digest(backbone):
        raise ValueError(
            f"stage 2 of {run.root} looked with another stage 1 than there is now; look again with "
            "'orl discover --overwrite'"
        )


def _run_stage(
    config: RunConfig,
    stage: str,
    made_from: dict[str, Any],
    build: Callable[[], Method],
    placer: ImageViews | ObjectViews,
    processes: Processes,
    probe: Probe | None,
) -> bool:
    run, settings = RunDir(config.out), stage_settings(config, stage)
    if processes.is_first and tables.claim(run.stage(stage), made_from, config.overwrite):
        forget_stage(run, stage)
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
        unreadable_hint="--scan.max-rejected-share",
        wandb=config.wandb,
        probe=partial(probe, learner.method.online.backbone) if probe and settings.probe_epochs else None,
        probe_steps=settings.probe_epochs * batches.steps_per_epoch,
        out_of_memory_hint=(
            f"Pass the batch in parts (--{stage}.accumulation-steps 2 or more), or take a smaller batch, view or "
            "backbone in a new run (--out)"
        ),
    )
    source = _source(config, placer, learner.fabric.device)
    train(learner, source, batches, build_schedules(settings, batches.steps_per_epoch), options, processes)
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


def _build_learner(
    config: RunConfig, settings: TrainConfig, build: Callable[[], Method], processes: Processes
) -> Learner:
    fabric = launch_fabric(local_device(config.device), config.precision, processes)
    torch.manual_seed(config.seed)
    method = build()
    optimiser = build_optimiser(method, settings)
    return Learner(
        fabric,
        method,
        optimiser,
        seed=config.seed,
        accumulation_steps=settings.accumulation_steps,
        compile=config.compile,
    )


def _made_from(config: RunConfig, settings: TrainConfig, images: ImageTable) -> dict[str, Any]:
    made_from = {
        "images": images.fingerprint,
        "network": to_plain(config.network),
        "train": {key: value for key, value in to_plain(settings).items() if key not in FREE_TRAIN_FIELDS},
        "seed": config.seed,
        "precision": config.precision,
    }
    return made_from | ({"init_from": tables.file_digest(weights_file(config.init_from))} if config.init_from else {})
