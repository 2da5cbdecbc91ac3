"""The images of a run: names, sizes and digests, as the scan found them; the row number is the image's id."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orl import files, provenance
from orl.datasets.packs import PackedImage, PackFormat, open_pack


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """The usable images of a source, in a fixed order."""

    root: Path
    """Folder that the names start from, or a pack."""
    names: tuple[str, ...]
    """Path of each image below the root, with forward slashes; unique."""
    sizes_wh: tuple[tuple[int, int], ...]
    """Width and height of each image in pixels, right side up."""
    digests: tuple[str, ...]
    """Short digest of each file's content, or of the pixels in a pack."""
    packed: PackFormat | None = None
    """How the pack that is the root holds its images; None where they are files."""

    def __len__(self) -> int:
        return len(self.names)

    def path(self, image_id: int) -> Path | PackedImage:
        """Where the image lies: what `load_image` takes."""
        return PackedImage(self.root, self.names[image_id]) if self.packed else self.root / self.names[image_id]

    @property
    def fingerprint(self) -> str:
        """Changes when an image is added, removed, renamed or edited; not when the folder moves."""
        return provenance.fingerprint({"names": self.names, "digests": self.digests})


def require_original_sizes(images: ImageTable) -> None:
    """Refuse images that were reduced, where boxes come from elsewhere.

    Raises:
        ValueError: if they are those of a pack that reduced them.
    """
    if images.packed and open_pack(images.root).is_reduced:
        raise ValueError(
            f"boxes from a file are in pixels of the images as they were, and pack {images.root} has reduced them: "
            "pack them with --short-side None, or give the images themselves"
        )


def save_image_table(images: ImageTable, path: Path) -> None:
    """Write the table as one Parquet file, whole or not at all."""
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
    """Read what `save_image_table` wrote.

    Raises:
        FileNotFoundError: if there is none yet.
        ValueError: if the file is not such a table.
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
