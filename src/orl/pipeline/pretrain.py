"""Stages 1 and 3: BYOL on whole images, then ORL on images and their objects."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from orl import files, provenance, tables
from orl.config import FREE_TRAIN_FIELDS, RunConfig, TrainConfig, to_plain
from orl.datasets.image_table import ImageTable
from orl.memory import keep_freed_memory
from orl.networks.backbones import save_backbone
from orl.networks.mlp import save_projector
from orl.pipeline.assemble import (
    Method,
    build_image_method,
    build_optimiser,
    build_orl,
    build_schedules,
    stage_settings,
)
from orl.pipeline.record import forget_stage
from orl.pipeline.view_samplers import build_view_sampler
from orl.processes import Processes, local_device
from orl.rundir import RunDir
from orl.training.batches import epoch_batches
from orl.training.fabric import launch_fabric
from orl.training.loader import BatchSource, cut_on_device, read_from_files
from orl.training.loop import TrainOptions, train
from orl.training.training_step import SSLStep
from orl.views.image_cache import ImageCache, ViewBoxDataset, load_into_memory, require_pack
from orl.views.view_dataset import ViewDataset
from orl.views.view_samplers import GlobalViewSampler, ObjectViewSampler
from orl.weights.find import find_weights_file

logger = logging.getLogger(__name__)

Probe = Callable[[nn.Module], dict[str, float]]
"""Judges a backbone while it is trained: scores by name."""


def pretrain_images(
    config: RunConfig, images: ImageTable, processes: Processes | None = None, probe: Probe | None = None
) -> bool:
    """Stage 1: an image-level method; leaves `stage1/backbone.safetensors`.

    Args:
        config: the run.
        images: its images.
        processes: all that train together; this one alone if not given.
        probe: judges the backbone every `probe_epochs`.

    Returns:
        Whether anything was left to do.

    Raises:
        StaleResultError: if the folder holds a stage 1 of other settings.
        Stopped: after Ctrl-C; the same call goes on.
    """
    inputs = _inputs(config, config.stage1, images) | {"method": to_plain(config.method)}
    if config.method.name == "simclr":
        # The negatives of an image are those of its part.
        inputs["accumulation_steps"] = config.stage1.accumulation_steps
    build, view_sampler = partial(build_image_method, config), build_view_sampler(config, "stage1", images)
    return _run_stage(config, "stage1", inputs, build, view_sampler, processes or Processes(), probe)


def pretrain_objects(
    config: RunConfig, images: ImageTable, processes: Processes | None = None, probe: Probe | None = None
) -> bool:
    """Stage 3: ORL on the correspondences of stage 2; leaves `stage3/backbone.safetensors`.

    Args:
        config: the run.
        images: its images.
        processes: all that train together; this one alone if not given.
        probe: judges the backbone every `probe_epochs`.

    Returns:
        Whether anything was left to do.

    Raises:
        FileNotFoundError: if stage 2 has not run, or with a warm start stage 1 has not.
        ValueError: if stage 2 is not of these images or this stage 1.
        StaleResultError: if the folder holds a stage 3 of other settings.
        Stopped: after Ctrl-C; the same call goes on.
    """
    run, settings = RunDir(config.out), config.objects
    correspondences = tables.load(run.table("correspondences"))
    _check_looked_with(config)
    inputs = _inputs(config, config.stage3, images) | {
        "objects": to_plain(settings),
        "correspondences": correspondences.fingerprint,
    }
    if settings.warm_start:
        if not run.backbone("stage1").exists():
            raise FileNotFoundError(
                f"stage 3 starts from stage 1's weights, and there is no {run.backbone('stage1')}; train it with "
                "'orl pretrain', or start anew with --objects.no-warm-start"
            )
        inputs["warm_start"] = [files.file_digest(path) for path in (run.backbone("stage1"), run.projector("stage1"))]
    build, view_sampler = partial(build_orl, config), build_view_sampler(config, "stage3", images)
    return _run_stage(config, "stage3", inputs, build, view_sampler, processes or Processes(), probe)


def _check_looked_with(config: RunConfig) -> None:
    """Refuse pairs that another stage 1 found than there is now."""
    run = RunDir(config.out)
    backbone, inputs = run.backbone("stage1"), provenance.read_inputs(run.table("embeddings")) or {}
    looked_with = inputs.get("backbone")
    if config.discover.feature_extractor is not None or looked_with is None or not backbone.exists():
        return
    if looked_with != files.file_digest(backbone):
        raise ValueError(
            f"stage 2 of {run.root} looked with another stage 1 than there is now; look again with "
            "'orl discover --overwrite'"
        )


def _run_stage(
    config: RunConfig,
    stage: str,
    inputs: dict[str, Any],
    build: Callable[[], Method],
    view_sampler: GlobalViewSampler | ObjectViewSampler,
    processes: Processes,
    probe: Probe | None,
) -> bool:
    run, settings = RunDir(config.out), stage_settings(config, stage)
    if processes.is_first and provenance.claim(run.stage(stage), inputs, config.overwrite):
        forget_stage(run, stage)
    processes.wait(f"the folder of {stage}")
    is_done = processes.gather(int(run.backbone(stage).exists()))[0][0]
    if is_done:
        logger.info("%s is up to date", stage)
        return False
    keep_freed_memory()
    ssl_step = _build_ssl_step(config, settings, build, processes)
    batches = epoch_batches(
        len(view_sampler.images),
        settings.batch_size,
        settings.epochs,
        config.seed,
        rank=processes.rank,
        num_processes=processes.count,
    )
    options = TrainOptions(
        folder=run.stage(stage),
        title=stage,
        workers=config.workers,
        checkpoint_minutes=settings.checkpoint_minutes,
        num_checkpoints=settings.keep_checkpoints,
        max_unreadable=int(config.scan.max_rejected_fraction * len(view_sampler.images)),
        unreadable_hint="--scan.max-rejected-fraction",
        wandb=config.wandb,
        probe=partial(probe, ssl_step.method.online.backbone) if probe and settings.probe_epochs else None,
        probe_steps=settings.probe_epochs * batches.steps_per_epoch,
        out_of_memory_hint=(
            f"Pass the batch in parts (--{stage}.accumulation-steps 2 or more), or take a smaller batch, view or "
            "backbone in a new run (--out)"
        ),
    )
    source = _source(config, view_sampler, ssl_step.fabric.device)
    train(ssl_step, source, batches, build_schedules(settings, batches.steps_per_epoch), options, processes)
    if processes.is_first:
        save_projector(ssl_step.method.online.projector, run.projector(stage))
        notes = {"stage": stage, "epochs": str(settings.epochs)}
        save_backbone(ssl_step.method.online.backbone, run.backbone(stage), notes)
    processes.wait(f"the weights of {stage}")
    return True


def _source(
    config: RunConfig, view_sampler: GlobalViewSampler | ObjectViewSampler, device: torch.device
) -> BatchSource:
    if config.cache == "device":
        require_pack(view_sampler.images)
        images = ImageCache(view_sampler.images, device, workers=config.workers)
        return cut_on_device(ViewBoxDataset(view_sampler), images)
    if config.cache == "ram":
        load_into_memory(view_sampler.images)
    return read_from_files(ViewDataset(view_sampler))


def _build_ssl_step(
    config: RunConfig, settings: TrainConfig, build: Callable[[], Method], processes: Processes
) -> SSLStep:
    fabric = launch_fabric(local_device(config.device), config.precision, processes)
    torch.manual_seed(config.seed)
    method = build()
    optimiser = build_optimiser(method, settings)
    return SSLStep(
        fabric,
        method,
        optimiser,
        seed=config.seed,
        accumulation_steps=settings.accumulation_steps,
        compile=config.compile,
    )


def _inputs(config: RunConfig, settings: TrainConfig, images: ImageTable) -> dict[str, Any]:
    inputs = {
        "images": images.fingerprint,
        "network": to_plain(config.network),
        "train": {key: value for key, value in to_plain(settings).items() if key not in FREE_TRAIN_FIELDS},
        "seed": config.seed,
        "precision": config.precision,
    }
    return inputs | ({"init_from": files.file_digest(find_weights_file(config.init_from))} if config.init_from else {})
