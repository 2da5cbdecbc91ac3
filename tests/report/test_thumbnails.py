import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orl.datasets.decode import ImageError
from orl.datasets.image_table import ImageTable
from orl.report.thumbnails import LONG_SIDE_PX, MAX_BYTES, Album, Thumbnail


def album_of(folder: Path, *images: np.ndarray) -> Album:
    names = tuple(f"{index}.png" for index in range(len(images)))
    for name, image in zip(names, images):
        Image.fromarray(image).save(folder / name)
    sizes_wh = tuple((image.shape[1], image.shape[0]) for image in images)
    return Album(ImageTable(root=folder, names=names, sizes_wh=sizes_wh, digests=names))


def jpeg(shown: Thumbnail) -> bytes:
    return base64.b64decode(shown.uri.removeprefix("data:image/jpeg;base64,"))


@pytest.mark.parametrize(
    ("size_wh", "shown_wh"), [((2000, 1500), (480, 360)), ((300, 1200), (120, 480)), ((90, 60), (90, 60))]
)
def test_a_large_image_is_made_smaller_and_a_small_one_stays(tmp_path, size_wh, shown_wh):
    shown = album_of(tmp_path, np.full((size_wh[1], size_wh[0], 3), 77, np.uint8)).thumbnail(0)
    assert (shown.size_wh, shown.image_size_wh) == (shown_wh, size_wh)
    with Image.open(io.BytesIO(jpeg(shown))) as image:
        assert image.size == shown_wh
        np.testing.assert_allclose(np.asarray(image), 77, atol=2)  # JPEG rounds


def test_noise_costs_no_more_than_other_images(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (360, LONG_SIDE_PX, 3), dtype=np.uint8)
    assert len(jpeg(album_of(tmp_path, noise).thumbnail(0))) <= MAX_BYTES


def test_per_image_that_was_asked_for_twice_is_held_once(tmp_path):
    album = album_of(tmp_path, *(np.full((8, 8, 3), value, np.uint8) for value in (0, 100, 200)))
    assert album.thumbnail(2) is album.thumbnail(2)
    album.thumbnails([0, 2])
    definitions = album.definitions()
    assert definitions.count("<image ") == 2
    assert 'id="image-0"' in definitions
    assert 'id="image-1"' not in definitions


def test_per_image_of_another_size_than_scanned_is_refused(tmp_path):
    album = album_of(tmp_path, np.zeros((60, 90, 3), np.uint8))
    Image.new("RGB", (91, 60)).save(tmp_path / "0.png")
    with pytest.raises(ImageError, match=r"0\.png: has another size than when it was scanned"):
        album.thumbnail(0)
