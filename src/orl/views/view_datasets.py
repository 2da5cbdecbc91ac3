"""Training samples: where the views of each image lie, which image comes when, what replaces an unreadable one.

A sample depends on (seed, epoch, image) alone, never on the worker, the process or where a run was resumed.
"""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from torch.utils.data import Dataset, Sampler, default_collate

from orl import boxes
from orl.datasets.decode import ImageError
from orl.datasets.image_table import ImageTable
from orl.views.colour import ColourDistribution, draw_colours
from orl.views.crops import random_resized_crop
from orl.views.cut import ViewBox, ViewBoxes, cut_views

Key = tuple[int, int]
"""Epoch and image."""
MAX_REPLACEMENTS = 10
"""Images tried in the place of one that cannot be read, before training stops."""


@dataclass(frozen=True, kw_only=True)
class ViewRules:
    """How the two views of an image are cut and coloured."""

    size_px: int
    area_range: tuple[float, float]
    aspect_ratio_range: tuple[float, float]
    colours: tuple[ColourDistribution, ColourDistribution]


@dataclass(frozen=True, kw_only=True)
class ObjectTable:
    """What stage 3 needs of stage 2: the RoIs of every image and the correspondences between them."""

    rois: Float[ndarray, "r 4"]
    roi_starts: Int[ndarray, "_"]
    """Image `i` has the RoIs from `roi_starts[i]` up to `roi_starts[i + 1]`."""
    roi_image_ids: Int[ndarray, "r"]
    pairs: Int[ndarray, "p 2"]
    """RoI here, RoI in the neighbour: rows of `rois`."""
    pair_groups: Sequence[Int[ndarray, "_ 2"]]
    """For every image, the slices of `pairs` of its neighbours, one row (start, end) each."""


class GlobalViewSampler:
    """Two views of an image: the samples of stage 1."""

    def __init__(self, images: ImageTable, rules: ViewRules, seed: int) -> None:
        self.images, self.rules, self.seed = images, rules, seed

    def place(self, key: Key) -> ViewBoxes:
        """`view_1` and `view_2` of an image in an epoch."""
        return sample_global_views(key[1], self.images.sizes_wh[key[1]], self.rules, (self.seed, *key))


class ObjectViewSampler:
    """Two views of an image, two of one of its objects, and one object in two images: the samples of stage 3."""

    def __init__(
        self,
        images: ImageTable,
        rules: ViewRules,
        objects: ObjectTable,
        roi_size_px: int,
        seed: int,
        jitter_min_iou: float = 0.5,
    ) -> None:
        self.images, self.rules, self.objects = images, rules, objects
        self.roi_size_px, self.seed, self.jitter_min_iou = roi_size_px, seed, jitter_min_iou

    def place(self, key: Key) -> ViewBoxes:
        """`view_1`, `view_2`, `intra_1`, `intra_2`, `inter_1` and `inter_2` of an image in an epoch."""
        image_id = key[1]
        size_wh = self.images.sizes_wh[image_id]
        view_boxes = sample_global_views(image_id, size_wh, self.rules, (self.seed, *key))
        generator = np.random.default_rng([self.seed, *key, 2])
        roi = self._draw_roi(image_id, generator)
        intra_pair = (roi, boxes.jitter(roi, size_wh, generator, self.jitter_min_iou))
        inter_pair, neighbour_id = self._draw_correspondence(image_id, generator)
        for view, box in enumerate(intra_pair):
            view_boxes[f"intra_{view + 1}"] = self._place_roi(image_id, box, view, generator)
        for view, (source_id, box) in enumerate(zip((image_id, neighbour_id), inter_pair)):
            view_boxes[f"inter_{view + 1}"] = self._place_roi(source_id, box, view, generator)
        return view_boxes

    def _draw_roi(self, image_id: int, generator: np.random.Generator) -> Float[ndarray, "4"]:
        start, end = self.objects.roi_starts[image_id : image_id + 2]
        return self.objects.rois[generator.integers(start, end)]

    def _draw_correspondence(self, image_id: int, generator: np.random.Generator) -> tuple[Float[ndarray, "2 4"], int]:
        groups = self.objects.pair_groups[image_id]
        start, end = groups[generator.integers(len(groups))]
        pair = self.objects.pairs[generator.integers(start, end)]
        return self.objects.rois[pair], int(self.objects.roi_image_ids[pair[1]])

    def _place_roi(self, image_id: int, box: Float[ndarray, "4"], view: int, generator: np.random.Generator) -> ViewBox:
        return ViewBox(image_id, box, self.roi_size_px, draw_colours(self.rules.colours[view], generator))


