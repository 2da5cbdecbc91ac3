"""Tables on disk that one stage writes for the next: Arrow shards, each written atomically, and a manifest.

A table is a folder: `00000.arrow`, `00001.arrow`, ... hold the rows. `manifest.json` holds the inputs, the format's
version, and rows, bytes and checksum of each shard. A shard repeats them in its header, with its number and the
fingerprint of its table: an unfinished table is verified too, and a shard of another table is refused. Columns of each
table (images: `images.parquet`, all others: `discover/NAME/`):

| table | one row a | columns |
| --- | --- | --- |
| images | image | `name` str, `width`, `height` int32, `digest` str |
| embeddings | image | `embedding` float16 (D,) |
| neighbours | image | `neighbour_ids` int32 (K,), `similarities` float32 (K,) |
| proposals | box as found | `image_id` int32, `box` float32 (4,) |
| rois | box as kept | `image_id` int32, `box` float32 (4,) |
| roi_embeddings | RoI | `embedding` float16 (D,) |
| roi_reduction | dimension | `matrix` float32 (K,); for `discover.roi_dims` |
| whitening | dimension | `mean` float32, `matrix` float32 (D,); for `discover.matching` whitened and contrast |
| roi_textures | RoI | `contrast`, `edges` float32; for `discover.textured_only` |
| roi_hubness | RoI | `mean_similarity` float32; for `discover.matching` csls and contrast |
| correspondences | pair | `image_id`, `neighbour_id` int32, `roi`, `neighbour_roi` int64, `similarity` float32 |

Boxes are xyxy, in pixels. Rows are in the order of the images, so the rows of one image are a slice: see `row_starts`.
`roi` and `neighbour_roi` are row numbers of rois. `similarity` is their cosine; where pairs were chosen by another
score, it is the column `score` float32 of correspondences.

Where the source of the boxes gives masks, proposals and rois have a column `rle` str: the counts of COCO's compressed
RLE of the box's mask, which has the height and width of the image; empty for a box without a mask.

A table may be larger than the memory. Its shards are memory-mapped when they are read, at most `MAX_OPEN_SHARDS` at a
time. A shard is verified when it is mapped for the first time. `Table.rows` and `Table.parts` return views of shards,
and `Table.release` frees the pages that were read.
"""

import hashlib
import json
import mmap
import re
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy import ndarray

from orl.files import write_atomically
from orl.provenance import MANIFEST, RESTORE, claim, fingerprint, read_manifest, version_error

TABLE_VERSION = 3
"""Format of tables; 1 was that of orl 0.1, and tables of version 2 have no checksums."""

RLE = "rle"
"""Column of proposals and rois with the mask of each box, where the source of the boxes gives masks."""

MAX_OPEN_SHARDS = 256
"""Most shards of one table mapped at a time: each takes a file descriptor, of which a process often has 1,024."""


class ShardRecord(NamedTuple):
    """Size and checksum of a shard, as the manifest of a finished table has them."""

    rows: int
    bytes: int
    """Size of the file."""
    checksum: str


DIGITS = 16
HEADER = re.compile(
    rb'\{"table": "(?P<table>\w{16})", "shard": (?P<shard>\d+), '
    rb'"rows": (?P<rows>\d+), "checksum": "(?P<checksum>\w{16})"\}'
)
"""Header of a shard: JSON in the metadata of Arrow's schema; `checksum` is of all bytes of the file but its own."""
MAX_HEADER_END = 2**16
SHARD_FIELDS = ShardRecord.__annotations__
Check = Callable[["Table", int, Mapping[str, ndarray]], None]
"""Function of a table, the first row of a shard, and the shard's columns, which raises ValueError for a wrong value."""


