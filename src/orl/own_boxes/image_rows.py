"""Rows of a run's images by the names in a file of boxes."""

import logging
from pathlib import Path, PurePosixPath

from orl.datasets.image_table import ImageTable
from orl.published_files.listing import NameMatcher

logger = logging.getLogger(__name__)


class ImageRows:
    """Function from a name to the row of its image: by path, by file name, or by either without its extension."""

    def __init__(self, images: ImageTable, path: Path) -> None:
        self._images, self._path = images, path
        self._by_name = NameMatcher(images.names)
        self._by_stem = NameMatcher([str(PurePosixPath(name).with_suffix("")) for name in images.names])
        self._rows: dict[str, int] = {}

    def __call__(self, name: str) -> int:
        """Return the row of an image, -1 if the run has no such image.

        Raises:
            ValueError: if the name matches several images.
        """
        if name not in self._rows:
            rows = self._by_name(name) or self._by_stem(name)
            if len(rows) > 1:
                could_be = ", ".join(self._images.names[row] for row in rows[:3])
                raise ValueError(f"{self._path}: {name} matches several images: {could_be}; make the names unambiguous")
            self._rows[name] = rows[0] if rows else -1
        return self._rows[name]

    def check(self) -> None:
        """Log how many images of the run were named.

        Raises:
            ValueError: if none was.
        """
        num_found, num_images = len(set(self._rows.values()) - {-1}), len(self._images)
        if num_found == 0:
            raise ValueError(
                f"{self._path} names {len(self._rows)} images ({', '.join([*self._rows][:3])}), of which none is among "
                f"the {num_images} of the run ({', '.join(self._images.names[:3])}); images are matched by name"
            )
        if num_found < num_images:
            logger.warning(
                "%s names %d of the run's %d images; the others have no box", self._path, num_found, num_images
            )
