"""Pack: resized images in a few memory-mapped files, which are read with little or no decoding.

A pack is a folder:

| file | content |
| --- | --- |
| `manifest.json` | the options of `orl data pack` |
| `images.parquet`, `rejected.csv` | the scan of the source images |
| `shards/` | a table with one row per image (`00000.arrow`), and the images (`00000.pixels` or `00000.jpegs`) |

The columns of the table: `name` str, `width`, `height`, `original_width`, `original_height` int32, `original_digest`,
`digest` str (of name, size and packed bytes), `offset`, `num_bytes` int64 (in the file of the shard).
"""

import hashlib
import json
import mmap
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from orl import provenance, tables
from orl.datasets.threads import map_in_threads
from orl.progress import progress_bar

KIND = "image pack"
PACK_VERSION = 1
SHARDS = "shards"
MAX_MAPPED_SHARDS = 512
"""Files of one pack that are mapped at a time; each uses a file descriptor, and the limit is often 1,024."""

PackFormat = Literal["pixels", "jpeg"]
SHARD_EXTENSIONS: Mapping[PackFormat, str] = {"pixels": ".pixels", "jpeg": ".jpegs"}


class PackedImage(NamedTuple):
    """An image of a pack, used in place of a path; only its name is sent to other processes."""

    folder: Path
    """The pack."""
    name: str
    """Name of the image in the source of the pack."""

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}"

    def stored(self) -> "Stored":
        """Return the packed bytes of the image.

        Raises:
            ValueError: if there is no such image, or the pack is damaged.
        """
        return open_pack(self.folder).stored(self.name)


class Stored(NamedTuple):
    """Packed bytes of an image."""

    format: PackFormat
    size_wh: tuple[int, int]
    data: memoryview
    """RGB bytes row by row, or a JPEG file: a view of the mapped shard. Writing to it does not change the file."""


def pack_digest(name: str, size_wh: tuple[int, int], data: bytes) -> str:
    """Compute the short digest of a packed image from its name, size and bytes."""
    digest = hashlib.sha256(f"{name}\n{size_wh[0]}x{size_wh[1]}\n".encode())
    digest.update(data)
    return digest.hexdigest()[:16]


def is_pack(folder: Path) -> bool:
    """Return True if the folder was written by 'orl data pack', finished or not."""
    try:
        return json.loads((folder / provenance.MANIFEST).read_text())["inputs"]["kind"] == KIND
    except (OSError, ValueError, KeyError, TypeError):
        return False


def shard_path(folder: Path, index: int, format: PackFormat) -> Path:
    """Return the file with the images of a shard."""
    return folder / SHARDS / f"{index:05d}{SHARD_EXTENSIONS[format]}"