@dataclass(frozen=True)
class Table:
    """A finished table, memory-mapped: only the columns that are read take memory."""

    folder: Path
    inputs: Mapping[str, Any]
    shards: tuple[ShardRecord, ...]
    check: Check | None = field(default=None, repr=False, compare=False)
    """Check of the values of each shard."""
    _verified: set[int] = field(default_factory=set, init=False, repr=False, compare=False)
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
        return len(self.shards)

    @property
    def shard_rows(self) -> tuple[int, ...]:
        """Number of rows of each shard."""
        return tuple(shard.rows for shard in self.shards)

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
        """Read one column of one shard, as a view of its file.

        Raises:
            ValueError: if there is no such column, or the shard is damaged or of another table.
        """
        columns = self._shard(index).columns
        if name not in columns.column_names:
            found = ", ".join(columns.column_names)
            raise ValueError(f"table {self.folder} has no column {name!r} but {found}; rebuild it with --overwrite")
        return _to_numpy(columns.column(name))

    def parts(self, name: str) -> Iterator[tuple[int, ndarray]]:
        """Yield one column shard by shard, as (first row, rows); each shard is unmapped before the next."""
        for index, start in enumerate(self.shard_starts[:-1].tolist()):
            yield start, self.shard_column(index, name)
            self.release()
            self._open.pop(index, None)

    def verify(self) -> None:
        """Verify all shards, which other methods do for the shards that they read.

        Raises:
            ValueError: if a shard is missing, damaged, of another table, or has a value that the check refuses.
        """
        for index in range(self.num_shards):
            self._shard(index)

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
        for shard in self._open.values():
            shard.release()

    def _shard(self, index: int) -> "_Shard":
        if index in self._open:
            self._open.move_to_end(index)
            return self._open[index]
        if len(self._open) >= MAX_OPEN_SHARDS:
            # The file is unmapped and closed as soon as the last view of it is gone.
            self._open.popitem(last=False)
        self._open[index] = self._open_shard(index)
        return self._open[index]

    def _open_shard(self, index: int) -> "_Shard":
        path = _shard_path(self.folder, index)
        pages = _map(path)
        if index in self._verified:
            return _Shard(pages, _parse(path, pages))
        header = _read_header(path, pages, index, self.fingerprint)
        recorded, found = self.shards[index].checksum, _checksum(pages, header)
        # Arrow may crash on damaged bytes, so they are verified first.
        if not recorded == header["checksum"].decode() == found:
            raise ValueError(
                f"shard {path} was altered or damaged: its checksum is {found}, and {recorded} was recorded; delete "
                "it and run again"
            )
        shard = _Shard(pages, _parse(path, pages))
        if self.check is not None:
            columns = {name: _to_numpy(shard.columns.column(name)) for name in shard.columns.column_names}
            self.check(self, int(self.shard_starts[index]), columns)
        self._verified.add(index)
        shard.release()
        return shard


@dataclass(frozen=True)
class _Shard:
    """A memory-mapped file and its columns, which are views of it."""

    pages: mmap.mmap
    columns: pa.Table

    def release(self) -> None:
        """Free the pages that were read."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.pages.madvise(mmap.MADV_DONTNEED)


def begin(folder: Path, inputs: Mapping[str, Any], num_shards: int, overwrite: bool = False) -> list[int]:
    """Claim a folder for a table and list its missing shards; an empty list if all are written.

    Raises:
        StaleResultError: if the folder holds a table of other inputs or of another version.
    """
    claim(folder, {**inputs, "num_shards": num_shards}, overwrite, TABLE_VERSION)
    finished = {path.name for path in folder.iterdir()}
    missing = [index for index in range(num_shards) if _shard_path(folder, index).name not in finished]
    if missing:
        delete_shards(folder, missing)
    return missing


def delete_shards(folder: Path, indices: Sequence[int]) -> None:
    """Delete shards, if they exist, and make their table unfinished."""
    manifest = _read_table_manifest(folder)
    if manifest.pop("shards", None) is not None:
        write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1))
    for index in indices:
        _shard_path(folder, index).unlink(missing_ok=True)


def write_shard(folder: Path, index: int, columns: Mapping[str, ndarray]) -> None:
    """Write one shard atomically: a killed process leaves it complete or not at all."""
    table = pa.table({name: _to_arrow(values) for name, values in columns.items()})
    numbers = {"table": _read_table_manifest(folder)["fingerprint"], "shard": index, "rows": table.num_rows}
    header = json.dumps({**numbers, "checksum": "0" * DIGITS}).encode()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema.with_metadata({"orl": header})) as writer:
        writer.write_table(table)
    data = bytearray(sink.getvalue())
    checksum = hashlib.sha256(data).hexdigest()[:DIGITS].encode()
    for start in (data.find(header), data.rfind(header)):
        data[start : start + len(header)] = header.replace(b"0" * DIGITS + b'"}', checksum + b'"}')
    write_atomically(_shard_path(folder, index), memoryview(data))


def finish_table(folder: Path, check: Check | None = None) -> Table:
    """Write size and checksum of each shard to the manifest of a table whose shards are all written, and open it.

    Raises:
        ValueError: as `load`.
    """
    table, manifest = load(folder, check), _read_table_manifest(folder)
    if "shards" not in manifest:
        manifest["shards"] = [shard._asdict() for shard in table.shards]
        write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1))
    return table


def load(folder: Path, check: Check | None = None) -> Table:
    """Open a finished table; its shards are verified when they are read.

    Args:
        folder: folder of the table.
        check: check of the values of each shard, before they are used.

    Raises:
        FileNotFoundError: if there is no table.
        ValueError: if it is unfinished, damaged or of another version.
    """
    if not (folder / MANIFEST).exists():
        raise FileNotFoundError(f"no table at {folder}; make it with 'orl discover'")
    manifest = _read_table_manifest(folder)
    inputs, recorded = manifest["inputs"], manifest.get("shards")
    if recorded is None:
        shards = tuple(_record_of(folder, index, manifest["fingerprint"]) for index in range(inputs["num_shards"]))
        return Table(folder, inputs, shards, check)
    for index, shard in enumerate(recorded):
        _require_size(_shard_path(folder, index), shard["bytes"])
    return Table(folder, inputs, tuple(ShardRecord(**shard) for shard in recorded), check)


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


def box_columns(images: slice, boxes: list[ndarray], rles: Sequence[Sequence[str]] | None = None) -> dict[str, ndarray]:
    """Return the columns of a shard of proposals or RoIs: `image_id`, `box` and, where there are masks, `rle`.

    Args:
        images: the images of the shard.
        boxes: the boxes `xyxy` of each image, `(boxes, 4)`.
        rles: the mask of each box of each image; empty where a box has none. None if the table has no masks.
    """
    counts = [len(part) for part in boxes]
    image_ids = np.repeat(np.arange(images.start, images.stop, dtype=np.int32), counts)
    columns = {"image_id": image_ids, "box": np.concatenate(boxes).reshape(-1, 4).astype(np.float32)}
    if rles is None:
        return columns
    return {**columns, RLE: np.array([rle for part in rles for rle in part], dtype=object)}


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


def _read_table_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a table, whose inputs and shards are well formed.

    Raises:
        ValueError: if it is not a manifest of a table, or of another version.
    """
    path = folder / MANIFEST
    manifest = read_manifest(path)
    if manifest["version"] != TABLE_VERSION:
        raise ValueError(version_error(folder, manifest["version"], TABLE_VERSION))
    num_shards, shards = manifest["inputs"].get("num_shards"), manifest.get("shards")
    if type(num_shards) is not int or num_shards < 1:
        raise ValueError(f"{path} is not the manifest of a table: its num_shards is {num_shards!r}; {RESTORE}")
    if shards is not None and not (
        isinstance(shards, list) and list(map(_kinds, shards)) == [SHARD_FIELDS] * num_shards
    ):
        raise ValueError(f"{path} was altered: it does not list {num_shards} shards; {RESTORE}")
    return manifest


