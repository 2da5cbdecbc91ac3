"""Images with their class: random crops to learn from, centre crops to be scored."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from orl.datasets.classified import ClassifiedImages
from orl.datasets.decode import ImageError, load_image
from orl.embed import CENTRE_FRACTION
from orl.views.colour import ColourDistribution, sample_colours
from orl.views.crops import centre_box, cut_boxes, random_resized_crop
from orl.views.cut import View
from orl.views.view_dataset import LoadedViews, image_and_replacements
from orl.views.view_samplers import SampleKey

AREA_RANGE, ASPECT_RATIO_RANGE = (0.08, 1.0), (3 / 4, 4 / 3)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How training images are cut and coloured."""

    size_px: int
    colours: ColourDistribution


def training_colours(jitter: float) -> ColourDistribution:
    """Mirrored in half of the cases, and brightness, contrast and saturation changed by up to this share."""
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
    """A random crop of an image and its class; another image takes the place of one that cannot be read."""

    def __init__(self, images: ClassifiedImages, rules: Rules, seed: int) -> None:
        self.images, self.rules, self.seed = images, rules, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: SampleKey) -> LoadedViews:
        """`image` and `label` of an image in an epoch."""
        unreadable: list[tuple[str, str]] = []
        for row in image_and_replacements(key, self.seed, len(self)):
            try:
                view = self._draw(key[0], row)
            except ImageError as error:
                unreadable.append((str(error.path), error.reason))
            else:
                label = int(self.images.labels[row])
                return LoadedViews({"image": view, "label": label}, [self.images.names[row]], unreadable)
        return LoadedViews({}, [], unreadable)

    def _draw(self, epoch: int, row: int) -> View:
        generator = np.random.default_rng([self.seed, epoch, row])
        image = load_image(self.images.root / self.images.names[row])
        height, width, _ = image.shape
        box = random_resized_crop((width, height), AREA_RANGE, ASPECT_RATIO_RANGE, generator)
        crop = cut_boxes(image, box[None], self.rules.size_px)[0].contiguous()
        return View(crop, sample_colours(self.rules.colours, generator))


class TestImages(Dataset["tuple[UInt8[Tensor, '3 s s'], int] | tuple[str, str]"]):
    """The centre crop of an image and its class, or the name and reason of one that cannot be read."""

    __test__ = False  # no test of pytest's

    def __init__(self, images: ClassifiedImages, rows: Sequence[int], size_px: int) -> None:
        self.images, self.rows, self.size_px = images, rows, size_px

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> "tuple[UInt8[Tensor, '3 s s'], int] | tuple[str, str]":
        row = self.rows[place]
        try:
            image = load_image(self.images.root / self.images.names[row])
        except ImageError as error:
            return self.images.names[row], error.reason
        height, width, _ = image.shape
        side = min(width, height) * CENTRE_FRACTION
        crop = cut_boxes(image, centre_box((width, height), side, side)[None], self.size_px)[0]
        return crop, int(self.images.labels[row])


@dataclass(frozen=True)
class TestBatch:
    """Crops and classes of the images that could be read, and the others."""

    __test__ = False

    crops: UInt8[Tensor, "n 3 s s"]
    labels: Int[Tensor, "n"]
    unreadable: list[tuple[str, str]]


def collate_test(loaded: Sequence[tuple[Tensor, int] | tuple[str, str]]) -> TestBatch:
    """A batch out of what `TestImages` gives."""
    crops = [one[0] for one in loaded if isinstance(one[0], Tensor)]
    labels = [one[1] for one in loaded if isinstance(one[0], Tensor)]
    unreadable = [(str(name), str(reason)) for name, reason in loaded if isinstance(name, str)]
    joined = torch.stack(crops) if crops else torch.zeros((0, 3, 1, 1), dtype=torch.uint8)
    return TestBatch(joined, torch.tensor(labels, dtype=torch.int64), unreadable)
