"""Arithmetic of estimates: from the cost of a few images to that of a complete run."""

import math
from dataclasses import dataclass

USABLE_FRACTION = 0.9
"""Fraction of the free memory to plan with; the rest is for other processes and for errors of the estimate."""
PREFETCHED_BATCHES = 2
"""Batches that each worker prefetches (DataLoader's `prefetch_factor`)."""


@dataclass(frozen=True)
class LinearCost:
    """Linear cost of a batch: a fixed part and a part per image."""

    fixed: float
    """Cost without any image."""
    per_image: float

    def at(self, num_images: float) -> float:
        """Return the cost of this number of images."""
        return self.fixed + self.per_image * num_images


def line_through(first: tuple[int, float], second: tuple[int, float]) -> LinearCost:
    """Fit a line through two measurements, each (images, value).

    Noise may make the larger batch cheaper: then the whole cost is fixed. Noise may make the fixed part negative: then
    the whole cost is per image.

    Raises:
        ValueError: if both measurements are of the same number of images.
    """
    (few, low), (many, high) = first, second
    if few == many:
        raise ValueError(f"a line needs measurements of two batch sizes, got {few} twice")
    per_image = max(0.0, (high - low) / (many - few))
    fixed = high - per_image * many
    return LinearCost(fixed, per_image) if fixed >= 0 else LinearCost(0.0, high / many)


def largest_batch(memory: LinearCost, free_bytes: float) -> int:
    """Return the most images per forward pass in `USABLE_FRACTION` of the free memory; 0 if one does not fit."""
    left = USABLE_FRACTION * free_bytes - memory.fixed
    if left < memory.per_image or memory.per_image == 0:
        return 0 if left < memory.per_image else 2**31
    return math.floor(left / memory.per_image)


def accumulation_steps_needed(batch_size: int, largest: int) -> int | None:
    """Return the fewest accumulation steps of 2 to `largest` images each; None if no number of equal steps fits."""
    for steps in range(1, batch_size // 2 + 1):
        if batch_size % steps == 0 and batch_size // steps <= largest:
            return steps
    return None


def seconds_per_image(step_s: float, sample_s: float, workers: int, cores: float, shares_cores: bool) -> float:
    """Return the time of an image when workers read the next batches during a step.

    Args:
        step_s: time of the network for an image, with all cores to itself.
        sample_s: time of reading and cropping an image, on one core.
        workers: processes that read; without workers, reading and training alternate.
        cores: cores that workers may use.
        shares_cores: True if the network computes on the same cores, so that reading slows it down.
    """
    if workers == 0:
        return step_s + sample_s
    reading_s = sample_s / min(workers, cores)
    return max(reading_s, step_s + sample_s / cores) if shares_cores else max(reading_s, step_s)


def training_hours(num_images: int, batch_size: int, epochs: int, image_s: float, *, drop_last: bool) -> float:
    """Return the hours of a training stage, with or without the last, smaller batch of each epoch."""
    used = num_images // batch_size * batch_size if drop_last else num_images
    return used * epochs * image_s / 3600


def queue_bytes(workers: int, batch_size: int, sample_bytes: int) -> int:
    """Return the shared memory of the prefetched batches."""
    return workers * PREFETCHED_BATCHES * batch_size * sample_bytes
