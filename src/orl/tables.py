"""What one stage leaves for the next: tables of shards on disk, each shard written whole or not at all.

A table is a folder: `manifest.json` says what it was made from, `00000.arrow`, `00001.arrow`, ... hold the rows.
The columns of each table:

| table | one row a | columns |
| --- | --- | --- |
| images | photo | `name` str, `width`, `height` int32, `digest` str |
| embeddings | photo | `embedding` float16 (D,) |
| neighbours | photo | `neighbour_ids` int32 (K,), `similarities` float32 (K,) |
| proposals | box as found | `image_id` int32, `box` float32 (4,) |
| rois | box as kept | `image_id` int32, `box` float32 (4,) |
| roi_embeddings | RoI | `embedding` float16 (D,) |
| correspondences | matched pair | `image_id`, `neighbour_id` int32, `roi`, `neighbour_roi` int64, `similarity` float32|

Rows come in the order of the photos, so that the rows of one photo are a slice: see `row_starts`. `roi` and
`neighbour_roi` are rows of rois.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy import ndarray

VERSION = 1
MANIFEST = "manifest.json"


class StaleTableError(ValueError):
    """A result on disk was made from something else than what is asked for now."""


def fingerprint(made_from: Mapping[str, Any]) -> str:
    """A short name of a set of inputs: the same inputs, the same name."""
    text = json.dumps(made_from, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """A short name of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a whole file under a temporary name, then rename it: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Table:
    """A finished table, memory-mapped."""

    folder: Path
    made_from: Mapping[str, Any]
    shards: tuple[pa.Table, ...]

    @property
    def fingerprint(self) -> str:
        """The name of what the table was made from."""
        return fingerprint(self.made_from)

    @property
    def num_rows(self) -> int:
        """Rows of all shards."""
        return sum(shard.num_rows for shard in self.shards)

    def column(self, name: str) -> ndarray:
        """One column of all shards; a view of the file where there is one shard only."""
        parts = [_to_numpy(shard.column(name)) for shard in self.shards]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def claim(folder: Path, made_from: Mapping[str, Any], overwrite: bool = False) -> None:
    """Take a folder for a result made from these inputs, or go on with one that was taken for them before.

    Args:
        folder: where the result lies; its manifest says what it is made from.
        made_from: everything that decides the result; JSON values only.
        overwrite: delete a result made from something else.

    Raises:
        StaleTableError: if the folder holds a result made from something else.
        ValueError: if the folder holds files and no manifest, and so is none of ours.
    """
    path = folder / MANIFEST
    manifest = {"version": VERSION, "fingerprint": fingerprint(made_from)}
    if path.exists():
        found = _read_manifest(path)
        if {key: found.get(key) for key in manifest} == manifest:
            return
        if not overwrite:
            raise StaleTableError(_difference(folder, found.get("made_from", {}), made_from))
        # The old manifest stays until all else is gone: a process killed here leaves a folder that is known as ours,
        # and stale.
        for part in folder.iterdir():
            if part != path:
                shutil.rmtree(part) if part.is_dir() else part.unlink()
    elif folder.exists() and any(part for part in folder.iterdir() if not part.name.endswith(".tmp")):
        raise ValueError(f"{folder} holds files without a {MANIFEST}, which are not ours to delete; move them away")
    write_atomically(path, json.dumps({**manifest, "made_from": made_from}, indent=1))


def begin(folder: Path, made_from: Mapping[str, Any], num_shards: int, overwrite: bool = False) -> list[int]:
    """Claim a folder for a table and list its missing shards; none when the table is finished.

    Raises:
        StaleTableError: as `claim`.
    """
    claim(folder, {**made_from, "num_shards": num_shards}, overwrite)
    return [index for index in range(num_shards) if not _shard_path(folder, index).exists()]


def write_shard(folder: Path, index: int, columns: Mapping[str, ndarray]) -> None:
    """Write one shard whole: a killed process leaves it or nothing."""
    table = pa.table({name: _to_arrow(values) for name, values in columns.items()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_atomically(_shard_path(folder, index), sink.getvalue().to_pybytes())


def load(folder: Path) -> Table:
    """Open a finished table.

    Raises:
        FileNotFoundError: if there is no table.
        ValueError: if it is unfinished, torn or of another version.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"no table at {folder}; make it with 'orl discover'")
    manifest = _read_manifest(path)
    if manifest.get("version") != VERSION:
        raise ValueError(
            f"table {folder} has version {manifest.get('version')}, this program reads {VERSION}; "
            "rebuild it with --overwrite"
        )
    shards = []
    for index in range(manifest["made_from"]["num_shards"]):
        shard = _shard_path(folder, index)
        if not shard.exists():
            raise ValueError(f"table {folder} lacks shard {shard.name}; run 'orl discover' again to finish it")
        try:
            shards.append(pa.ipc.open_file(pa.memory_map(str(shard))).read_all())
        except pa.ArrowInvalid as error:
            raise ValueError(f"shard {shard} cannot be read ({error}); delete it and run again") from error
    return Table(folder, manifest["made_from"], tuple(shards))


def finished_fingerprint(folder: Path) -> str | None:
    """The fingerprint of a finished table, None where there is none."""
    try:
        return load(folder).fingerprint
    except (FileNotFoundError, ValueError):
        return None


def row_starts(image_ids: ndarray, num_images: int) -> ndarray:
    """Where each photo's rows begin: photo `i` has the rows from `starts[i]` up to `starts[i + 1]`.

    Args:
        image_ids: the `image_id` column, which never falls.
        num_images: photos in all, with or without rows.

    Returns:
        `num_images + 1` row numbers.
    """
    return np.searchsorted(image_ids, np.arange(num_images + 1)).astype(np.int64)


def shard_slices(num_items: int, shard_size: int) -> list[slice]:
    """Which items go into which shard; one empty shard for no items."""
    return [slice(i, min(i + shard_size, num_items)) for i in range(0, max(1, num_items), shard_size)]


def _shard_path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.arrow"


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not a table's manifest ({error}); rebuild it with --overwrite") from error


def _difference(folder: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    changed = [
        f"{key}: was {found.get(key)!r}, now {asked.get(key)!r}"
        for key in sorted({*found, *asked})
        if found.get(key) != asked.get(key)
    ]
    what = "; ".join(changed) or "written by another version of orl"
    return f"stale: {folder} was made from something else ({what}). Rebuild it with --overwrite, or take another --out"


def _to_arrow(values: ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])


def _to_numpy(column: pa.ChunkedArray) -> ndarray:
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy().reshape(-1, array.type.list_size)
    return array.to_numpy(zero_copy_only=pa.types.is_primitive(array.type))