def _kinds(shard: object) -> dict[str, type] | None:
    return {key: type(value) for key, value in shard.items()} if isinstance(shard, dict) else None


def _require_size(path: Path, num_bytes: int) -> None:
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise ValueError(_missing(path)) from error
    if not stat.S_ISREG(found.st_mode) or found.st_size != num_bytes:
        raise ValueError(
            f"shard {path} cannot be read (it has {found.st_size} bytes, not {num_bytes}); delete it and run again"
        )


def _missing(path: Path) -> str:
    return f"table {path.parent} lacks shard {path.name}; run 'orl discover' again to finish it"


def _record_of(folder: Path, index: int, table: str) -> ShardRecord:
    """Read size and checksum of a shard from the shard itself, as long as its table is unfinished."""
    path = _shard_path(folder, index)
    pages = _map(path)
    header = _read_header(path, pages, index, table)
    return ShardRecord(int(header["rows"]), len(pages), header["checksum"].decode())


def _map(path: Path) -> mmap.mmap:
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise ValueError(_missing(path)) from error
    except (ValueError, OSError) as error:  # a ValueError if the file is empty
        raise ValueError(f"shard {path} cannot be read ({error}); delete it and run again") from error


def _read_header(path: Path, pages: mmap.mmap, index: int, table: str) -> re.Match[bytes]:
    """Find the header of a shard without parsing Arrow, and refuse a shard of another table or place."""
    header = HEADER.search(pages, 0, MAX_HEADER_END)
    if header is None or len(pages) < 12 or pages[-6:] != b"ARROW1":
        raise ValueError(f"shard {path} cannot be read (it is not a complete shard); delete it and run again")
    found = header["table"].decode(), int(header["shard"])
    if found != (table, index):
        raise ValueError(
            f"shard {path} is shard {found[1]} of table {found[0]}, not shard {index} of table {table}: it was copied "
            "from elsewhere; delete it and run again"
        )
    return header


def _checksum(pages: mmap.mmap, header: re.Match[bytes]) -> str:
    """Compute the checksum of a file, in which its own digits count as zeros: Arrow repeats the header at the end."""
    digest, start = hashlib.sha256(), 0
    with memoryview(pages) as data:
        for place in (header.start(), pages.rfind(header[0])):
            end = place + header.start("checksum") - header.start()
            digest.update(data[start:end])
            digest.update(b"0" * DIGITS)
            start = end + DIGITS
        digest.update(data[start:])
    return digest.hexdigest()[:DIGITS]


def _parse(path: Path, pages: mmap.mmap) -> pa.Table:
    try:
        return pa.ipc.open_file(pa.py_buffer(pages)).read_all()
    except (ValueError, OSError, pa.ArrowException) as error:  # Arrow raises errors of many kinds
        raise ValueError(f"shard {path} cannot be read ({error}); delete it and run again") from error


def _to_arrow(values: ndarray) -> pa.Array:
    if values.ndim == 1:
        # Without its type, an empty column of text would have none.
        return pa.array(values, pa.string() if values.dtype == object else None)
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])


def _to_numpy(column: pa.ChunkedArray) -> ndarray:
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_fixed_size_list(array.type):
        rows = array.values.to_numpy().reshape(-1, array.type.list_size)
        return rows[array.offset : array.offset + len(array)]
    return array.to_numpy(zero_copy_only=pa.types.is_primitive(array.type))
