"""Image table of a run: name, size and digest of every usable image; the row is the image id."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orl import files, provenance
from orl.datasets.packs import PackedImage, PackFormat, open_pack


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

    def __len__(self) -> int:
        return len(self.names)

    def path(self, image_id: int) -> Path | PackedImage:
        """Return the location of an image, as `load_image` takes it."""
        return PackedImage(self.root, self.names[image_id]) if self.packed else self.root / self.names[image_id]

    @property
    def fingerprint(self) -> str:
        """Compute the fingerprint of names and contents; moving the folder does not change it."""
        return provenance.fingerprint({"names": self.names, "digests": self.digests})


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
    origin = {"root": str(images.root), "packed": images.packed}
    table = pa.table(columns).replace_schema_metadata({"orl": json.dumps(origin)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
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
        table = pq.read_table(path)
        origin = json.loads(table.schema.metadata[b"orl"])
        root = origin["root"]
    except (pa.ArrowInvalid, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not an image table ({error}); delete it and run again") from error
    return ImageTable(
        root=Path(root),
        names=tuple(table["name"].to_pylist()),
        sizes_wh=tuple(zip(table["width"].to_pylist(), table["height"].to_pylist())),
        digests=tuple(table["digest"].to_pylist()),
        packed=origin.get("packed"),
    )
