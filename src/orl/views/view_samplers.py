"""View samplers: the boxes and colour changes of every view of an image in an epoch.

A sample depends on (seed, epoch, image) alone, not on the worker, the process or the step that training resumed from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from orl import boxes
from orl.datasets.image_table import ImageTable
from orl.views.colour import ColourDistribution, sample_colours
from orl.views.crops import random_resized_crop
from orl.views.cut import ViewBox, ViewBoxes

SampleKey = tuple[int, int]
"""Epoch and row of the image: the key of a sample in a data set."""


@dataclass(frozen=True, kw_only=True)
class ViewDistribution:
    """Distribution of the two views of an image: their crops and their colour changes."""

    size_px: int
    """Side of a view."""
    area_range: tuple[float, float]
    """Smallest and largest fraction of the image's area that a view covers."""
    aspect_ratio_range: tuple[float, float]
    """Smallest and largest ratio of a crop's width to its height."""
    colours: tuple[ColourDistribution, ColourDistribution]
    """Colour changes of view 1 and of view 2; RoI views use them too."""


@dataclass(frozen=True, kw_only=True)
class ObjectTable:
    """RoIs of every image and the correspondences between them, as stage 3 samples them."""

    rois: Float[ndarray, "r 4"]
    """RoIs of all images, xyxy in pixels, sorted by image."""
    roi_starts: Int[ndarray, "_"]
    """First row of each image in `rois`: image `i` has the rows `roi_starts[i]` to `roi_starts[i + 1] - 1`."""
    roi_image_ids: Int[ndarray, "r"]
    """Image of each RoI."""
    correspondences: Int[ndarray, "p 2"]
    """Rows of `rois`: the RoI of an image, and the RoI in the neighbour."""
    neighbour_slices: Sequence[Int[ndarray, "_ 2"]]
    """For every image, one (start, end) of `correspondences` for each of its neighbours."""


class GlobalViewSampler:
    """Two views of an image: the samples of stage 1."""

    def __init__(self, images: ImageTable, distribution: ViewDistribution, seed: int) -> None:
        self.images, self.distribution, self.seed = images, distribution, seed

    def sample_boxes(self, key: SampleKey) -> ViewBoxes:
        """Sample `view_1` and `view_2` of an image in an epoch."""
        return sample_global_views(key[1], self.images.sizes_wh[key[1]], self.distribution, (self.seed, *key))


class ObjectViewSampler:
    """Two views of an image, two of one of its objects, and one object in two images: the samples of stage 3."""

    def __init__(
        self,
        images: ImageTable,
        distribution: ViewDistribution,
        objects: ObjectTable,
        roi_size_px: int,
        seed: int,
        jitter_min_iou: float = 0.5,
    ) -> None:
        self.images, self.distribution, self.objects = images, distribution, objects
        self.roi_size_px, self.seed, self.jitter_min_iou = roi_size_px, seed, jitter_min_iou

    def sample_boxes(self, key: SampleKey) -> ViewBoxes:
        """Sample `view_1`, `view_2`, `intra_1`, `intra_2`, `inter_1` and `inter_2` of an image in an epoch."""
        image_id = key[1]
        size_wh = self.images.sizes_wh[image_id]
        view_boxes = sample_global_views(image_id, size_wh, self.distribution, (self.seed, *key))
        generator = np.random.default_rng([self.seed, *key, 2])
        roi = self._sample_roi(image_id, generator)
        intra_pair = (roi, boxes.jitter(roi, size_wh, generator, self.jitter_min_iou))
        inter_pair, neighbour_id = self._sample_correspondence(image_id, generator)
        for view, box in enumerate(intra_pair):
            view_boxes[f"intra_{view + 1}"] = self._roi_view(image_id, box, view, generator)
        for view, (source_id, box) in enumerate(zip((image_id, neighbour_id), inter_pair)):
            view_boxes[f"inter_{view + 1}"] = self._roi_view(source_id, box, view, generator)
        return view_boxes

    def _sample_roi(self, image_id: int, generator: np.random.Generator) -> Float[ndarray, "4"]:
        start, end = self.objects.roi_starts[image_id : image_id + 2]
        return self.objects.rois[generator.integers(start, end)]

    def _sample_correspondence(
        self, image_id: int, generator: np.random.Generator
    ) -> tuple[Float[ndarray, "2 4"], int]:
        """Sample a neighbour, then one of the correspondences with it."""
        slices = self.objects.neighbour_slices[image_id]
        start, end = slices[generator.integers(len(slices))]
        roi_pair = self.objects.correspondences[generator.integers(start, end)]
        return self.objects.rois[roi_pair], int(self.objects.roi_image_ids[roi_pair[1]])

    def _roi_view(self, image_id: int, box: Float[ndarray, "4"], view: int, generator: np.random.Generator) -> ViewBox:
        colours = sample_colours(self.distribution.colours[view], generator)
        return ViewBox(image_id, box, self.roi_size_px, colours)


def sample_global_views(
    image_id: int, size_wh: tuple[int, int], distribution: ViewDistribution, key: tuple[int, int, int]
) -> ViewBoxes:
    """Sample the two global views of an image.

    Args:
        image_id: row of the image.
        size_wh: size of the image.
        distribution: crops and colour changes to sample from.
        key: seed, epoch and image, which seed the random generators.
    """
    view_boxes: ViewBoxes = {}
    for view in range(2):
        generator = np.random.default_rng([*key, view])
        box = random_resized_crop(size_wh, distribution.area_range, distribution.aspect_ratio_range, generator)
        colours = sample_colours(distribution.colours[view], generator)
        view_boxes[f"view_{view + 1}"] = ViewBox(image_id, box, distribution.size_px, colours)
    return view_boxes
