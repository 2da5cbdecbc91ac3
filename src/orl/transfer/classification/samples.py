"""Photos with their class: random crops to learn from, centre crops to be scored."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from orl.embed import CENTRE_SHARE
from orl.images.classified import ClassifiedPhotos
from orl.images.colour import ColourDistribution, draw_colours
from orl.images.crops import centre_box, cut_boxes, random_resized_crop
from orl.images.datasets import Key, Loaded, replacements
from orl.images.decode import PhotoError, load_photo
from orl.images.views import View

AREA_RANGE, ASPECT_RATIO_RANGE = (0.08, 1.0), (3 / 4, 4 / 3)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How training photos are cut and coloured."""

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


class TrainingPhotos(Dataset[Loaded]):
    """A random crop of a photo and its class; another photo takes the place of one that cannot be read."""

    def __init__(self, photos: ClassifiedPhotos, rules: Rules, seed: int) -> None:
        self.photos, self.rules, self.seed = photos, rules, seed

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, key: Key) -> Loaded:
        """`photo` and `label` of a photo in an epoch."""
        unreadable: list[tuple[str, str]] = []
        for row in replacements(key, self.seed, len(self)):
            try:
                view = self._draw(key[0], row)
            except PhotoError as error:
                unreadable.append((str(error.path), error.reason))
            else:
                label = int(self.photos.labels[row])
                return Loaded({"photo": view, "label": label}, [self.photos.names[row]], unreadable)
        return Loaded({}, [], unreadable)

    def _draw(self, epoch: int, row: int) -> View:
        generator = np.random.default_rng([self.seed, epoch, row])
        photo = load_photo(self.photos.root / self.photos.names[row])
        height, width, _ = photo.shape
        box = random_resized_crop((width, height), AREA_RANGE, ASPECT_RATIO_RANGE, generator)
        crop = cut_boxes(photo, box[None], self.rules.size_px)[0].contiguous()
        return View(crop, draw_colours(self.rules.colours, generator))


class TestPhotos(Dataset["tuple[UInt8[Tensor, '3 s s'], int] | tuple[str, str]"]):
    """The centre crop of a photo and its class, or the name and reason of one that cannot be read."""

    __test__ = False  # no test of pytest's

    def __init__(self, photos: ClassifiedPhotos, rows: Sequence[int], size_px: int) -> None:
        self.photos, self.rows, self.size_px = photos, rows, size_px

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> "tuple[UInt8[Tensor, '3 s s'], int] | tuple[str, str]":
        row = self.rows[place]
        try:
            photo = load_photo(self.photos.root / self.photos.names[row])
        except PhotoError as error:
            return self.photos.names[row], error.reason
        height, width, _ = photo.shape
        side = min(width, height) * CENTRE_SHARE
        crop = cut_boxes(photo, centre_box((width, height), side, side)[None], self.size_px)[0]
        return crop, int(self.photos.labels[row])


@dataclass(frozen=True)
class TestBatch:
    """Crops and classes of the photos that could be read, and the others."""

    __test__ = False

    crops: UInt8[Tensor, "n 3 s s"]
    labels: Int[Tensor, "n"]
    unreadable: list[tuple[str, str]]


def collate_test(loaded: Sequence[tuple[Tensor, int] | tuple[str, str]]) -> TestBatch:
    """A batch out of what `TestPhotos` gives."""
    crops = [one[0] for one in loaded if isinstance(one[0], Tensor)]
    labels = [one[1] for one in loaded if isinstance(one[0], Tensor)]
    unreadable = [(str(name), str(reason)) for name, reason in loaded if isinstance(name, str)]
    joined = torch.stack(crops) if crops else torch.zeros((0, 3, 1, 1), dtype=torch.uint8)
    return TestBatch(joined, torch.tensor(labels, dtype=torch.int64), unreadable)
