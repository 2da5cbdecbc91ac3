"""Batches of a training: which images come at which step, in an order that depends on the seed alone."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from orl.views.view_samplers import SampleKey

MIN_IMAGES_PER_PASS = 2
"""Fewest images of a forward pass in each process: batch statistics and metrics need two."""


@dataclass(frozen=True, kw_only=True)
class TrainingBatches:
    """The batches of a training, counted in steps, as one of its processes takes part in them.

    A batch depends on the seed and the step alone: a training that resumes at a later step finds the same batches.
    Only how many images fill the last batch of an epoch depends on the processes and the accumulation steps.

    Raises:
        ValueError: if a batch has more images than there are, or cannot be split evenly over the processes.
    """

    num_images: int
    batch_size: int
    """Images of a step, over all processes."""
    num_steps: int
    """Steps of the training."""
    images_per_epoch: int
    """Images used from one shuffled order before the next shuffle. More than there are: the first ones come again."""
    seed: int
    """Seed of the order."""
    joins_epochs: bool = False
    """Whether the last batch of an epoch is completed with images of the next; otherwise it may be smaller."""
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
        """The number of batches of an epoch, also of a smaller last one."""
        return math.ceil(self.images_per_epoch / self.batch_size)

    def images_before(self, step: int) -> int:
        """Return the number of images in all batches before a step, counted from 0."""
        if self.joins_epochs:
            return step * self.batch_size
        epoch, index = divmod(step, self.steps_per_epoch)
        return epoch * self.images_per_epoch + index * self.batch_size

    def epoch(self, num_steps: int) -> float:
        """Return the number of epochs, with its fraction, that so many steps make."""
        return self.images_before(num_steps) / self.images_per_epoch

    def keys(self, step: int) -> list[SampleKey]:
        """Return epoch and image of each sample that this process takes at a step, counted from 0."""
        samples = range(self.images_before(step) + self.rank, self.images_before(step + 1), self.num_processes)
        positions = [divmod(sample, self.images_per_epoch) for sample in samples]
        orders = {epoch: _order(self.num_images, self.seed, epoch) for epoch, _ in positions}
        return [(epoch, int(orders[epoch][position % self.num_images])) for epoch, position in positions]

    def from_step(self, first_step: int = 0) -> Iterator[list[SampleKey]]:
        """Return the keys of one step after the other, to the end of training."""
        return map(self.keys, range(first_step, self.num_steps))


def epoch_batches(
    num_images: int,
    batch_size: int,
    num_epochs: int,
    seed: int,
    *,
    drop_last: bool = False,
    accumulation_steps: int = 1,
    rank: int = 0,
    num_processes: int = 1,
) -> TrainingBatches:
    """Return the batches of complete epochs.

    Args:
        num_images: images of the training.
        batch_size: images of a step, over all processes.
        num_epochs: epochs of the training.
        seed: seed of the order.
        drop_last: leave out the last, smaller batch of an epoch. Otherwise it is kept, and filled with the first images
            of the epoch until processes and accumulation steps have equal parts of `MIN_IMAGES_PER_PASS` or a multiple.
        accumulation_steps: parts of a batch in each process.
        rank: number of this process.
        num_processes: processes that share a batch.

    Source:
        ORL's published code pads an epoch with its first images to a multiple of the processes.
    """
    full, rest = divmod(num_images, batch_size)
    multiple = MIN_IMAGES_PER_PASS * num_processes * accumulation_steps
    last = 0 if drop_last else min(batch_size, math.ceil(rest / multiple) * multiple)
    return TrainingBatches(
        num_images=num_images,
        batch_size=batch_size,
        num_steps=num_epochs * num_steps_per_epoch(num_images, batch_size, drop_last=drop_last),
        images_per_epoch=full * batch_size + last,
        seed=seed,
        rank=rank,
        num_processes=num_processes,
    )


def num_steps_per_epoch(num_images: int, batch_size: int, *, drop_last: bool) -> int:
    """Return the number of batches of an epoch, with or without a smaller last one."""
    return num_images // batch_size if drop_last else math.ceil(num_images / batch_size)


def stream_batches(
    num_images: int, batch_size: int, num_steps: int, seed: int, *, rank: int = 0, num_processes: int = 1
) -> TrainingBatches:
    """Return a number of batches from an endless stream of epochs; a batch may reach into the next epoch."""
    return TrainingBatches(
        num_images=num_images,
        batch_size=batch_size,
        num_steps=num_steps,
        images_per_epoch=num_images,
        joins_epochs=True,
        seed=seed,
        rank=rank,
        num_processes=num_processes,
    )


@lru_cache(maxsize=2)
def _order(num_images: int, seed: int, epoch: int) -> Int[ndarray, "n"]:
    """Shuffle the images of an epoch; a batch of a stream needs two orders at most."""
    return np.random.default_rng([seed, epoch]).permutation(num_images)
