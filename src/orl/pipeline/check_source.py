"""`orl data check`: read every image of a source and report sizes and unusable images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orl.config import ScanConfig
from orl.datasets.image_table import ImageTable
from orl.datasets.packs import is_pack, open_pack
from orl.datasets.sources import find_images
from orl.datasets.validation import Rejected, common_reasons, scan_images

MAX_LISTED = 20


@dataclass(frozen=True, kw_only=True)
class SourceCheck:
    """Usable and rejected images of a source."""

    images: ImageTable
    rejected: list[Rejected]


def check_source(source: Path, split: str | None, limits: ScanConfig, workers: int) -> SourceCheck:
    """Read every image of a source; for a pack, compare every checksum.

    Raises:
        FileNotFoundError: if the source is missing.
        ValueError: if the source lists no image, or is an unfinished or damaged pack.
    """
    root, names = find_images(source, split)
    limit = int(limits.max_megapixels * 1e6)
    images, rejected = scan_images(root, names, min_side_px=limits.min_side_px, max_pixels=limit, workers=workers)
    return SourceCheck(images=images, rejected=rejected)


def format_check(check: SourceCheck) -> str:
    """Format the result in a few lines."""
    images, rejected = check.images, check.rejected
    lines = [f"{len(images)} of {len(images) + len(rejected)} images of {images.root} can be used"]
    if rejected:
        lines.append(f"rejected: {common_reasons(rejected)}")
        lines += [f"  {image.name}: {image.reason}" for image in rejected[:MAX_LISTED]]
        lines += [f"  and {len(rejected) - MAX_LISTED} more"] if len(rejected) > MAX_LISTED else []
    if len(images):
        sides = np.sort(np.array(images.sizes_wh), axis=1)
        short, long = (np.percentile(sides[:, column], (0, 50, 100)).astype(int) for column in (0, 1))
        lines.append(f"short side {short[0]} to {short[2]} px, median {short[1]}")
        lines.append(f"long side {long[0]} to {long[2]} px, median {long[1]}")
    return "\n".join([*lines, *(_pack_lines(images.root) if is_pack(images.root) else [])])


def _pack_lines(folder: Path) -> list[str]:
    pack = open_pack(folder)
    side = pack.inputs["short_side"]
    reduced = "at their own size" if side is None else f"reduced to a short side of {side} px"
    return [
        f"pack of {pack.num_shards} shards, {pack.num_bytes / 1e6:.1f} MB, format {pack.format}, images {reduced}",
        "all checksums are correct",
    ]
