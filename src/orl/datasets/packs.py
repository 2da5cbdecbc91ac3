"""A pack: images of a set size, one after another in a few memory-mapped files, read with little or no decoding.

A pack is a folder:

| file | what |
| --- | --- |
| `manifest.json` | the settings that it was made with |
| `images.parquet`, `rejected.csv` | the images that it was made from, as the scan found them |
| `shards/` | a table with one row an image; beside `00000.arrow` the images: `00000.pixels` or `00000.jpegs` |

The columns of the table: `name` str, `width`, `height`, `original_width`, `original_height` int32, `original_digest`,
`digest` str (of name, size and bytes as packed), `offset`, `num_bytes` int64 (in the shard's file).
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
"""Files of one pack that are mapped at a time: each holds a file descriptor, of which a process often has 1,024."""

PackFormat = Literal["pixels", "jpeg"]
SHARD_EXTENSIONS: Mapping[PackFormat, str] = {"pixels": ".pixels", "jpeg": ".jpegs"}


class PackedImage(NamedTuple):
    """An image in a pack, which stands where the path of an image does; nothing but names goes to another process."""

    folder: Path
    """The pack."""
    name: str
    """As the image was called before."""

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}"

    def stored(self) -> "Stored":
        """Its bytes.

        Raises:
            FileNotFoundError, ValueError: if there is no such image, or the pack is damaged.
        """
        return open_pack(self.folder).stored(self.name)


class Stored(NamedTuple):
    """What a pack holds of an image."""

    format: PackFormat
    size_wh: tuple[int, int]
    data: memoryview
    """The RGB bytes row by row, or those of a JPEG file: a view of the mapped shard; to change it changes no file."""


def pack_digest(name: str, size_wh: tuple[int, int], data: bytes) -> str:
    """A short name of a packed image: of what it is called, its size and its bytes."""
    digest = hashlib.sha256(f"{name}\n{size_wh[0]}x{size_wh[1]}\n".encode())
    digest.update(data)
    return digest.hexdigest()[:16]


def is_pack(folder: Path) -> bool:
    """Whether a folder was made by 'orl data pack', finished or not."""
    try:
        return json.loads((folder / provenance.MANIFEST).read_text())["inputs"]["kind"] == KIND
    except (OSError, ValueError, KeyError, TypeError):
        return False


def shard_path(folder: Path, index: int, format: PackFormat) -> Path:
    """The file with the images of a shard."""
    return folder / SHARDS / f"{index:05d}{SHARD_EXTENSIONS[format]}"


@dataclass(frozen=True)
class Pack:
    """A finished pack; no image of it is in memory but what was asked for, or `hold_in_memory` brought there."""

    folder: Path
    inputs: Mapping[str, Any]
    """The settings, and the fingerprint of the images that it was made from."""
    names: tuple[str, ...]
    sizes_wh: Int[ndarray, "n 2"]
    original_sizes_wh: Int[ndarray, "n 2"]
    digests: tuple[str, ...]
    extents: Int[ndarray, "n 2"]
    """Where the bytes of each image begin in its shard, and where they end."""
    shard_starts: Int[ndarray, "_"]
    """The first image of each shard, and the number of images after the last."""
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
        """Whether `hold_in_memory` has read it."""
        return bool(self._in_memory)

    @property
    def is_reduced(self) -> bool:
        """Whether any image is smaller than it was."""
        return not np.array_equal(self.sizes_wh, self.original_sizes_wh)

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each name."""
        return {name: row for row, name in enumerate(self.names)}

    def stored(self, name: str) -> Stored:
        """The bytes of an image.

        Raises:
            ValueError: if there is no such image, or its shard is missing or torn.
        """
        if name not in self.rows:
            raise ValueError(f"pack {self.folder} holds no image {name!r}, only {len(self.names)} others")
        row = self.rows[name]
        shard = int(np.searchsorted(self.shard_starts, row, side="right")) - 1
        begin, end = self.extents[row].tolist()
        pages = self._in_memory[shard] if self._in_memory else self._map(shard)
        width, height = self.sizes_wh[row].tolist()
        return Stored(self.format, (width, height), memoryview(pages)[begin:end])

    def load_into_memory(self) -> None:
        """Read all shards into memory that processes forked from this one share; one that is not reads the files."""
        for shard in range(self.num_shards) if not self._in_memory else ():
            num_bytes = self.shard_bytes(shard)
            pages = mmap.mmap(-1, max(1, num_bytes))
            with open(self._checked_path(shard), "rb") as file:
                file.readinto(memoryview(pages)[:num_bytes])
            self._in_memory.append(pages)

    def is_complete(self, shard: int) -> bool:
        """Whether the file of a shard is there in its full length."""
        path = shard_path(self.folder, shard, self.format)
        return path.is_file() and path.stat().st_size == self.shard_bytes(shard)

    def shard_bytes(self, shard: int) -> int:
        """How long the file of a shard should be."""
        rows = self.extents[self.shard_starts[shard] : self.shard_starts[shard + 1]]
        return int(rows[-1, 1]) if len(rows) else 0

    @property
    def num_bytes(self) -> int:
        """Bytes of all images."""
        return sum(map(self.shard_bytes, range(self.num_shards)))

    def damaged(self, shard: int) -> Iterator[str]:
        """The images of a shard whose bytes are not those that were packed.

        Raises:
            ValueError: if the shard is missing or torn.
        """
        with open(self._checked_path(shard), "rb") as file:
            for row in range(*self.shard_starts[shard : shard + 2].tolist()):
                begin, end = self.extents[row].tolist()
                width, height = self.sizes_wh[row].tolist()
                if pack_digest(self.names[row], (width, height), file.read(end - begin)) != self.digests[row]:
                    yield self.names[row]

    def repair(self, shard: int) -> str:
        """What to do about a shard that is damaged, for errors."""
        return f"delete {shard_path(self.folder, shard, self.format)} and give the 'orl data pack' command of it again"

    def _map(self, shard: int) -> mmap.mmap:
        if shard in self._open:
            return self._open[shard]
        while len(self._open) >= MAX_MAPPED_SHARDS:
            # Unmapped, and its file closed, as soon as the last view of it is gone.
            self._open.popitem(last=False)
        with open(self._checked_path(shard), "rb") as file:
            # Copied where written: images may be changed in place, as those of files may, and the file stays.
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
            torn = next((self.names[row] for row in rows if self.extents[row, 1] > found), "none")
            raise ValueError(
                f"shard {path} is torn: it has {found} bytes, not {expected}, and the first image that is not whole is "
                f"{torn}; {self.repair(shard)}"
            )
        return path