@dataclass(frozen=True)
class Pack:
    """A finished pack; images are read on demand, or all at once by `load_into_memory`."""

    folder: Path
    inputs: Mapping[str, Any]
    """Options of `orl data pack`, and the fingerprint of the source images."""
    names: tuple[str, ...]
    sizes_wh: Int[ndarray, "n 2"]
    original_sizes_wh: Int[ndarray, "n 2"]
    digests: tuple[str, ...]
    extents: Int[ndarray, "n 2"]
    """First byte of each image in its shard, and the byte after the last."""
    shard_starts: Int[ndarray, "_"]
    """First image of each shard, followed by the number of images."""
    _open: OrderedDict[int, mmap.mmap] = field(default_factory=OrderedDict, init=False, repr=False, compare=False)
    _in_memory: list[mmap.mmap] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def format(self) -> PackFormat:
        return self.inputs["format"]

    @property
    def num_shards(self) -> int:
        return len(self.shard_starts) - 1

    @property
    def is_in_memory(self) -> bool:
        """Return True after `load_into_memory`."""
        return bool(self._in_memory)

    @property
    def is_reduced(self) -> bool:
        """Return True if any image is smaller than its source."""
        return not np.array_equal(self.sizes_wh, self.original_sizes_wh)

    @cached_property
    def rows(self) -> dict[str, int]:
        """Return the row of each name."""
        return {name: row for row, name in enumerate(self.names)}

    def stored(self, name: str) -> Stored:
        """Return the packed bytes of an image.

        Raises:
            ValueError: if there is no such image, or its shard is missing or truncated.
        """
        if name not in self.rows:
            raise ValueError(f"pack {self.folder} has no image {name!r} among its {len(self.names)} images")
        row, shard = self.rows[name], self.shard_of(name)
        begin, end = self.extents[row].tolist()
        pages = self._in_memory[shard] if self._in_memory else self._map(shard)
        width, height = self.sizes_wh[row].tolist()
        return Stored(self.format, (width, height), memoryview(pages)[begin:end])

    def shard_of(self, name: str) -> int:
        """Return the shard that holds an image."""
        return int(np.searchsorted(self.shard_starts, self.rows[name], side="right")) - 1

    def load_into_memory(self) -> None:
        """Read all shards into memory, which forked processes share; spawned processes read the files."""
        for shard in range(self.num_shards) if not self._in_memory else ():
            num_bytes = self.shard_bytes(shard)
            pages = mmap.mmap(-1, max(1, num_bytes))
            with open(self._checked_path(shard), "rb") as file:
                file.readinto(memoryview(pages)[:num_bytes])
            self._in_memory.append(pages)

    def is_complete(self, shard: int) -> bool:
        """Return True if the file of a shard exists in its full length."""
        path = shard_path(self.folder, shard, self.format)
        return path.is_file() and path.stat().st_size == self.shard_bytes(shard)

    def shard_bytes(self, shard: int) -> int:
        """Return the expected length of the file of a shard."""
        rows = self.extents[self.shard_starts[shard] : self.shard_starts[shard + 1]]
        return int(rows[-1, 1]) if len(rows) else 0

    @property
    def num_bytes(self) -> int:
        """Return the number of bytes of all images."""
        return sum(map(self.shard_bytes, range(self.num_shards)))

    def damaged(self, shard: int) -> Iterator[str]:
        """Yield the images of a shard whose bytes do not have the recorded digest.

        Raises:
            ValueError: if the shard is missing or truncated.
        """
        with open(self._checked_path(shard), "rb") as file:
            for row in range(*self.shard_starts[shard : shard + 2].tolist()):
                begin, end = self.extents[row].tolist()
                width, height = self.sizes_wh[row].tolist()
                if pack_digest(self.names[row], (width, height), file.read(end - begin)) != self.digests[row]:
                    yield self.names[row]

    def repair(self, shard: int) -> str:
        """Return the advice for a damaged shard in error messages."""
        return f"delete {shard_path(self.folder, shard, self.format)} and run its 'orl data pack' command again"

    def _map(self, shard: int) -> mmap.mmap:
        if shard in self._open:
            return self._open[shard]
        while len(self._open) >= MAX_MAPPED_SHARDS:
            # The file is unmapped and closed with the last view of it.
            self._open.popitem(last=False)
        with open(self._checked_path(shard), "rb") as file:
            # Copy on write: images may be changed in place, as decoded files may, without a change of the file.
            self._open[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._open[shard]

    def _checked_path(self, shard: int) -> Path:
        path, expected = shard_path(self.folder, shard, self.format), self.shard_bytes(shard)
        try:
            found = path.stat().st_size
        except FileNotFoundError as error:
            raise ValueError(f"pack {self.folder} lacks shard {path.name}; {self.repair(shard)}") from error
        if found != expected:
            rows = range(*self.shard_starts[shard : shard + 2].tolist())
            first_damaged = next((self.names[row] for row in rows if self.extents[row, 1] > found), "none")
            raise ValueError(
                f"shard {path} is truncated: it has {found} bytes, not {expected}; the first damaged image is "
                f"{first_damaged}; {self.repair(shard)}"
            )
        return path


@lru_cache(maxsize=8)
def open_pack(folder: Path) -> Pack:
    """Open a finished pack, once in each process; call `open_pack.cache_clear` after a change of the pack.

    Raises:
        ValueError: if the folder is not a pack, the pack is unfinished, or its table is damaged.
    """
    manifest, shards = folder / provenance.MANIFEST, folder / SHARDS
    if not is_pack(folder):
        raise ValueError(f"{folder} is not a pack: it lacks the {provenance.MANIFEST} of 'orl data pack'")
    options = json.loads(manifest.read_text())["inputs"]
    if options["pack_version"] != PACK_VERSION:
        raise ValueError(
            f"pack {folder} has version {options['pack_version']}, this program reads {PACK_VERSION}; pack the images "
            "again with 'orl data pack --overwrite'"
        )
    check_finished(folder)
    table = tables.load(shards)
    offsets = table.column("offset")
    return Pack(
        folder=folder,
        inputs=table.inputs,
        names=tuple(table.column("name").tolist()),
        digests=tuple(table.column("digest").tolist()),
        sizes_wh=np.stack([table.column("width"), table.column("height")], axis=1),
        original_sizes_wh=np.stack([table.column("original_width"), table.column("original_height")], axis=1),
        extents=np.stack([offsets, offsets + table.column("num_bytes")], axis=1),
        shard_starts=table.shard_starts,
    )


def check_pack(pack: Pack, *, workers: int = 1, quiet: bool = False) -> None:
    """Read every image of a pack and compare its digest.

    Args:
        pack: a finished pack.
        workers: number of threads.
        quiet: show no progress bar.

    Raises:
        ValueError: if a shard is missing, truncated or altered.
    """
    found: list[list[str]] = []
    images = np.diff(pack.shard_starts).tolist()
    with progress_bar(total=len(pack.names), title="check pack", unit="images", quiet=quiet) as bar:

        def take(names: list[str]) -> None:
            found.append(names)
            bar.update(images[len(found) - 1])

        map_in_threads(lambda shard: list(pack.damaged(shard)), range(pack.num_shards), workers, take)
    altered = [shard for shard, names in enumerate(found) if names]
    if altered:
        names = found[altered[0]]
        others = (
            f" (and {len(altered) - 1} other shards: run 'orl data check' again after the repair)"
            if altered[1:]
            else ""
        )
        raise ValueError(
            f"shard {shard_path(pack.folder, altered[0], pack.format)} was altered: {len(names)} of its images, such "
            f"as {names[0]}, do not have their recorded digest{others}; {pack.repair(altered[0])}"
        )


def check_finished(folder: Path) -> None:
    """Refuse a pack that 'orl data pack' has not finished.

    Raises:
        ValueError: if shards are missing.
    """
    manifest = folder / SHARDS / provenance.MANIFEST
    num_shards = json.loads(manifest.read_text())["inputs"]["num_shards"] if manifest.exists() else None
    num_found = len(list(manifest.parent.glob("*.arrow")))
    if num_shards is None or num_found < num_shards:
        raise ValueError(
            f"pack {folder} is unfinished: {num_found} of {num_shards or '?'} shards exist; run its "
            "'orl data pack' command again to finish it"
        )
