"""Data sets of images with their class: random crops to train on, centre crops to score."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor
from torch.utils.data import Dataset

from orl.datasets.classified import ClassifiedImages
from orl.datasets.decode import ImageError, load_image
from orl.datasets.loader_workers import in_shared_memory
from orl.views.colour import IMAGENET_STD, ColourDistribution, sample_colours
from orl.views.crops import centre_crop, cut_boxes, random_resized_crop
from orl.views.cut import View
from orl.views.view_dataset import LoadedViews, load_or_replace
from orl.views.view_samplers import SampleKey

CROP_AREA_RANGE, CROP_ASPECT_RATIO_RANGE = (0.08, 1.0), (3 / 4, 4 / 3)
LIGHTING_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
LIGHTING_EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
"""Principal components of the colours of ImageNet's pixels: red, green and blue of each in a column."""


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Size and colour augmentation of training crops."""

    size_px: int
    colours: ColourDistribution
    lighting: float = 0.0
    """Standard deviation of the noise along the principal components of the colours; 0 for none."""


def training_colours(jitter: float) -> ColourDistribution:
    """Return the augmentation: mirror half of the crops, jitter brightness, contrast and saturation."""
    return ColourDistribution(
        brightness=jitter,
        contrast=jitter,
        saturation=jitter,
        hue=0.0,
        flip_probability=0.5,
        jitter_probability=1.0 if jitter else 0.0,
        gray_probability=0.0,
        blur_probability=0.0,
        solarise_probability=0.0,
    )


def sample_lighting(std: float, generator: np.random.Generator) -> Float[ndarray, "3"]:
    """Sample the shift of red, green and blue of one image, in the unit of [0, 1].

    Source:
        AlexNet (Krizhevsky et al., 2012), Section 4.1; numbers of `Lighting` in OpenSelfSup.
    """
    shift = LIGHTING_EIGENVECTORS @ (std * generator.standard_normal(3) * LIGHTING_EIGENVALUES)
    return shift.astype(np.float32)


def add_lighting(views: Float[Tensor, "n 3 h w"], shift: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 h w"]:
    """Add the shift of each image in [0, 1] to normalised views, which is the same as before the normalisation.

    Args:
        views: normalised views, on any device.
        shift: shift of red, green and blue, on the CPU.
    """
    if not shift.any():
        return views
    scaled = shift.to(views) / views.new_tensor(IMAGENET_STD)
    return views + scaled[:, :, None, None]


class TrainingImages(Dataset[LoadedViews]):
    """Random crops and their classes; another image replaces an unreadable one."""

    def __init__(self, images: ClassifiedImages, crops: CropConfig, seed: int) -> None:
        self.images, self.crops, self.seed = images, crops, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: SampleKey) -> LoadedViews:
        """Return `image`, `lighting` and `label` of an image in an epoch."""
        return load_or_replace(
            key,
            self.seed,
            self.images.names,
            lambda row: {**self._crop(key[0], row), "label": int(self.images.labels[row])},
        )

    def _crop(self, epoch: int, row: int) -> dict[str, Any]:
        generator = np.random.default_rng([self.seed, epoch, row])
        image = load_image(self.images.root / self.images.names[row])
        height, width, _ = image.shape
        box = random_resized_crop((width, height), CROP_AREA_RANGE, CROP_ASPECT_RATIO_RANGE, generator)
        crop = cut_boxes(image, box[None], self.crops.size_px)[0].contiguous()
        view = View(crop, sample_colours(self.crops.colours, generator))
        return {"image": view, "lighting": sample_lighting(self.crops.lighting, generator)}


class TestImages(Dataset["tuple[UInt8[Tensor, '3 s s'], int] | tuple[str, str]"]):
    """Centre crops and their classes; name and reason for an unreadable image."""

    __test__ = False  # not a test class of pytest

    def __init__(self, images: ClassifiedImages, rows: Sequence[int], size_px: int) -> None:
        self.images, self.rows, self.size_px = images, rows, size_px

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> "tuple[UInt8[Tensor, '3 s s'], int] | tuple[str, str]":
        row = self.rows[index]
        try:
            image = load_image(self.images.root / self.images.names[row])
        except ImageError as error:
            return self.images.names[row], error.reason
        return centre_crop(image, self.size_px)[0], int(self.images.labels[row])


@dataclass(frozen=True)
class TestBatch:
    """Crops and classes of the readable images, and names and reasons of the others."""

    __test__ = False

    crops: UInt8[Tensor, "n 3 s s"]
    labels: Int[Tensor, "n"]
    unreadable: list[tuple[str, str]]


def collate_test(loaded: Sequence[tuple[Tensor, int] | tuple[str, str]]) -> TestBatch:
    """Collate samples of `TestImages` to a batch."""
    crops = [one[0] for one in loaded if isinstance(one[0], Tensor)]
    labels = [one[1] for one in loaded if isinstance(one[0], Tensor)]
    unreadable = [(str(name), str(reason)) for name, reason in loaded if isinstance(name, str)]
    joined = torch.stack(crops) if crops else torch.zeros((0, 3, 1, 1), dtype=torch.uint8)
    return TestBatch(in_shared_memory(joined), torch.tensor(labels, dtype=torch.int64), unreadable)