def sample_global_views(
    image_id: int, size_wh: tuple[int, int], rules: ViewRules, key: tuple[int, int, int]
) -> ViewBoxes:
    """The two views of a whole image, from (seed, epoch, image)."""
    view_boxes: ViewBoxes = {}
    for view in range(2):
        generator = np.random.default_rng([*key, view])
        box = random_resized_crop(size_wh, rules.area_range, rules.aspect_ratio_range, generator)
        colours = draw_colours(rules.colours[view], generator)
        view_boxes[f"view_{view + 1}"] = ViewBox(image_id, box, rules.size_px, colours)
    return view_boxes


class Loaded(NamedTuple):
    """A sample, or a batch of them, and the images that could not be read on the way."""

    views: dict[str, Any]
    """Empty if neither the image nor any that might replace it can be read; in a batch, if that is so for one."""
    files: list[str]
    """The images that were read, by name."""
    unreadable: list[tuple[str, str]]
    """File and reason."""


class ViewDataset(Dataset[Loaded]):
    """The samples that a placer describes, with their pixels.

    Another image takes the place of one that has become unreadable; which one depends on (seed, epoch, image) too.
    """

    def __init__(self, view_sampler: GlobalViewSampler | ObjectViewSampler) -> None:
        self.view_sampler = view_sampler

    def __len__(self) -> int:
        return len(self.view_sampler.images)

    def __getitem__(self, key: Key) -> Loaded:
        """The sample of an image in an epoch."""
        images = self.view_sampler.images
        unreadable: list[tuple[str, str]] = []
        for image_id in replacements(key, self.view_sampler.seed, len(self)):
            try:
                views = cut_views(images, self.view_sampler.place((key[0], image_id)))
            except ImageError as error:
                unreadable.append((str(error.path), error.reason))
            else:
                return Loaded(views, [images.names[image_id]], unreadable)
        return Loaded({}, [], unreadable)


def replacements(key: Key, seed: int, num_images: int) -> Iterator[int]:
    """The image of a key, and those that take its place in turn if it cannot be read."""
    yield key[1]
    yield from np.random.default_rng([seed, *key, 3]).integers(num_images, size=MAX_REPLACEMENTS).tolist()


def collate(loaded: Sequence[Loaded]) -> Loaded:
    """A batch out of samples."""
    all_whole = all(one.views for one in loaded)
    return Loaded(
        default_collate([one.views for one in loaded]) if all_whole else {},
        [name for one in loaded for name in one.files],
        [row for one in loaded for row in one.unreadable],
    )


class EpochBatchSampler(Sampler[list[Key]]):
    """The batches from one step to the end of training, in an order that depends on (seed, epoch) alone."""

    def __init__(
        self, num_images: int, batch_size: int, epochs: int, seed: int, *, rank: int = 0, num_processes: int = 1
    ) -> None:
        """Refuse what would leave an epoch without a step, or the processes with unequal parts.

        Args:
            num_images: images in all.
            batch_size: images a step over all processes; the last, smaller batch of an epoch is left out.
            epochs: passes over the images.
            seed: the run's seed.
            rank: whose part of each batch it is.
            num_processes: how many share a batch.

        Raises:
            ValueError: if the batch is larger than the images, or cannot be shared evenly.
        """
        if batch_size > num_images:
            raise ValueError(
                f"a batch of {batch_size} needs as many images, and there are {num_images}: "
                "set a smaller --batch-size (of a run --stage1.batch-size, --stage3.batch-size)"
            )
        if batch_size % num_processes:
            raise ValueError(
                f"a batch of {batch_size} cannot be shared evenly by {num_processes} processes: set another "
                "--batch-size (of a run --stage1.batch-size, --stage3.batch-size), which is over all processes"
            )
        self.num_images, self.batch_size, self.epochs, self.seed = num_images, batch_size, epochs, seed
        self.rank, self.num_processes = rank, num_processes
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
                batch = order[step * self.batch_size : (step + 1) * self.batch_size]
                yield [(epoch, int(image_id)) for image_id in batch[self.rank :: self.num_processes]]


def ignore_interrupts(worker_id: int) -> None:
    """Let Ctrl-C reach the main process alone, which then ends its loading workers in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
