"""Reader that reorders a stream of arrays, one per image, from the order of a file to the rows of a run."""

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
    """Arrays of images by their rows in the run; arrays read too early are kept in an unnamed temporary file.

    The stream is read only as far as needed. The temporary file disappears with the process.
    """

    def __init__(
        self,
        arrays: Iterator[Shaped[ndarray, "_ w"]],
        row_of: Int64[ndarray, "n"],
        folder: Path,
        source: str,
        report: Callable[[int], object] = lambda num_images: None,
    ) -> None:
        """Open the temporary file; nothing is read yet.

        Args:
            arrays: one array per image in the order of the file, all of the same dtype and width.
            row_of: row of each image of the file.
            folder: folder of the temporary file, which grows to the size of all arrays.
            source: name of the file that lists the images, for error messages.
            report: function that takes the number of images just read.
        """
        self._arrays, self._source, self._report = arrays, source, report
        self._positions = np.argsort(row_of)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as the object lives
        self._starts = array("q", [0])
        self._like = np.empty((0, 0))

    def __call__(self, rows: slice) -> list[Shaped[ndarray, "_ w"]]:
        """Return the arrays of a slice of rows.

        Raises:
            ValueError: if the file lists fewer or more images than there are rows.
        """
        positions = self._positions[rows].tolist()
        while len(self._starts) <= max(positions, default=-1) + 1:
            self._read_next()
        return [self._stored(position) for position in positions]

    def _read_next(self) -> None:
        count, expected = len(self._starts) - 1, len(self._positions)
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
        """Count the remaining images of the file, which are not in the run."""
        count = 0
        try:
            for _ in self._arrays:
                count += 1
        except DamagedFileError as error:
            # The damage is after this list; reading the damaged list raises an error with its own count.
            logger.warning("%s", error)
        return count

    def _stored(self, position: int) -> Shaped[ndarray, "_ w"]:
        start, stop = self._starts[position : position + 2]
        width = self._like.shape[1]
        row_bytes = width * self._like.itemsize
        self._file.seek(start * row_bytes)
        content = self._file.read((stop - start) * row_bytes)
        return np.frombuffer(content, dtype=self._like.dtype).reshape(-1, width)

    def _wrong_count(self, count: int) -> str:
        return (
            f"{self._source} lists {count} images and the run has {len(self._positions)}; use the images that the file "
            "was made from (rejected.csv lists the rejected ones)"
        )
