"""Training samples with pixels: the views of an image, or of the image that replaces an unreadable one."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset, default_collate

from orl.datasets.decode import ImageError
from orl.views.cut import cut_views
from orl.views.view_samplers import GlobalViewSampler, ObjectViewSampler, SampleKey

MAX_REPLACEMENTS = 10
"""Images tried in place of an unreadable one before training stops."""


class LoadedViews(NamedTuple):
    """The views of a sample or of a batch, and the images that could not be read."""

    views: dict[str, Any]
    """Views by name; empty if an image and all its replacements are unreadable, in a batch if one sample is empty."""
    files: list[str]
    """Names of the images that were read."""
    unreadable: list[tuple[str, str]]
    """File and reason of each image that could not be read."""


class ViewDataset(Dataset[LoadedViews]):
    """The views that a sampler describes, cut from the images.

    Another image replaces an unreadable one. The choice depends on (seed, epoch, image) alone.
    """

    def __init__(self, view_sampler: GlobalViewSampler | ObjectViewSampler) -> None:
        self.view_sampler = view_sampler

    def __len__(self) -> int:
        return len(self.view_sampler.images)

    def __getitem__(self, key: SampleKey) -> LoadedViews:
        """Return the views of an image in an epoch."""
        sampler = self.view_sampler

        def load(image_id: int) -> dict[str, Any]:
            return cut_views(sampler.images, sampler.sample_boxes((key[0], image_id)))

        return load_or_replace(key, sampler.seed, sampler.images.names, load)


def load_or_replace(
    key: SampleKey, seed: int, names: Sequence[str], load: Callable[[int], dict[str, Any]]
) -> LoadedViews:
    """Load the image of a key, or the first readable one of the images to try in its place."""
    unreadable: list[tuple[str, str]] = []
    for row in _image_and_replacements(key, seed, len(names)):
        try:
            views = load(row)
        except ImageError as error:
            unreadable.append((str(error.path), error.reason))
        else:
            return LoadedViews(views, [names[row]], unreadable)
    return LoadedViews({}, [], unreadable)


def _image_and_replacements(key: SampleKey, seed: int, num_images: int) -> Iterator[int]:
    yield key[1]
    yield from np.random.default_rng([seed, *key, 3]).integers(num_images, size=MAX_REPLACEMENTS).tolist()


def collate_views(samples: Sequence[LoadedViews]) -> LoadedViews:
    """Join samples into a batch."""
    all_readable = all(sample.views for sample in samples)
    return LoadedViews(
        default_collate([sample.views for sample in samples]) if all_readable else {},
        [name for sample in samples for name in sample.files],
        [row for sample in samples for row in sample.unreadable],
    )
