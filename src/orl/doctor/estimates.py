"""From what a few images cost to what a whole run would: arithmetic only."""

import math
from dataclasses import dataclass

USABLE_FRACTION = 0.9
"""Of the memory that is free; the rest is for what else runs, and for what the estimate misses."""
PREFETCHED_BATCHES = 2
"""Batches that each worker has ready (DataLoader's `prefetch_factor`)."""


@dataclass(frozen=True)
class Line:
    """What grows evenly with the images of a batch."""

    fixed: float
    """What is there without any image."""
    per_image: float

    def at(self, num_images: float) -> float:
        """The value for so many images."""
        return self.fixed + self.per_image * num_images


def line_through(first: tuple[int, float], second: tuple[int, float]) -> Line:
    """The line through two measurements, each (images, value).

    Where noise makes the larger batch cheaper, all of it counts as fixed; where it makes the fixed part negative, all
    of it counts as grown.

    Raises:
        ValueError: if both are of equally many images.
    """
    (few, low), (many, high) = first, second
    if few == many:
        raise ValueError(f"a line needs two numbers of images, not {few} twice")
    per_image = max(0.0, (high - low) / (many - few))
    fixed = high - per_image * many
    return Line(fixed, per_image) if fixed >= 0 else Line(0.0, high / many)


def largest_batch(memory: Line, free_bytes: float) -> int:
    """Most images that pass the network at once in `USABLE_SHARE` of the free memory; 0 if not even one does."""
    left = USABLE_FRACTION * free_bytes - memory.fixed
    if left < memory.per_image or memory.per_image == 0:
        return 0 if left < memory.per_image else 2**31
    return math.floor(left / memory.per_image)


def parts_needed(batch_size: int, largest: int) -> int | None:
    """Fewest equal parts of at most `largest` images, and at least 2, that a batch can be passed in; None if none."""
    for parts in range(1, batch_size // 2 + 1):
        if batch_size % parts == 0 and batch_size // parts <= largest:
            return parts
    return None


def seconds_per_image(step_s: float, sample_s: float, workers: int, cores: float, shares_cores: bool) -> float:
    """Time of an image when workers read the next ones while the network learns.

    Args:
        step_s: of the network, which has all cores if it shares them.
        sample_s: of reading and cutting, on one core.
        workers: processes that read; without any, one waits for the other.
        cores: that workers may keep busy.
        shares_cores: whether the network computes on the same cores, so that reading slows it down.
    """
    if workers == 0:
        return step_s + sample_s
    reading_s = sample_s / min(workers, cores)
    return max(reading_s, step_s + sample_s / cores) if shares_cores else max(reading_s, step_s)


def training_hours(num_images: int, batch_size: int, epochs: int, image_s: float) -> float:
    """Hours of a training stage: the last, smaller batch of an epoch is left out."""
    return num_images // batch_size * batch_size * epochs * image_s / 3600


def queue_bytes(workers: int, batch_size: int, sample_bytes: int) -> int:
    """Shared memory of the batches that wait between workers and the network."""
    return workers * PREFETCHED_BATCHES * batch_size * sample_bytes
