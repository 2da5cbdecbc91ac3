"""Training samples: the crops of one photo and the colour draws that go with them.

A sample depends on (seed, epoch, photo) alone, never on the worker, the process or where a run was resumed.
"""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from orl import boxes
from orl.images.colour import ColourDistribution, ColourParameters, draw_colours
from orl.images.crops import cut, random_resized_crop
from orl.images.decode import load_photo
from orl.images.table import ImageTable

Key = tuple[int, int]
"""Epoch and photo."""


class View(NamedTuple):
    """A crop and what is to happen to its colours; in a batch, every field has a leading dimension."""

    crop: UInt8[Tensor, "*n 3 s s"]
    colours: ColourParameters


Sample = dict[str, View]
"""The views of one photo, or of a batch of photos, by name."""


@dataclass(frozen=True, kw_only=True)
class ViewRules:
    """How the two views of a photo are cut and coloured."""

    size_px: int
    area_range: tuple[float, float]
    aspect_ratio_range: tuple[float, float]
    colours: tuple[ColourDistribution, ColourDistribution]


@dataclass(frozen=True, kw_only=True)
class ObjectTable:
    """What stage 3 needs of stage 2: the RoIs of every photo and the correspondences between them."""

    rois: Float[ndarray, "r 4"]
    roi_starts: Int[ndarray, "_"]
    """Photo `i` has the RoIs from `roi_starts[i]` up to `roi_starts[i + 1]`."""
    roi_image_ids: Int[ndarray, "r"]
    pairs: Int[ndarray, "p 2"]
    """RoI here, RoI in the neighbour: rows of `rois`."""
    pair_groups: Sequence[Int[ndarray, "_ 2"]]
    """For every photo, the slices of `pairs` of its neighbours, one row (start, end) each."""


class ImageViews(Dataset[Sample]):
    """Two views of a photo: the samples of stage 1."""

    def __init__(self, images: ImageTable, rules: ViewRules, seed: int) -> None:
        self.images, self.rules, self.seed = images, rules, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> Sample:
        photo = load_photo(self.images.path(key[1]))
        return global_views(photo, self.rules, (self.seed, *key))


class ObjectViews(Dataset[Sample]):
    """Two views of a photo, two of one of its objects, and one object in two photos: the samples of stage 3."""

    def __init__(self, images: ImageTable, rules: ViewRules, objects: ObjectTable, roi_size_px: int, seed: int) -> None:
        self.images, self.rules, self.objects = images, rules, objects
        self.roi_size_px, self.seed = roi_size_px, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> Sample:
        image_id = key[1]
        photo = load_photo(self.images.path(image_id))
        sample = global_views(photo, self.rules, (self.seed, *key))
        generator = np.random.default_rng([self.seed, *key, 2])
        roi = self._draw_roi(image_id, generator)
        intra_pair = (roi, boxes.jitter(roi, self.images.sizes_wh[image_id], generator))
        inter_pair, neighbour_id = self._draw_correspondence(image_id, generator)
        neighbour = load_photo(self.images.path(neighbour_id))
        for view, (source, box) in enumerate(zip((photo, photo), intra_pair)):
            sample[f"intra_{view + 1}"] = self._roi_view(source, box, view, generator)
        for view, (source, box) in enumerate(zip((photo, neighbour), inter_pair)):
            sample[f"inter_{view + 1}"] = self._roi_view(source, box, view, generator)
        return sample

    def _draw_roi(self, image_id: int, generator: np.random.Generator) -> Float[ndarray, "4"]:
        start, end = self.objects.roi_starts[image_id : image_id + 2]
        return self.objects.rois[generator.integers(start, end)]

    def _draw_correspondence(self, image_id: int, generator: np.random.Generator) -> tuple[Float[ndarray, "2 4"], int]:
        groups = self.objects.pair_groups[image_id]
        start, end = groups[generator.integers(len(groups))]
        pair = self.objects.pairs[generator.integers(start, end)]
        return self.objects.rois[pair], int(self.objects.roi_image_ids[pair[1]])

    def _roi_view(
        self,
        photo: UInt8[ndarray, "h w 3"],
        box: Float[ndarray, "4"],
        view: int,
        generator: np.random.Generator,
    ) -> View:
        crop = cut(photo, box, self.roi_size_px)
        return View(to_tensor(crop), draw_colours(self.rules.colours[view], generator))


def global_views(photo: UInt8[ndarray, "h w 3"], rules: ViewRules, key: tuple[int, int, int]) -> Sample:
    """The two views of a whole photo, from (seed, epoch, photo)."""
    size_wh = (photo.shape[1], photo.shape[0])
    sample: Sample = {}
    for view in range(2):
        generator = np.random.default_rng([*key, view])
        box = random_resized_crop(size_wh, rules.area_range, rules.aspect_ratio_range, generator)
        crop = cut(photo, box, rules.size_px)
        sample[f"view_{view + 1}"] = View(to_tensor(crop), draw_colours(rules.colours[view], generator))
    return sample


def to_tensor(crop: UInt8[ndarray, "h w 3"]) -> UInt8[Tensor, "3 h w"]:
    """A crop with the channels first."""
    return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))


class EpochBatches(Sampler[list[Key]]):
    """The batches from one step to the end of training, in an order that depends on (seed, epoch) alone."""

    def __init__(self, num_images: int, batch_size: int, epochs: int, seed: int) -> None:
        """Refuse what would leave an epoch without a step.

        Args:
            num_images: photos in all.
            batch_size: photos a step; the last, smaller batch of an epoch is left out.
            epochs: passes over the photos.
            seed: the run's seed.

        Raises:
            ValueError: if the batch is larger than the photos.
        """
        if batch_size > num_images:
            raise ValueError(
                f"a batch of {batch_size} needs as many photos, and there are {num_images}: "
                "set a smaller batch size (--stage1.batch-size, --stage3.batch-size)"
            )
        self.num_images, self.batch_size, self.epochs, self.seed = num_images, batch_size, epochs, seed
        self.first_step = 0

    @property
    def steps_per_epoch(self) -> int:
        return self.num_images // self.batch_size

    def __len__(self) -> int:
        return self.steps_per_epoch * self.epochs - self.first_step

    def __iter__(self) -> Iterator[list[Key]]:
        for epoch in range(self.first_step // self.steps_per_epoch, self.epochs):
            order = np.random.default_rng([self.seed, epoch]).permutation(self.num_images)
            first = max(0, self.first_step - epoch * self.steps_per_epoch)
            for step in range(first, self.steps_per_epoch):
                start = step * self.batch_size
                yield [(epoch, int(image_id)) for image_id in order[start : start + self.batch_size]]


def ignore_interrupts(worker_id: int) -> None:
    """Let Ctrl-C reach the main process alone, which then ends its loading workers in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
