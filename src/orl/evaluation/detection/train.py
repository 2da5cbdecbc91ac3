"""Training of a detector: a number of steps on an endless stream of shuffled images, by the common loop."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric

from orl.evaluation.detection.config import DECAY_FACTOR, WARMUP_FACTOR, DetectionConfig, TrainingPlan
from orl.evaluation.detection.datasets import DetectionDataset
from orl.evaluation.detection.model import build_detector, build_detector_optimiser, detector_losses
from orl.evaluation.detection.precise_bn import update_batch_statistics
from orl.evaluation.detection.samples import DetectionTrainingImages, ResizeConfig, collate_detection
from orl.networks.sync_bn import sync_batch_norm
from orl.processes import Processes
from orl.schedules import warmup_step_decay
from orl.training.batches import TrainingBatches, stream_batches
from orl.training.loader import BatchReader, BatchSource
from orl.training.loop import Schedules, TrainOptions, train
from orl.training.supervised import SupervisedStep

PRECISE_BN_SEED_OFFSET = 1
"""Difference between the seeds of the images for batch statistics and for training."""


@dataclass(frozen=True, kw_only=True)
class DetectorTraining:
    """Images and options of the training of a detector."""

    images: DetectionDataset
    config: DetectionConfig
    plan: TrainingPlan
    seed: int

    def source(self) -> BatchSource:
        """Return the training samples, which worker processes read."""
        resize = ResizeConfig(
            short_sides_px=self.plan.short_sides_px, longest_px=self.config.longest_px, masks=self.config.masks
        )
        dataset = DetectionTrainingImages(self.images, resize, self.seed)
        return BatchSource(dataset=dataset, collate=collate_detection, finish=lambda batch: batch)

    def batches(self, num_steps: int, processes: Processes, seed_offset: int = 0) -> TrainingBatches:
        """Return the batches of this process."""
        return stream_batches(
            len(self.images),
            self.config.batch_size,
            num_steps,
            self.seed + seed_offset,
            rank=processes.rank,
            num_processes=processes.count,
        )


def learning_rate(plan: TrainingPlan) -> Schedules:
    """Return a linear warm-up, followed by steps down."""

    def values_at(step: int) -> dict[str, float]:
        lr = warmup_step_decay(
            step, plan.num_warmup_steps, plan.milestones, plan.lr, factor=DECAY_FACTOR, warmup_factor=WARMUP_FACTOR
        )
        return {"lr": lr}

    return Schedules(values_at=values_at, num_warmup_steps=plan.num_warmup_steps)


def build_training_step(backbone: object, training: DetectorTraining, fabric: Fabric) -> SupervisedStep:
    """Build the detector on its device, with its optimiser.

    Raises:
        ValueError: if the backbone is not an orl ResNet.
    """
    torch.manual_seed(training.seed)
    detector: Any = build_detector(backbone, len(training.images.classes), training.config)
    if fabric.world_size > 1:
        detector = sync_batch_norm(detector, fabric.device)
    optimiser = build_detector_optimiser(detector, training.plan.lr)
    return SupervisedStep(fabric, detector, optimiser, detector_losses, seed=training.seed)


def train_detector(
    training_step: SupervisedStep, training: DetectorTraining, options: TrainOptions, processes: Processes
) -> None:
    """Train to the last step, from the newest checkpoint if there is one; then recompute the batch statistics.

    Raises:
        RuntimeError: if training fails or the images for the batch statistics cannot be read.
        Stopped: after Ctrl-C or a signal; the state is saved.
    """
    batches = training.batches(training.plan.num_steps, processes)
    train(training_step, training.source(), batches, learning_rate(training.plan), options, processes)
    if training.config.precise_bn_iterations:
        precise_statistics(training_step, training, options.workers, processes)


def precise_statistics(
    training_step: SupervisedStep, training: DetectorTraining, workers: int, processes: Processes
) -> None:
    """Recompute the batch statistics of the final weights from new batches of training images."""
    batches = training.batches(training.config.precise_bn_iterations, processes, PRECISE_BN_SEED_OFFSET)
    reader = BatchReader(training.source(), batches, workers, pin_memory=training_step.fabric.device.type == "cuda")

    def forward(batch: Any) -> None:
        if not batch.views:
            file, reason = batch.unreadable[-1]
            raise RuntimeError(
                f"{len(batch.unreadable)} images in a row cannot be read for the batch statistics, the last one "
                f"{file}: {reason}. Is the disk mounted? Training is kept: the same command resumes"
            )
        detector_losses(training_step.network, batch.views)

    device = training_step.fabric.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # The heads sample their proposals with torch's generator.
        torch.manual_seed(training.seed)
        update_batch_statistics(training_step.network, forward, reader)
