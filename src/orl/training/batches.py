"""Batches of a training: which images come at which step, in an order that depends on the seed alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from orl.views.view_samplers import SampleKey


@dataclass(frozen=True, kw_only=True)
class TrainingBatches:
    """The batches of a training, counted in steps, as one of its processes takes part in them.

    A batch depends on the seed and the step alone: a training that resumes at a later step finds the same batches.

    Raises:
        ValueError: if a batch has more images than there are, or cannot be split evenly over the processes.
    """

    num_images: int
    batch_size: int
    """Images of a step, over all processes."""
    num_steps: int
    """Steps of the training."""
    images_per_epoch: int
    """Images used from one shuffled order before the next shuffle."""
    seed: int
    """Seed of the order."""
    rank: int = 0
    """Number of this process among those that share a batch."""
    num_processes: int = 1

    def __post_init__(self) -> None:
        if self.batch_size > self.num_images:
            raise ValueError(
                f"a batch of {self.batch_size} needs as many images, and there are {self.num_images}: "
                "set a smaller --batch-size (of a run --stage1.batch-size, --stage3.batch-size)"
            )
        if self.batch_size % self.num_processes:
            raise ValueError(
                f"a batch of {self.batch_size} cannot be split evenly over {self.num_processes} processes: set another "
                "--batch-size (of a run --stage1.batch-size, --stage3.batch-size), which is over all processes"
            )

    @property
    def steps_per_epoch(self) -> int:
        """The number of complete batches in an epoch."""
        return self.images_per_epoch // self.batch_size

    def epoch(self, num_steps: int) -> float:
        """Return the number of epochs, with its fraction, that so many steps make."""
        return num_steps * self.batch_size / self.images_per_epoch

    def keys(self, step: int) -> list[SampleKey]:
        """Return epoch and image of each sample that this process takes at a step, counted from 0."""
        first = step * self.batch_size
        samples = range(first + self.rank, first + self.batch_size, self.num_processes)
        positions = [divmod(sample, self.images_per_epoch) for sample in samples]
        return [(epoch, int(_order(self.num_images, self.seed, epoch)[position])) for epoch, position in positions]

    def from_step(self, first_step: int = 0) -> Iterator[list[SampleKey]]:
        """Return the keys of one step after the other, to the end of training."""
        return map(self.keys, range(first_step, self.num_steps))


def epoch_batches(
    num_images: int, batch_size: int, num_epochs: int, seed: int, *, rank: int = 0, num_processes: int = 1
) -> TrainingBatches:
    """Return the batches of complete epochs; the last, smaller batch of an epoch is left out."""
    steps_per_epoch = num_images // batch_size
    return TrainingBatches(
        num_images=num_images,
        batch_size=batch_size,
        num_steps=num_epochs * steps_per_epoch,
        images_per_epoch=steps_per_epoch * batch_size,
        seed=seed,
        rank=rank,
        num_processes=num_processes,
    )


def stream_batches(
    num_images: int, batch_size: int, num_steps: int, seed: int, *, rank: int = 0, num_processes: int = 1
) -> TrainingBatches:
    """Return a number of batches from an endless stream of epochs; a batch may reach into the next epoch."""
    return TrainingBatches(
        num_images=num_images,
        batch_size=batch_size,
        num_steps=num_steps,
        images_per_epoch=num_images,
        seed=seed,
        rank=rank,
        num_processes=num_processes,
    )


@lru_cache(maxsize=2)
def _order(num_images: int, seed: int, epoch: int) -> Int[ndarray, "n"]:
    """Shuffle the images of an epoch; a batch of a stream needs two orders at most."""
    return np.random.default_rng([seed, epoch]).permutation(num_images)
