"""Tables on disk that one stage writes for the next: Arrow shards, each written atomically, and a manifest.

A table is a folder: `manifest.json` holds its inputs and the format's version, `00000.arrow`, `00001.arrow`, ... hold
the rows. Columns of each table (images: `images.parquet`, all others: `discover/NAME/`):

| table | one row a | columns |
| --- | --- | --- |
| images | image | `name` str, `width`, `height` int32, `digest` str |
| embeddings | image | `embedding` float16 (D,) |
| neighbours | image | `neighbour_ids` int32 (K,), `similarities` float32 (K,) |
| proposals | box as found | `image_id` int32, `box` float32 (4,) |
| rois | box as kept | `image_id` int32, `box` float32 (4,) |
| roi_embeddings | RoI | `embedding` float16 (D,) |
| correspondences | pair | `image_id`, `neighbour_id` int32, `roi`, `neighbour_roi` int64, `similarity` float32 |

Boxes are xyxy, in pixels. Rows are in the order of the images, so the rows of one image are a slice: see `row_starts`.
`roi` and `neighbour_roi` are row numbers of rois.

A table may be larger than the memory. Its shards are memory-mapped when they are read, at most `MAX_OPEN_SHARDS` at a
time. `Table.rows` and `Table.parts` return views of them, and `Table.release` frees the pages that were read.
"""

import mmap
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy import ndarray

from orl.files import write_atomically
from orl.provenance import MANIFEST, VERSION, claim, fingerprint, read_manifest, version_error

MAX_OPEN_SHARDS = 256
"""Most shards of one table mapped at a time: each takes a file descriptor, of which a process often has 1,024."""


@dataclass(frozen=True)
class Table:
    """A finished table, memory-mapped: only the columns that are read take memory."""

    folder: Path
    inputs: Mapping[str, Any]
    shard_rows: tuple[int, ...]
    """Number of rows of each shard."""
    _open: OrderedDict[int, "_Shard"] = field(default_factory=OrderedDict, init=False, repr=False, compare=False)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the table's inputs."""
        return fingerprint(self.inputs)

    @property
    def num_rows(self) -> int:
        """Number of rows of all shards."""
        return int(self.shard_starts[-1])

    @property
    def num_shards(self) -> int:
        return len(self.shard_rows)

    @property
    def column_names(self) -> list[str]:
        return self._shard(0).columns.column_names

    @cached_property
    def shard_starts(self) -> ndarray:
        """First row of each shard, then the number of all rows."""
        return np.concatenate([[0], np.cumsum(self.shard_rows, dtype=np.int64)])

    def column(self, name: str) -> ndarray:
        """Read one column of all shards; with a single shard this is a view of the file."""
        return self.rows(name, 0, self.num_rows)

    def rows(self, name: str, start: int, stop: int) -> ndarray:
        """Read some rows of a column: a view of the file within one shard, a copy across shards.

        Raises:
            ValueError: if there are no such rows.
        """
        if not 0 <= start <= stop <= self.num_rows:
            raise ValueError(f"table {self.folder} has {self.num_rows} rows, not {start} to {stop}")
        first = min(int(np.searchsorted(self.shard_starts, start, side="right")) - 1, self.num_shards - 1)
        begin = int(self.shard_starts[first])
        part = self.shard_column(first, name)[start - begin : stop - begin]
        if len(part) == stop - start:
            return part
        joined = np.empty((stop - start, *part.shape[1:]), part.dtype)
        for index in range(first, int(np.searchsorted(self.shard_starts, stop))):
            begin, end = self.shard_starts[index : index + 2].tolist()
            low, high = max(start, begin), min(stop, end)
            joined[low - start : high - start] = self.shard_column(index, name)[low - begin : high - begin]
        return joined

    def shard_column(self, index: int, name: str) -> ndarray:
        """Read one column of one shard, as a view of its file."""
        return _to_numpy(self._shard(index).columns.column(name))

    def parts(self, name: str) -> Iterator[tuple[int, ndarray]]:
        """Yield one column shard by shard, as (first row, rows); each shard is unmapped before the next."""
        for index, start in enumerate(self.shard_starts[:-1].tolist()):
            yield start, self.shard_column(index, name)
            self.release()
            self._open.pop(index, None)

    def row_starts(self, num_images: int) -> ndarray:
        """Return the first row of each image, as the function `row_starts`, reading shard by shard.

        Raises:
            ValueError: if the rows are of other images, or not in the order of the images.
        """
        counts, last = np.zeros(num_images + 1, np.int64), 0
        for _, image_ids in self.parts("image_id"):
            if len(image_ids) == 0:
                continue
            if image_ids[0] < last or (np.diff(image_ids) < 0).any():
                raise ValueError(f"table {self.folder} is not in the order of the images; delete it and make it again")
            last = int(image_ids[-1])
            if last >= num_images:
                raise ValueError(
                    f"table {self.folder} has rows of image {last}, but there are {num_images} images; it was made "
                    "from another image list: rebuild it with --overwrite"
                )
            ids, number = np.unique(image_ids, return_counts=True)
            counts[ids + 1] += number
        return counts.cumsum()

    def release(self) -> None:
        """Free the pages that were read: views stay valid, and read the file again when they are used."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for shard in self._open.values():
                shard.pages.madvise(mmap.MADV_DONTNEED)

    def _shard(self, index: int) -> "_Shard":
        if index in self._open:
            self._open.move_to_end(index)
            return self._open[index]
        if len(self._open) >= MAX_OPEN_SHARDS:
            # The file is unmapped and closed as soon as the last view of it is gone.
            self._open.popitem(last=False)
        self._open[index] = _open_shard(self.folder, index)
        return self._open[index]


@dataclass(frozen=True)
class _Shard:
    """A memory-mapped file and its columns, which are views of it."""

    pages: mmap.mmap
    columns: pa.Table


def begin(folder: Path, inputs: Mapping[str, Any], num_shards: int, overwrite: bool = False) -> list[int]:
    """Claim a folder for a table and list its missing shards; an empty list if the table is finished.

    Raises:
        StaleResultError: if the folder holds a table of other inputs or of another version.
    """
    claim(folder, {**inputs, "num_shards": num_shards}, overwrite)
    finished = {path.name for path in folder.iterdir()}
    return [index for index in range(num_shards) if _shard_path(folder, index).name not in finished]


def write_shard(folder: Path, index: int, columns: Mapping[str, ndarray]) -> None:
    """Write one shard atomically: a killed process leaves it complete or not at all."""
    table = pa.table({name: _to_arrow(values) for name, values in columns.items()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_atomically(_shard_path(folder, index), memoryview(sink.getvalue()))


def load(folder: Path) -> Table:
    """Open a finished table.

    Raises:
        FileNotFoundError: if there is no table.
        ValueError: if it is unfinished, damaged or of another version.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"no table at {folder}; make it with 'orl discover'")
    manifest = read_manifest(path)
    if manifest.get("version") != VERSION:
        raise ValueError(version_error(folder, manifest.get("version")))
    num_shards = manifest["inputs"]["num_shards"]
    rows = tuple(_open_shard(folder, index).columns.num_rows for index in range(num_shards))
    return Table(folder, manifest["inputs"], rows)


