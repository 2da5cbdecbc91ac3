"""Training stages: stage 1, an image-level method, and stage 3, ORL on images and their objects."""

import logging
from typing import Any

import torch

from orl import files, provenance, tables
from orl.config import FREE_TRAIN_FIELDS, RunConfig, to_plain
from orl.datasets.image_table import ImageTable, require_unchanged
from orl.memory import keep_freed_memory
from orl.networks.backbones import save_backbone
from orl.networks.mlp import save_projector
from orl.pipeline.preflight import RunInputs
from orl.pipeline.probe import build_probe
from orl.pipeline.record import forget_stage, recorded_stage
from orl.pipeline.run_plan import expected_time_logger
from orl.pipeline.training_setup import (
    build_image_method,
    build_optimiser,
    build_orl,
    build_schedules,
    stage_config,
)
from orl.pipeline.view_samplers import build_view_sampler
from orl.processes import Processes, local_device
from orl.recipes import training_deviations
from orl.training.batches import epoch_batches
from orl.training.fabric import launch_fabric
from orl.training.loader import BatchSource, cut_on_device, read_from_files
from orl.training.loop import TrainOptions, train
from orl.training.training_step import SSLStep
from orl.views.crops import RESAMPLING
from orl.views.image_cache import ImageCache, ViewBoxDataset, load_into_memory
from orl.views.view_dataset import ViewDataset
from orl.views.view_samplers import GlobalViewSampler, ObjectViewSampler

logger = logging.getLogger(__name__)


def pretrain(inputs: RunInputs, images: ImageTable, stage: str, processes: Processes | None = None) -> bool:
    """Train 'stage1', an image-level method, or 'stage3', ORL on the correspondences of stage 2.

    A stopped training resumes from its last checkpoint. The stage leaves `backbone.safetensors`.

    Args:
        inputs: the checked inputs of the run.
        images: its images.
        stage: 'stage1' or 'stage3'.
        processes: all that train together; this one alone if not given.

    Returns:
        True if the stage was trained, False if it was up to date.

    Raises:
        FileNotFoundError: if the stage is 'stage3' and stage 2 has not run.
        ValueError: if stage 2 was made from other images.
        StaleResultError: if the folder holds a training of another config.
        Stopped: after Ctrl-C; the same call resumes.
    """
    processes = processes or Processes()
    with recorded_stage(inputs.run, stage, processes):
        return _train_stage(inputs, images, stage, processes)


def _train_stage(inputs: RunInputs, images: ImageTable, stage: str, processes: Processes) -> bool:
    config, run, train_config = inputs.config, inputs.run, stage_config(inputs.config, stage)
    if processes.is_first:
        require_unchanged(images)
    view_sampler = build_view_sampler(config, stage, images)
    if processes.is_first and provenance.claim(run.stage(stage), _provenance(inputs, images, stage), config.overwrite):
        forget_stage(run, stage)
    processes.wait(f"the folder of {stage}")
    is_done = processes.gather(int(run.backbone(stage).exists()))[0][0]
    if is_done:
        logger.info("%s is up to date", stage)
        return False
    keep_freed_memory()
    ssl_step = _build_ssl_step(inputs, stage, processes)
    batches = epoch_batches(
        len(images),
        train_config.batch_size,
        train_config.epochs,
        config.seed,
        drop_last=train_config.drop_last,
        accumulation_steps=train_config.accumulation_steps,
        rank=processes.rank,
        num_processes=processes.count,
    )
    probe = build_probe(inputs, stage, ssl_step.method.online.backbone) if processes.is_first else None
    options = TrainOptions(
        folder=run.stage(stage),
        title=stage,
        workers=config.workers,
        checkpoint_minutes=train_config.checkpoint_minutes,
        num_checkpoints=train_config.keep_checkpoints,
        max_unreadable=int(config.scan.max_rejected_fraction * len(images)),
        unreadable_hint="--scan.max-rejected-fraction",
        wandb=config.wandb,
        probe=probe,
        probe_steps=train_config.probe_epochs * batches.steps_per_epoch,
        after_step=expected_time_logger(inputs, stage, len(images)),
        out_of_memory_hint=(
            f"Use gradient accumulation (--{stage}.accumulation-steps 2 or more), or use a smaller batch, view or "
            "backbone in a new run (--out)"
        ),
    )
    source = _build_source(config, view_sampler, ssl_step.fabric.device)
    train(ssl_step, source, batches, build_schedules(train_config, batches.steps_per_epoch), options, processes)
    if processes.is_first:
        save_projector(ssl_step.method.online.projector, run.projector(stage))
        deviations = training_deviations(config, stage)
        notes = {"stage": stage, "epochs": str(train_config.epochs), "deviations": deviations}
        save_backbone(ssl_step.method.online.backbone, run.backbone(stage), notes)
    processes.wait(f"the weights of {stage}")
    return True


def _provenance(inputs: RunInputs, images: ImageTable, stage: str) -> dict[str, Any]:
    """Return all inputs that determine the weights of a stage, as JSON values."""
    config, run, train_config = inputs.config, inputs.run, to_plain(stage_config(inputs.config, stage))
    found: dict[str, Any] = {
        "images": images.fingerprint,
        "resampling": RESAMPLING,
        "network": to_plain(config.network),
        "train": {key: value for key, value in train_config.items() if key not in FREE_TRAIN_FIELDS},
        "seed": config.seed,
        "precision": config.precision,
    }
    if inputs.start_digest is not None:
        found["init_from"] = inputs.start_digest
    if stage == "stage1":
        found["method"] = to_plain(config.method)
        if config.method.name == "simclr":
            # The negatives of an image are the images of its accumulation step.
            found["accumulation_steps"] = config.stage1.accumulation_steps
        return found
    found["objects"] = to_plain(config.objects)
    found["correspondences"] = tables.load(run.table("correspondences")).fingerprint
    if config.objects.warm_start:
        found["warm_start"] = [files.file_digest(path) for path in (run.backbone("stage1"), run.projector("stage1"))]
    return found


def _build_source(
    config: RunConfig, view_sampler: GlobalViewSampler | ObjectViewSampler, device: torch.device
) -> BatchSource:
    if config.cache == "device":
        images = ImageCache(view_sampler.images, device, workers=config.workers)
        return cut_on_device(ViewBoxDataset(view_sampler), images)
    if config.cache == "ram":
        load_into_memory(view_sampler.images)
    return read_from_files(ViewDataset(view_sampler))


def _build_ssl_step(inputs: RunInputs, stage: str, processes: Processes) -> SSLStep:
    config, train_config = inputs.config, stage_config(inputs.config, stage)
    fabric = launch_fabric(local_device(config.device), config.precision, processes)
    torch.manual_seed(config.seed)
    method = {"stage1": build_image_method, "stage3": build_orl}[stage](config, inputs.start)
    return SSLStep(
        fabric,
        method,
        build_optimiser(method, train_config),
        seed=config.seed,
        accumulation_steps=train_config.accumulation_steps,
        compile=config.compile,
    )
