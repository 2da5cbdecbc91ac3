"""Small image sets and their packs, for the tests of all that reads packs."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from orl.pipeline.pack import pack_images
from orl.pipeline.pack_options import PackOptions


def draw_images(folder: Path, count: int = 7, seed: int = 0) -> Path:
    """Smooth colour images of several sizes, as JPEG and PNG, one in a folder below and one turned by its EXIF tag."""
    generator = np.random.default_rng(seed)
    (folder / "deep er").mkdir(parents=True)
    for index in range(count):
        coarse = generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((60 + 5 * index, 48 + index), Image.Resampling.BICUBIC)
        name = f"deep er/é {index}.jpg" if index == 1 else f"{index}.jpg" if index % 2 else f"{index}.png"
        exif = Image.Exif()
        if index == 3:
            exif[0x0112] = 6
        image.save(folder / name, exif=exif)
    return folder


def pack(images: Path, to: Path, **options: Any) -> Path:
    """Write a pack of images of the original size in one shard, unless options say otherwise."""
    return pack_images(PackOptions(images=images, to=to, **{"short_side": None, "workers": 1, **options}))


def shards_of(folder: Path) -> dict[str, bytes]:
    """List the files of a pack's shards."""
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}
