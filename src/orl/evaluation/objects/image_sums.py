"""Scores that are a ratio of sums over images: class-mean accuracy, mIoU, CorLoc, recall, each with its interval.

A score is the mean over classes of (sum of numerators / sum of denominators). Both sums are kept for each image, so
that a bootstrap over images needs no second evaluation, and two backbones can be compared on the same images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from orl.evaluation.bootstrap import Estimate, estimate_from, resample_counts

DRAW_SEED = 1
"""Offset of the seed for the resamples of draws, so that they do not depend on those of images."""


@dataclass(frozen=True, kw_only=True)
class ImageSums:
    """Numerators and denominators of a score, by image and class.

    Example:
        >>> import numpy as np
        >>> sums = ImageSums(
        ...     images=("a.jpg", "b.jpg"),
        ...     numerators=np.array([[[1.0, 0.0], [0.0, 1.0]]]),
        ...     denominators=np.array([[[1.0, 0.0], [1.0, 1.0]]]),
        ... )
        >>> sums.value  # one of two objects of the first class is right, and the one of the second
        0.75
    """

    images: tuple[str, ...]
    """Name of each image, unique."""
    numerators: Float[ndarray, "draws images classes"]
    """For accuracy the correct objects, for mIoU the pixels of the intersection."""
    denominators: Float[ndarray, "draws images classes"]
    """For accuracy all objects, for mIoU the pixels of the union. Draws differ in a sample of the training images."""

    def __post_init__(self) -> None:
        shape = self.numerators.shape
        if self.denominators.shape != shape or len(shape) != 3 or shape[1] != len(self.images) or 0 in shape:
            raise ValueError(
                f"sums of {len(self.images)} images must have the shape (draws, images, classes), got {shape} and "
                f"{self.denominators.shape}"
            )

    @property
    def value(self) -> float:
        """Mean over draws of the mean over classes; classes without a denominator are left out."""
        return float(_scores(self, np.ones((1, len(self.images)))).mean())


def estimate(sums: ImageSums, seed: int = 0) -> Estimate:
    """Compute the score and its 95% interval by a bootstrap over images, and over draws if there are several."""
    return estimate_from(_resampled(sums, seed))


def paired_difference(first: ImageSums, second: ImageSums, seed: int = 0) -> Estimate:
    """Compute the first score minus the second on the same images, with a paired 95% interval.

    Each resample takes the same images, and the same draws, of both, so that the difficulty of an image cancels.

    Raises:
        ValueError: if the images or the numbers of draws differ.
    """
    if first.images != second.images:
        raise ValueError(
            f"{len(first.images)} images cannot be paired with {len(second.images)} others; score both backbones on "
            "the same images"
        )
    if len(first.numerators) != len(second.numerators):
        raise ValueError(f"{len(first.numerators)} draws cannot be paired with {len(second.numerators)}")
    return estimate_from(_resampled(first, seed) - _resampled(second, seed))


def resampled_scores(
    sums: ImageSums, image_counts: Float[ndarray, "b images"], draw_counts: Float[ndarray, "b draws"]
) -> Float[ndarray, "b"]:
    """Compute the score of each resample of images and draws.

    Args:
        sums: numerators and denominators.
        image_counts: how often each image occurs in each resample.
        draw_counts: how often each draw occurs in each resample.
    """
    return (draw_counts.T * _scores(sums, image_counts)).sum(axis=0) / len(sums.numerators)


def sums_to_json(sums: ImageSums) -> dict[str, Any]:
    """Return the sums as JSON values; entries of zeros are left out."""
    draws, images, classes = np.nonzero((sums.numerators != 0) | (sums.denominators != 0))
    return {
        "images": list(sums.images),
        "shape": list(sums.numerators.shape),
        "index": np.ravel_multi_index((draws, images, classes), sums.numerators.shape).tolist(),
        "numerators": _short_numbers(sums.numerators[draws, images, classes]),
        "denominators": _short_numbers(sums.denominators[draws, images, classes]),
    }


def sums_from_json(content: Mapping[str, Any]) -> ImageSums:
    """Read what `sums_to_json` returned.

    Raises:
        ValueError, KeyError: if the content is damaged.
    """
    shape = tuple(content["shape"])
    numerators, denominators = np.zeros(shape), np.zeros(shape)
    index = np.unravel_index(np.array(content["index"], dtype=np.int64), shape)
    numerators[index], denominators[index] = content["numerators"], content["denominators"]
    return ImageSums(images=tuple(content["images"]), numerators=numerators, denominators=denominators)


def _resampled(sums: ImageSums, seed: int) -> Float[ndarray, "b"]:
    """Return the score of all images and draws, then that of each resample."""
    num_draws, num_images, _ = sums.numerators.shape
    return resampled_scores(sums, resample_counts(num_images, seed), resample_counts(num_draws, seed + DRAW_SEED))


def _scores(sums: ImageSums, counts: Float[ndarray, "b n"]) -> Float[ndarray, "draws b"]:
    """Return the mean over classes for each draw and resample; 0 where no class has a denominator."""
    numerators, denominators = counts @ sums.numerators, counts @ sums.denominators
    has_class = denominators > 0
    ratios = np.divide(numerators, denominators, out=np.zeros_like(numerators), where=has_class)
    return ratios.sum(axis=2) / np.maximum(has_class.sum(axis=2), 1)


def _short_numbers(values: Float[ndarray, "k"]) -> Sequence[float]:
    """Return whole numbers as integers, which are shorter in JSON."""
    return [int(value) if value == int(value) else value for value in values.tolist()]