def check_image_list(table: Table, images: str) -> None:
    """Refuse a table of another image list than the run has now.

    Args:
        table: a table of stage 2.
        images: fingerprint of the run's image list.

    Raises:
        ValueError: if the table was made from another image list.
    """
    if table.inputs.get("images", images) != images:
        raise ValueError(
            f"{table.folder} was made from another image list than the run has now; rebuild it with "
            "'orl discover --overwrite'"
        )


def check_inputs(table: Table) -> None:
    """Refuse a table if a table that it was made from has been rebuilt from other inputs since.

    Args:
        table: a table of stage 2; the tables that it was made from are beside it. Deleted ones are skipped.

    Raises:
        ValueError: if one of its input tables has changed or is unfinished.
    """
    folder, name = table.folder.parent, table.folder.name
    for source, expected in table.inputs.items():
        if source == name or not (folder / source / MANIFEST).exists():
            continue
        if finished_fingerprint(folder / source) != expected:
            raise ValueError(
                f"{table.folder} was made from other {source} than are in {folder / source}; finish stage 2 with "
                "'orl discover'"
            )
        check_inputs(load(folder / source))


def finished_fingerprint(folder: Path) -> str | None:
    """Return the fingerprint of a finished table; None if there is none."""
    try:
        return load(folder).fingerprint
    except (FileNotFoundError, ValueError):
        return None


def box_columns(images: slice, boxes: list[ndarray]) -> dict[str, ndarray]:
    """Return the columns `image_id` and `box` of a shard of proposals or RoIs.

    Args:
        images: the images of the shard.
        boxes: the boxes `xyxy` of each image, `(boxes, 4)`.
    """
    counts = [len(part) for part in boxes]
    image_ids = np.repeat(np.arange(images.start, images.stop, dtype=np.int32), counts)
    return {"image_id": image_ids, "box": np.concatenate(boxes).reshape(-1, 4).astype(np.float32)}


def row_starts(image_ids: ndarray, num_images: int) -> ndarray:
    """Return the first row of each image: image `i` has the rows from `starts[i]` up to `starts[i + 1]`.

    Args:
        image_ids: the `image_id` column, in rising order.
        num_images: number of images, with or without rows.

    Returns:
        `num_images + 1` row numbers.
    """
    return np.searchsorted(image_ids, np.arange(num_images + 1)).astype(np.int64)


def shard_slices(num_items: int, shard_size: int) -> list[slice]:
    """Split items into shards; no items make one empty shard."""
    return [slice(i, min(i + shard_size, num_items)) for i in range(0, max(1, num_items), shard_size)]


def _shard_path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.arrow"


def _open_shard(folder: Path, index: int) -> _Shard:
    path = _shard_path(folder, index)
    try:
        with open(path, "rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _Shard(pages, pa.ipc.open_file(pa.py_buffer(pages)).read_all())
    except FileNotFoundError as error:
        raise ValueError(f"table {folder} lacks shard {path.name}; run 'orl discover' again to finish it") from error
    # mmap raises ValueError for an empty file; Arrow's own errors are partly ValueErrors, partly OSErrors.
    except (ValueError, OSError) as error:
        raise ValueError(f"shard {path} cannot be read ({error}); delete it and run again") from error


def _to_arrow(values: ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])


def _to_numpy(column: pa.ChunkedArray) -> ndarray:
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_fixed_size_list(array.type):
        rows = array.values.to_numpy().reshape(-1, array.type.list_size)
        return rows[array.offset : array.offset + len(array)]
    return array.to_numpy(zero_copy_only=pa.types.is_primitive(array.type))
