"""Paired bootstrap of a ratio of sums, and Bonferroni's level, as loops."""

import math
import random
from collections.abc import Sequence

from scipy import stats

Sums = Sequence[Sequence[tuple[float, float]]]
"""Numerator and denominator by image and class."""


def score(sums: Sums, images: Sequence[int]) -> float:
    """Compute the mean over classes of the ratio of sums over images."""
    ratios = []
    for column in range(len(sums[0])):
        above = sum(sums[image][column][0] for image in images)
        below = sum(sums[image][column][1] for image in images)
        if below > 0:
            ratios.append(above / below)
    return sum(ratios) / len(ratios) if ratios else 0.0


def resampled_differences(first: Sums, second: Sums, num_resamples: int) -> list[float]:
    """Compute the difference of the scores on resamples of the images, the same for both; sorted."""
    generator = random.Random(0)
    found = []
    for _ in range(num_resamples):
        images = [generator.randrange(len(first)) for _ in first]
        found.append(score(first, images) - score(second, images))
    return sorted(found)


def tail_of(level: float, num_images: int) -> float:
    """Return the normal tail that lies as far out as Student's t does, for the std of a sample of n images."""
    distance = -stats.t(num_images - 1).ppf((1 - level) / 2)
    return stats.norm().sf(distance * math.sqrt(num_images / (num_images - 1)))


def verdicts(pairs: Sequence[tuple[Sums, Sums]], num_resamples: int) -> list[str]:
    """Return the verdict of each pair of sums, corrected for the number of pairs."""
    level = 1 - 0.05 / len(pairs)
    found = []
    for first, second in pairs:
        differing = sum(list(one) != list(other) for one, other in zip(first, second))
        values = resampled_differences(first, second, num_resamples)
        verdict = "cannot be told apart"
        if differing and 2 * 0.5**differing <= 1 - level + 1e-12:
            tail = tail_of(level, differing)
            below = sum(value <= 0 for value in values) / num_resamples
            above = sum(value >= 0 for value in values) / num_resamples
            verdict = "ahead" if below < tail else "behind" if above < tail else verdict
        found.append(verdict)
    return found
