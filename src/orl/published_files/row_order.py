"""A stream of images in the order of a file, given out in the order of the run's rows."""

import logging
import tempfile
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped
from numpy import ndarray

from orl.published_files.json_stream import DamagedFileError

logger = logging.getLogger(__name__)


class RowOrderedReader:
    """The arrays of images by their rows; those that are not asked for yet wait in an unnamed file on disk.

    The stream is read as far as is needed: in a file in the order of the run, one slice after the other. The unnamed
    file is gone with the process, however it ends.
    """

    def __init__(
        self,
        arrays: Iterator[Shaped[ndarray, "_ w"]],
        row_of: Int64[ndarray, "n"],
        folder: Path,
        what: str,
        report: Callable[[int], object] = lambda num_images: None,
    ) -> None:
        """Read nothing yet.

        Args:
            arrays: one array an image, in the file's order, all of one type and width.
            row_of: row of each image of the file.
            folder: where the unnamed file lies; it grows to the size of all arrays.
            what: what lists the images, for errors.
            report: takes the number of images just read.
        """
        self._arrays, self._what, self._report = arrays, what, report
        self._places = np.argsort(row_of)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as the object lives
        self._starts = array("q", [0])
        self._like = np.empty((0, 0))

    def __call__(self, rows: slice) -> list[Shaped[ndarray, "_ w"]]:
        """The arrays of these rows.

        Raises:
            ValueError: if the file lists fewer or more images than there are rows.
        """
        places = self._places[rows].tolist()
        while len(self._starts) <= max(places, default=-1) + 1:
            self._read_next()
        return [self._stored(place) for place in places]

    def _read_next(self) -> None:
        count, expected = len(self._starts) - 1, len(self._places)
        found = next(self._arrays, None)
        if found is None:
            raise ValueError(self._wrong_count(count))
        if count == 0:
            self._like = found[:0]
        self._file.seek(0, 2)
        self._file.write(found.tobytes())
        self._starts.append(self._starts[-1] + len(found))
        self._report(1)
        if count + 1 == expected and (others := self._num_others()):
            raise ValueError(self._wrong_count(expected + others))

    def _num_others(self) -> int:
        """Images in the file beyond those of the run."""
        count = 0
        try:
            for _ in self._arrays:
                count += 1
        except DamagedFileError as error:
            # Behind this list: told as an error, with the right number, by the list that is cut.
            logger.warning("%s", error)
        return count

    def _stored(self, place: int) -> Shaped[ndarray, "_ w"]:
        start, stop = self._starts[place : place + 2]
        width = self._like.shape[1]
        row_bytes = width * self._like.itemsize
        self._file.seek(start * row_bytes)
        content = self._file.read((stop - start) * row_bytes)
        return np.frombuffer(content, dtype=self._like.dtype).reshape(-1, width)

    def _wrong_count(self, count: int) -> str:
        return (
            f"{self._what} lists {count} images and the run has {len(self._places)}; take the images that the file was "
            "made from (rejected.csv tells which were left out)"
        )
