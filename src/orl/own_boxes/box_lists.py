"""Lists of boxes by image, collected from a file that has them in any order."""

import tempfile
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy import ndarray

from orl.own_boxes.image_boxes import ImageBoxes

ReadImages = Callable[[slice], list[ImageBoxes]]
"""Function from a slice of the run's images to their boxes."""


class BoxLists:
    """Boxes of all images: some 60 bytes each in memory; masks are in an unnamed temporary file."""

    def __init__(self, path: Path, folder: Path, *, has_masks: bool) -> None:
        """Open the temporary file.

        Args:
            path: the file of boxes, for error messages.
            folder: folder of the temporary file.
            has_masks: whether boxes may have masks.
        """
        self._path = path
        self._rows, self._values, self._scores = array("q"), array("f"), array("d")
        self._mask_ends = array("q", [0])
        folder.mkdir(parents=True, exist_ok=True)
        self._masks = tempfile.TemporaryFile(dir=folder) if has_masks else None  # noqa: SIM115 - lives with the object

    def add(
        self,
        rows: Int64[ndarray, "n"],
        xyxy: Float32[ndarray, "n 4"],
        scores: Float64[ndarray, "n"],
        rles: Sequence[str] = (),
    ) -> None:
        """Add boxes.

        Args:
            rows: row of the image of each box.
            xyxy: the boxes.
            scores: score of each box; NaN where it has none.
            rles: mask of each box, empty where it has none; only if there are masks.
        """
        self._rows.frombytes(rows.tobytes())
        self._values.frombytes(xyxy.tobytes())
        self._scores.frombytes(scores.tobytes())
        if self._masks is not None:
            for rle in rles:
                self._mask_ends.append(self._mask_ends[-1] + self._masks.write(rle.encode()))

    def reader(self, num_images: int) -> ReadImages:
        """Return the function that reads the boxes of images: by falling score, of equal scores the first first.

        Raises:
            ValueError: if some boxes have a score and some have none.
        """
        # Views of the arrays, without a copy.
        scores, xyxy = np.frombuffer(self._scores), np.frombuffer(self._values, dtype=np.float32).reshape(-1, 4)
        without = np.isnan(scores)
        if without.any() and not without.all():
            raise ValueError(
                f"{self._path}: {int((~without).sum())} of {len(scores)} boxes have a score; give it to all or none"
            )
        image_ids = np.frombuffer(self._rows, dtype=np.int64)
        order = np.lexsort((np.where(without, 0, -scores), image_ids))
        starts = np.searchsorted(image_ids[order], np.arange(num_images + 1))

        self._rows, self._scores = array("q"), array("d")

        def read(rows: slice) -> list[ImageBoxes]:
            places = [order[starts[row] : starts[row + 1]] for row in range(rows.start, rows.stop)]
            return [ImageBoxes(xyxy[each], self._rles(each)) for each in places]

        return read

    def _rles(self, places: Int64[ndarray, "n"]) -> tuple[str, ...] | None:
        if self._masks is None:
            return None
        return tuple(self._rle(place) for place in places.tolist())

    def _rle(self, place: int) -> str:
        assert self._masks is not None
        start, stop = self._mask_ends[place : place + 2]
        self._masks.seek(start)
        return self._masks.read(stop - start).decode()
