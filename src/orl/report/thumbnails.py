"""Thumbnails of a run's images: the page contains each once and uses it wherever the image is shown."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from orl.datasets.decode import REDUCTIONS
from orl.datasets.image_table import ImageTable
from orl.figures.pictures import data_uri, encode_jpeg
from orl.views.cut import read_listed_image

LONG_SIDE_PX = 480
MAX_BYTES = 40_000
"""Size limit of a thumbnail: some hundreds are a few megabytes, even if the images are noise."""


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small JPEG of an image."""

    name: str
    """Identifier of its element in the page."""
    uri: str
    size_wh: tuple[int, int]
    image_size_wh: tuple[int, int]
    """Size of the image itself, in whose pixels boxes are given."""


@dataclass(frozen=True)
class Thumbnails:
    """Thumbnails of a run's images; each is made on first use."""

    images: ImageTable
    prefix: str = "images-0"
    """First part of the identifiers of their elements; each set of images of a page has its own."""
    made: dict[int, Thumbnail] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Thumbnails made so far, by image."""

    def get(self, image_id: int) -> Thumbnail:
        """Return the thumbnail of an image.

        Raises:
            ImageError: if the image cannot be read, or its size is not the scanned one.
        """
        if image_id not in self.made:
            self.made[image_id] = self._make(image_id)
        return self.made[image_id]

    def get_all(self, image_ids: Sequence[int]) -> list[Thumbnail]:
        """Return the thumbnails of several images; errors as `get`."""
        return [self.get(image_id) for image_id in image_ids]

    def _make(self, image_id: int) -> Thumbnail:
        size_wh = self.images.sizes_wh[image_id]
        reduction = max(each for each in REDUCTIONS if each == 1 or max(size_wh) >= each * LONG_SIDE_PX)
        image = read_listed_image(self.images, image_id, reduction)
        scale = min(1.0, LONG_SIDE_PX / max(size_wh))
        small_wh = (max(1, round(size_wh[0] * scale)), max(1, round(size_wh[1] * scale)))
        small = np.asarray(Image.fromarray(image).resize(small_wh, Image.Resampling.LANCZOS))
        uri = data_uri("image/jpeg", encode_jpeg(small, MAX_BYTES))
        return Thumbnail(name=f"{self.prefix}-{image_id}", uri=uri, size_wh=small_wh, image_size_wh=size_wh)
