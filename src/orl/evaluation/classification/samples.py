"""Data sets of images with their class: random crops to train on, centre crops to score."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from orl.datasets.classified import ClassifiedImages
from orl.datasets.decode import ImageError, load_image
from orl.views.colour import ColourDistribution, sample_colours
from orl.views.crops import centre_crop, cut_boxes, random_resized_crop
from orl.views.cut import View
from orl.views.view_dataset import LoadedViews, load_or_replace
from orl.views.view_samplers import SampleKey

CROP_AREA_RANGE, CROP_ASPECT_RATIO_RANGE = (0.08, 1.0), (3 / 4, 4 / 3)


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Size and colour augmentation of training crops."""

    size_px: int
    colours: ColourDistribution


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


class TrainingImages(Dataset[LoadedViews]):
    """Random crops and their classes; another image replaces an unreadable one."""

    def __init__(self, images: ClassifiedImages, crops: CropConfig, seed: int) -> None:
        self.images, self.crops, self.seed = images, crops, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: SampleKey) -> LoadedViews:
        """Return `image` and `label` of an image in an epoch."""
        return load_or_replace(
            key,
            self.seed,
            self.images.names,
            lambda row: {"image": self._crop(key[0], row), "label": int(self.images.labels[row])},
        )

    def _crop(self, epoch: int, row: int) -> View:
        generator = np.random.default_rng([self.seed, epoch, row])
        image = load_image(self.images.root / self.images.names[row])
        height, width, _ = image.shape
        box = random_resized_crop((width, height), CROP_AREA_RANGE, CROP_ASPECT_RATIO_RANGE, generator)
        crop = cut_boxes(image, box[None], self.crops.size_px)[0].contiguous()
        return View(crop, sample_colours(self.crops.colours, generator))


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
    return TestBatch(joined, torch.tensor(labels, dtype=torch.int64), unreadable)
