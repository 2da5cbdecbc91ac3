"""The images that a page shows: thumbnails made to size, each embedded once and used wherever it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from orl.datasets.decode import REDUCTIONS, ImageError, load_image, reduced_size
from orl.datasets.image_table import ImageTable
from orl.figures.pictures import data_uri, encode_jpeg
from orl.report.html import Html

LONG_SIDE_PX = 480
MAX_BYTES = 40_000
"""Of a thumbnail: some hundreds are a few megabytes, also where the images are noise."""


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """An image as the page holds it."""

    name: str
    """Of its element in the page."""
    uri: str
    size_wh: tuple[int, int]
    image_size_wh: tuple[int, int]
    """Of the image itself, in whose pixels boxes are given."""


@dataclass(frozen=True)
class Album:
    """Thumbnails of a run's images, those that were asked for so far."""

    images: ImageTable
    prefix: str = "image"
    """What the names of their elements begin with: one a run, where a page shows several."""
    _thumbnails: dict[int, Thumbnail] = field(default_factory=dict, init=False, repr=False, compare=False)

    def thumbnail(self, image_id: int) -> Thumbnail:
        """One image.

        Raises:
            ImageError: if it cannot be read, or is no longer of the size that it was scanned with.
        """
        if image_id not in self._thumbnails:
            self._thumbnails[image_id] = self._make(image_id)
        return self._thumbnails[image_id]

    def thumbnails(self, image_ids: Sequence[int]) -> list[Thumbnail]:
        """Several images; errors as `thumbnail`."""
        return [self.thumbnail(image_id) for image_id in image_ids]

    def definitions(self) -> Html:
        """The element that holds them all; it takes no room, and without it none can be shown."""
        each = "".join(
            f'<image id="{shown.name}" width="{shown.size_wh[0]}" height="{shown.size_wh[1]}" href="{shown.uri}"/>'
            for _, shown in sorted(self._thumbnails.items())
        )
        return Html(f'<svg width="0" height="0" class="out" aria-hidden="true"><defs>{each}</defs></svg>')

    def _make(self, image_id: int) -> Thumbnail:
        path, size_wh = self.images.path(image_id), self.images.sizes_wh[image_id]
        reduction = max(each for each in REDUCTIONS if each == 1 or max(size_wh) >= each * LONG_SIDE_PX)
        image = load_image(path, None, reduction)
        if (image.shape[1], image.shape[0]) != reduced_size(size_wh, reduction):
            raise ImageError(path, "has another size than when it was scanned")
        scale = min(1.0, LONG_SIDE_PX / max(size_wh))
        small_wh = (max(1, round(size_wh[0] * scale)), max(1, round(size_wh[1] * scale)))
        small = np.asarray(Image.fromarray(image).resize(small_wh, Image.Resampling.LANCZOS))
        uri = data_uri("image/jpeg", encode_jpeg(small, MAX_BYTES))
        return Thumbnail(name=f"{self.prefix}-{image_id}", uri=uri, size_wh=small_wh, image_size_wh=size_wh)
