"""Training images of dense retrieval: random crops with the masks cut alike, and weak colour jitter."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from orl.datasets.decode import load_image
from orl.datasets.loader_workers import ignore_interrupts, named_limits
from orl.datasets.semantic_masks import SemanticMasks
from orl.views.colour import ColourParameters
from orl.views.crops import cut_boxes, random_resized_crop, round_to_pixels

AREA_RANGE = (0.5, 2.0)
"""Fraction of the image's area; a crop larger than the image is sampled again, see `sample_crop`."""
ASPECT_RATIO_RANGE = (3 / 4, 4 / 3)
JITTER_PROBABILITY = 0.1
JITTER_RANGE = 0.1
"""Factor U(1 - x, 1 + x) of brightness, contrast and saturation, and shift U(-x, x) of the hue."""

Key = tuple[int, int]
"""Augmentation epoch, and row of the image."""


class AugmentedMask(NamedTuple):
    """A crop of a training image with its mask; in a batch, every field has a leading dimension."""

    crop: UInt8[Tensor, "*n 3 s s"]
    mask: UInt8[Tensor, "*n s s"]
    colours: ColourParameters


@dataclass(frozen=True)
class AugmentedMasks(Dataset[AugmentedMask]):
    """Augmented training images; each depends on the seed and its key alone."""

    images: SemanticMasks
    size_px: int
    """Side of the squares that crops are resized to."""
    seed: int

    def __getitem__(self, key: Key) -> AugmentedMask:
        """Return the crop of an image in an augmentation epoch."""
        row = key[1]
        image = load_image(self.images.paths[row])
        size_wh = (image.shape[1], image.shape[0])
        generator = np.random.default_rng([self.seed, *key])
        box = sample_crop(size_wh, generator)
        return AugmentedMask(
            crop=cut_boxes(image, box[None], self.size_px)[0].contiguous(),
            mask=torch.from_numpy(cut_mask(self.images.mask(row, size_wh), box, self.size_px)),
            colours=sample_jitter(generator),
        )


def read_augmented(
    dataset: AugmentedMasks, keys: Sequence[Key], *, batch_size: int, workers: int
) -> Iterator[AugmentedMask]:
    """Read the images of some keys in worker processes, and yield them in order, in batches."""
    loader = DataLoader(
        dataset, batch_size=batch_size, sampler=keys, num_workers=workers, worker_init_fn=ignore_interrupts
    )
    with named_limits(workers):
        yield from loader


def sample_crop(size_wh: tuple[int, int], generator: np.random.Generator) -> Float[ndarray, "4"]:
    """Sample the box of a training image.

    The published range of areas is 0.5 to 2, but torchvision's crops never leave the image. A box that does not fit is
    sampled again, so areas lie between 0.5 and 1. After ten such samples the crop is the largest centred box of an
    allowed aspect ratio: one crop in 18 of a square image, one in 7 of an image of 4:3.

    Source:
        torchvision.transforms.RandomResizedCrop with scale (0.5, 2), as in the reproduction.
    """
    return random_resized_crop(size_wh, AREA_RANGE, ASPECT_RATIO_RANGE, generator)


def sample_jitter(generator: np.random.Generator) -> ColourParameters:
    """Sample the colour changes: brightness, contrast, saturation and hue in this order, each with its own chance."""
    is_jittered = generator.random(4) < JITTER_PROBABILITY
    brightness, contrast, saturation, hue = (is_jittered * generator.uniform(-JITTER_RANGE, JITTER_RANGE, 4)).tolist()
    return ColourParameters(
        flip=False,
        jitter_order=0,
        brightness=1 + brightness,
        contrast=1 + contrast,
        saturation=1 + saturation,
        hue=hue,
        gray=False,
        blur_sigma_px=0.0,
        solarise=False,
    )


def cut_mask(mask: UInt8[ndarray, "h w"], box: Float[ndarray, "4"], size_px: int) -> UInt8[ndarray, "s s"]:
    """Cut a mask along a box and resize it to a square: each pixel takes the value at its centre.

    The box is rounded as `cut_boxes` does for the image.
    """
    left, top, right, bottom = round_to_pixels(box, (mask.shape[1], mask.shape[0]))
    centres = 2 * np.arange(size_px) + 1
    rows = top + centres * (bottom - top) // (2 * size_px)
    columns = left + centres * (right - left) // (2 * size_px)
    return mask[rows[:, None], columns]
