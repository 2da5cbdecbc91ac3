"""A folder with hundreds of good, damaged and odd files: good images are used, the others rejected with a reason."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orl.datasets.decode import load_image
from orl.datasets.sources import find_images
from orl.datasets.validation import scan_images

pytestmark = pytest.mark.slow
FORMATS = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP", "gif": "GIF", "tif": "TIFF"}
LIMITS = {"min_side_px": 32, "max_pixels": 1_000_000, "quiet": True}


def png_header(width: int, height: int) -> bytes:
    """Return the beginning of a PNG that claims a size (layout: the PNG specification, chunk IHDR)."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def fill(root: Path, seed: int) -> tuple[dict[str, tuple[int, int]], set[str], set[str]]:
    """Write the files.

    Returns:
        Size of each good image; names of the images that must be rejected; names of images with flipped bits, which may
        go either way.
    """
    generator = np.random.default_rng(seed)
    good, bad, flipped = {}, set(), set()
    for index in range(8):
        for ending, format in FORMATS.items():
            width, height = map(int, generator.integers(40, 120, 2))
            noise = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
            name = f"{generator.choice(['a b', 'ä', 'deep/er', 'x'])}/{index}.{ending}"
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise).save(path, format)
            good[name] = (width, height)
            data = path.read_bytes()
            (path.parent / f"cut{index}.{ending}").write_bytes(data[: int(len(data) * generator.uniform(0, 0.5))])
            bad.add(f"{path.parent.relative_to(root)}/cut{index}.{ending}")
            for copy in range(3):
                changed = bytearray(data)
                changed[int(generator.integers(len(data)))] ^= 1 << int(generator.integers(8))
                (path.parent / f"flip{index}_{copy}.{ending}").write_bytes(changed)
                flipped.add(f"{path.parent.relative_to(root)}/flip{index}_{copy}.{ending}")
    odd = {
        "text.jpg": b"not an image",
        "page.png": b"<!DOCTYPE html><html></html>",
        "noise.jpg": generator.bytes(4000),
        "empty.webp": b"",
        "bomb.png": png_header(60_000, 60_000),
        "huge.png": png_header(2**31 - 1, 2**31 - 1),
        "script.gif": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n",
    }
    for name, data in odd.items():
        (root / name).write_bytes(data)
    Image.new("RGB", (20, 90)).save(root / "thin.png")
    (root / "broken.jpg").symlink_to("nothing.jpg")
    (root / "loop.jpg").symlink_to("loop.jpg")
    bad |= {*odd, "thin.png", "broken.jpg", "loop.jpg"}
    # None of these is an image: a folder and a pipe with the ending of one, hidden files, other kinds.
    (root / "folder.jpg").mkdir()
    os.mkfifo(root / "pipe.jpg")
    (root / ".hidden.jpg").write_bytes(b"hidden")
    (root / "notes.txt").write_text("notes")
    return good, bad, flipped


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_good_images_are_used_and_all_others_rejected_with_a_reason(tmp_path: Path, seed: int) -> None:
    good, bad, flipped = fill(tmp_path, seed)
    root, names = find_images(tmp_path)
    assert set(good) | flipped <= set(names)
    table, rejected = scan_images(root, names, workers=2, **LIMITS)
    accepted = dict(zip(table.names, table.sizes_wh))
    reasons = {each.name: each.reason for each in rejected}
    assert {name: accepted.get(name) for name in good} == good, "a good image is used, at its size"
    assert bad & set(accepted) == set()
    assert set(accepted) - set(good) <= flipped
    assert set(accepted) | set(reasons) == set(names)
    assert all(reason and "\n" not in reason for reason in reasons.values())
    for name in sorted(flipped & set(accepted)):  # what the scan accepts can be read again, with the same size
        assert load_image(tmp_path / name).shape[1::-1] == accepted[name]
