"""The training of a detector: so many steps on an endless stream of shuffled images, by the one loop."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from lightning_fabric import Fabric
from numpy import ndarray

from orl.evaluation.detection.configs import DECAY_FACTOR, WARMUP_FACTOR, DetectionConfig, Plan
from orl.evaluation.detection.datasets import DetectionDataset
from orl.evaluation.detection.model import build_detector, losses, sgd
from orl.evaluation.detection.precise_bn import update_statistics
from orl.evaluation.detection.samples import TrainingRules, TrainingSamples, collate_detection
from orl.networks.sync_bn import sync_batch_norm
from orl.processes import Processes
from orl.schedules import warmup_step_decay
from orl.training.loader import BatchReader, Source
from orl.training.loop import Options, Schedules, train
from orl.training.supervised import Supervised
from orl.views.batch_sampler import EpochBatchSampler, SampleKey

MAX_UNREADABLE_FRACTION = 0.01
"""Of the training images, which may turn out unreadable before training stops; others take their places."""
PRECISE_BN_STREAM = 1
"""What tells the images for batch statistics from those of training, which have the seed alone."""


class StepBatches(EpochBatchSampler):
    """So many steps, whatever the number of epochs they come to; a batch may begin in one epoch and end in the next.

    Its one 'epoch' is the whole training, as the loop sees it; images are keyed by the pass that they come in.
    """

    def __init__(
        self, num_images: int, batch_size: int, num_steps: int, seed: int, *, rank: int = 0, num_processes: int = 1
    ) -> None:
        """As `EpochBatches`, with a number of steps instead of epochs."""
        super().__init__(num_images, batch_size, 1, seed, rank=rank, num_processes=num_processes)
        self.num_steps = num_steps
        self._order = lru_cache(maxsize=2)(self._shuffled)

    @property
    def steps_per_epoch(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for step in range(self.first_step, self.num_steps):
            places = range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.num_processes)
            keys = [divmod(place, self.num_images) for place in places]
            yield [(epoch, int(self._order(epoch)[place])) for epoch, place in keys]

    def _shuffled(self, epoch: int) -> Int[ndarray, "n"]:
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_images)


@dataclass(frozen=True, kw_only=True)
class Course:
    """All that decides what a detector learns, beside the weights that it starts from."""

    images: DetectionDataset
    settings: DetectionConfig
    plan: Plan
    rules: TrainingRules
    seed: int

    def source(self) -> Source:
        """Training samples, read by workers."""
        samples = TrainingSamples(self.images, self.rules, self.seed)
        return Source(samples=samples, collate=collate_detection, finish=lambda batch: batch)

    def batches(self, num_steps: int, processes: Processes, stream: int = 0) -> StepBatches:
        """This process's part of so many steps."""
        return StepBatches(
            len(self.images),
            self.settings.batch_size,
            num_steps,
            self.seed + stream,
            rank=processes.rank,
            num_processes=processes.count,
        )


def learning_rate(plan: Plan) -> Schedules:
    """Linear warm-up, then steps down."""

    def at(step: int) -> dict[str, float]:
        lr = warmup_step_decay(
            step, plan.num_warmup_steps, plan.milestones, plan.lr, factor=DECAY_FACTOR, warmup_factor=WARMUP_FACTOR
        )
        return {"lr": lr}

    return Schedules(at=at, num_warmup_steps=plan.num_warmup_steps)


def build_training_step(backbone: object, course: Course, fabric: Fabric) -> Supervised:
    """The detector on its device, with its optimiser.

    Raises:
        ValueError: as `build_detector`.
    """
    torch.manual_seed(course.seed)
    detector: Any = build_detector(backbone, len(course.images.classes), course.settings)
    if fabric.world_size > 1:
        detector = sync_batch_norm(detector, fabric.device)
    return Supervised(fabric, detector, sgd(detector, course.plan.lr), losses, seed=course.seed)


def train_detector(training_step: Supervised, course: Course, options: Options, processes: Processes) -> None:
    """Train to the end, from the newest checkpoint if there is one; then compute batch statistics anew.

    Raises:
        RuntimeError: as `train`.
        Stopped: as `train`.
    """
    batches = course.batches(course.plan.num_steps, processes)
    train(training_step, course.source(), batches, learning_rate(course.plan), options, processes)
    if course.settings.precise_bn_iterations:
        precise_statistics(training_step, course, options.workers, processes)


def precise_statistics(training_step: Supervised, course: Course, workers: int, processes: Processes) -> None:
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
