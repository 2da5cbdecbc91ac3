"""Image table of a run: name, size and digest of every usable image; the row is the image id."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orl import files, provenance
from orl.datasets.decode import ImageError, load_image
from orl.datasets.packs import PackedImage, PackFormat, open_pack, shard_path


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """Usable images of a source, in a fixed order."""

    root: Path
    """Folder that the names start from, or the folder of a pack."""
    names: tuple[str, ...]
    """Path of each image below the root, with forward slashes; unique."""
    sizes_wh: tuple[tuple[int, int], ...]
    """Width and height of each image in pixels, after the EXIF orientation is applied."""
    digests: tuple[str, ...]
    """Short digest of the content of each file, or of each image of a pack."""
    packed: PackFormat | None = None
    """Format of the pack at the root; None for image files."""
    signatures: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """Size, times and inode of the file of each image, or of its shard of a pack, when it was scanned."""

    def __len__(self) -> int:
        return len(self.names)

    def path(self, image_id: int) -> Path | PackedImage:
        """Return the location of an image, as `load_image` takes it."""
        return PackedImage(self.root, self.names[image_id]) if self.packed else self.root / self.names[image_id]

    @property
    def fingerprint(self) -> str:
        """Compute the fingerprint of names and contents; moving the folder does not change it."""
        return provenance.fingerprint({"names": self.names, "digests": self.digests})


def file_signature(path: Path) -> str:
    """Return size, times and inode of a file: another content with an equal signature needs a clock set back.

    The signature of a missing file is empty.
    """
    try:
        found = path.stat()
    except (OSError, ValueError):
        return ""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def changed_images(images: ImageTable) -> list[str]:
    """List the images whose content is not what was scanned; missing files are found when they are read.

    Only files of another signature are read. Their digest decides, so that a copied or touched file is unchanged.

    Raises:
        ValueError: if a shard of a pack is missing, or truncated.
    """
    if images.packed:
        return _changed_in_pack(images)
    changed = []
    for name, digest, signature in zip(images.names, images.digests, images.signatures):
        path = images.root / name
        try:
            if file_signature(path) != signature and files.file_digest(path) != digest:
                changed.append(name)
        except OSError:
            continue
    return changed


def _changed_in_pack(images: ImageTable) -> list[str]:
    open_pack.cache_clear()
    pack = open_pack(images.root)
    signatures = [file_signature(shard_path(images.root, shard, pack.format)) for shard in range(pack.num_shards)]
    known = [pack.shard_of(name) if name in pack.rows else None for name in images.names]
    pairs = list(zip(known, images.signatures))
    read_again = {shard for shard, signature in pairs if shard is not None and signatures[shard] != signature}
    damaged = {name for shard in sorted(read_again) for name in pack.damaged(shard)}
    return [
        name
        for name, digest in zip(images.names, images.digests)
        if name in damaged or name not in pack.rows or pack.digests[pack.rows[name]] != digest
    ]


def require_unchanged(images: ImageTable) -> None:
    """Refuse to go on with an image that was replaced since the scan; unreadable ones are found when they are read.

    Raises:
        StaleResultError: if the content of an image is not what was scanned.
    """
    changed = changed_images(images)
    if not images.packed:
        changed = [name for name in changed if _is_readable(images.root / name)]
    if changed:
        raise provenance.StaleResultError(
            f"{len(changed)} images of {images.root} were replaced since they were scanned, such as {changed[0]}: put "
            "them back, rebuild with --overwrite, or use another folder"
        )


def _is_readable(path: Path) -> bool:
    try:
        load_image(path, None)
    except ImageError:
        return False
    return True


def require_original_sizes(images: ImageTable) -> None:
    """Refuse a pack of resized images for boxes that are in pixels of the original images.

    Raises:
        ValueError: if the images are in a pack that resized them.
    """
    if images.packed and open_pack(images.root).is_reduced:
        raise ValueError(
            f"boxes from a file are in pixels of the original images, but pack {images.root} has resized them: "
            "pack them with --short-side None, or use the image files"
        )


def save_image_table(images: ImageTable, path: Path) -> None:
    """Write the table to a Parquet file atomically."""
    columns = {
        "name": pa.array(images.names, pa.string()),
        "width": pa.array([width for width, _ in images.sizes_wh], pa.int32()),
        "height": pa.array([height for _, height in images.sizes_wh], pa.int32()),
        "digest": pa.array(images.digests, pa.string()),
    }
    if images.signatures:
        columns["signature"] = pa.array(images.signatures, pa.string())
    origin = {"root": str(images.root), "packed": images.packed}
    table = pa.table(columns).replace_schema_metadata({"orl": json.dumps(origin)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    files.write_atomically(path, sink.getvalue().to_pybytes())


def load_image_table(path: Path) -> ImageTable:
    """Read an image table from a Parquet file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not an image table.
    """
    if not path.exists():
        raise FileNotFoundError(f"no image table at {path}; 'orl run' or 'orl pretrain' makes it")
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        origin = json.loads(table.schema.metadata[b"orl"])
        names, widths, heights, digests = (table[name].to_pylist() for name in ("name", "width", "height", "digest"))
        signatures = table["signature"].to_pylist() if "signature" in table.column_names else []
        images = ImageTable(
            root=Path(origin["root"]),
            names=tuple(names),
            sizes_wh=tuple(zip(widths, heights)),
            digests=tuple(digests),
            packed=origin.get("packed"),
            signatures=tuple(signatures),
        )
        if not all(isinstance(text, str) for text in (*names, *digests, *signatures)):
            raise ValueError("a name or a digest is missing")
        if not all(type(side) is int and side > 0 for side in (*widths, *heights)):
            raise ValueError("the size of an image is not a positive whole number")
        if len(set(names)) < len(names) or images.packed not in (None, "pixels", "jpeg"):
            raise ValueError("a name is there twice, or the format of the pack is unknown")
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not an image table ({reason}); delete it and run again") from error
    return images