@lru_cache(maxsize=8)
def open_pack(folder: Path) -> Pack:
    """A finished pack, opened once in each process. Whoever changes a pack calls `open_pack.cache_clear`.

    Raises:
        ValueError: if it is not a pack, unfinished, or its table is damaged.
    """
    manifest, shards = folder / provenance.MANIFEST, folder / SHARDS
    if not is_pack(folder):
        raise ValueError(f"{folder} is not a pack: it lacks a {provenance.MANIFEST} of 'orl data pack'")
    settings = json.loads(manifest.read_text())["inputs"]
    if settings["pack_version"] != PACK_VERSION:
        raise ValueError(
            f"pack {folder} has version {settings['pack_version']}, this program reads {PACK_VERSION}; make it again with "
            "'orl data pack --overwrite'"
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
    """Read every image of a pack and compare it with its checksum.

    Args:
        pack: a finished pack.
        workers: threads that read.
        quiet: show no progress bar.

    Raises:
        ValueError: if a shard is missing, torn or altered; names it and an image in it.
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
        others = f" (and {len(altered) - 1} other shards: 'orl data check' tells them in turn)" if altered[1:] else ""
        raise ValueError(
            f"shard {shard_path(pack.folder, altered[0], pack.format)} was altered: {len(names)} of its images, such "
            f"as {names[0]}, do not have their checksum{others}; {pack.repair(altered[0])}"
        )


def check_finished(folder: Path) -> None:
    """Refuse a pack that 'orl data pack' has not finished.

    Raises:
        ValueError: if shards are missing, with how many are there.
    """
    manifest = folder / SHARDS / provenance.MANIFEST
    num_shards = json.loads(manifest.read_text())["inputs"]["num_shards"] if manifest.exists() else None
    num_found = len(list(manifest.parent.glob("*.arrow")))
    if num_shards is None or num_found < num_shards:
        raise ValueError(
            f"pack {folder} is unfinished: {num_found} of {num_shards or '?'} shards are there; give its "
            "'orl data pack' command again, which goes on from here"
        )
