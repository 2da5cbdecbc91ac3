"""Batches of sample keys: which images each step of each epoch reads, in which order."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

SampleKey = tuple[int, int]
"""Epoch and row of the image: the key of a sample in a data set."""


class EpochBatchSampler(Sampler[list[SampleKey]]):
    """Batches from one step to the end of training, in an order that depends on (seed, epoch) alone."""

    def __init__(
        self, num_images: int, batch_size: int, epochs: int, seed: int, *, rank: int = 0, num_processes: int = 1
    ) -> None:
        """Set the number of images, the batch size and the share of one process.

        Args:
            num_images: number of images in the data set.
            batch_size: images per step over all processes; the last, smaller batch of an epoch is dropped.
            epochs: passes over the images.
            seed: seed of the run.
            rank: rank of this process.
            num_processes: number of processes that split each batch.

        Raises:
            ValueError: if the batch is larger than the data set, or is no multiple of the number of processes.
        """
        if batch_size > num_images:
            raise ValueError(
                f"a batch of {batch_size} needs as many images, and there are {num_images}: "
                "set a smaller --batch-size (of a run --stage1.batch-size, --stage3.batch-size)"
            )
        if batch_size % num_processes:
            raise ValueError(
                f"a batch of {batch_size} cannot be shared evenly by {num_processes} processes: set another "
                "--batch-size (of a run --stage1.batch-size, --stage3.batch-size), which is over all processes"
            )
        self.num_images, self.batch_size, self.epochs, self.seed = num_images, batch_size, epochs, seed
        self.rank, self.num_processes = rank, num_processes
        self.first_step = 0

    @property
    def steps_per_epoch(self) -> int:
        """Number of full batches in an epoch."""
        return self.num_images // self.batch_size

    def __len__(self) -> int:
        return self.steps_per_epoch * self.epochs - self.first_step

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for epoch in range(self.first_step // self.steps_per_epoch, self.epochs):
            order = np.random.default_rng([self.seed, epoch]).permutation(self.num_images)
            first = max(0, self.first_step - epoch * self.steps_per_epoch)
            for step in range(first, self.steps_per_epoch):
                batch = order[step * self.batch_size : (step + 1) * self.batch_size]
                yield [(epoch, int(image_id)) for image_id in batch[self.rank :: self.num_processes]]
