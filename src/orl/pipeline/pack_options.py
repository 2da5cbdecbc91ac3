"""Options of `orl data pack`, in a module that imports little, for its help."""

from dataclasses import dataclass, field
from pathlib import Path

from orl.config import ScanConfig
from orl.datasets.packs import PackFormat


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """Options of `orl data pack`."""

    images: Path
    """Images: a folder (any tree), a list file, a COCO JSON or a VOC devkit."""
    to: Path
    """Folder of the pack; an unfinished pack is resumed."""
    split: str | None = None
    """Split of a VOC devkit, 'trainval' if not given; other sources have none."""
    short_side: int | None = 256
    """Short side that images are reduced to, pixels; smaller images keep their size; None keeps all sizes."""
    format: PackFormat = "pixels"
    """pixels: exact, read without decoding; jpeg: a seventh of the size, decoded when read (quality 95)."""
    shard_mb: int = 512
    """Size of a shard, megabytes: the most work that a killed job loses, and the memory that packing needs."""
    workers: int = 2
    """Processes of the scan, then threads of the packing."""
    overwrite: bool = False
    """Rebuild a pack of other images or options, instead of refusing."""
    scan: ScanConfig = field(default_factory=ScanConfig)

    def __post_init__(self) -> None:
        for name in ("short_side", "shard_mb"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
