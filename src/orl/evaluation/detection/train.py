"""The training of a detector: so many steps on an endless stream of shuffled images, by the one loop."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric

from orl.evaluation.detection.configs import DECAY_FACTOR, WARMUP_FACTOR, DetectionConfig, Plan
from orl.evaluation.detection.datasets import DetectionDataset
from orl.evaluation.detection.model import build_detector, losses, sgd
from orl.evaluation.detection.precise_bn import update_statistics
from orl.evaluation.detection.samples import TrainingRules, TrainingSamples, collate_detection
from orl.networks.sync_bn import sync_batch_norm
from orl.processes import Processes
from orl.schedules import warmup_step_decay
from orl.training.batches import TrainingBatches, stream_batches
from orl.training.loader import BatchReader, BatchSource
from orl.training.loop import Schedules, TrainOptions, train
from orl.training.supervised import SupervisedStep

MAX_UNREADABLE_FRACTION = 0.01
"""Of the training images, which may turn out unreadable before training stops; others take their places."""
PRECISE_BN_STREAM = 1
"""What tells the images for batch statistics from those of training, which have the seed alone."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """All that decides what a detector learns, beside the weights that it starts from."""

    images: DetectionDataset
    settings: DetectionConfig
    plan: Plan
    rules: TrainingRules
    seed: int

    def source(self) -> BatchSource:
        """Training samples, read by workers."""
        samples = TrainingSamples(self.images, self.rules, self.seed)
        return BatchSource(dataset=samples, collate=collate_detection, finish=lambda batch: batch)

    def batches(self, num_steps: int, processes: Processes, stream: int = 0) -> TrainingBatches:
        """This process's part of so many steps."""
        return stream_batches(
            len(self.images),
            self.settings.batch_size,
            num_steps,
            self.seed + stream,
            rank=processes.rank,
            num_processes=processes.count,
        )


def learning_rate(plan: Plan) -> Schedules:
    """Linear warm-up, then steps down."""

    def values_at(step: int) -> dict[str, float]:
        lr = warmup_step_decay(
            step, plan.num_warmup_steps, plan.milestones, plan.lr, factor=DECAY_FACTOR, warmup_factor=WARMUP_FACTOR
        )
        return {"lr": lr}

    return Schedules(values_at=values_at, num_warmup_steps=plan.num_warmup_steps)


def build_training_step(backbone: object, course: Course, fabric: Fabric) -> SupervisedStep:
    """The detector on its device, with its optimiser.

    Raises:
        ValueError: as `build_detector`.
    """
    torch.manual_seed(course.seed)
    detector: Any = build_detector(backbone, len(course.images.classes), course.settings)
    if fabric.world_size > 1:
        detector = sync_batch_norm(detector, fabric.device)
    return SupervisedStep(fabric, detector, sgd(detector, course.plan.lr), losses, seed=course.seed)


def train_detector(training_step: SupervisedStep, course: Course, options: TrainOptions, processes: Processes) -> None:
    """Train to the end, from the newest checkpoint if there is one; then compute batch statistics anew.

    Raises:
        RuntimeError: as `train`.
        Stopped: as `train`.
    """
    batches = course.batches(course.plan.num_steps, processes)
    train(training_step, course.source(), batches, learning_rate(course.plan), options, processes)
    if course.settings.precise_bn_iterations:
        precise_statistics(training_step, course, options.workers, processes)


def precise_statistics(training_step: SupervisedStep, course: Course, workers: int, processes: Processes) -> None:
    """Batch statistics of the final weights, from fresh batches of training images."""
    batches = course.batches(course.settings.precise_bn_iterations, processes, PRECISE_BN_STREAM)
    reader = BatchReader(course.source(), batches, workers, pin_memory=training_step.fabric.device.type == "cuda")

    def forward(batch: Any) -> None:
        if not batch.views:
            file, reason = batch.unreadable[-1]
            raise RuntimeError(
                f"{len(batch.unreadable)} images in a row cannot be read for the batch statistics, the last one "
                f"{file}: {reason}. Is the disk still there? Training is kept: the same command goes on"
            )
        losses(training_step.network, batch.views)

    device = training_step.fabric.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Which proposals go through the heads is drawn from torch's generator.
        torch.manual_seed(course.seed)
        update_statistics(training_step.network, forward, reader)
