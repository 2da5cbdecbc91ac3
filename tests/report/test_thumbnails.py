import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orl.datasets.decode import ImageError
from orl.datasets.image_table import ImageTable
from orl.report.thumbnails import LONG_SIDE_PX, MAX_BYTES, Thumbnail, Thumbnails


def thumbnails_of(folder: Path, *images: np.ndarray) -> Thumbnails:
    names = tuple(f"{index}.png" for index in range(len(images)))
    for name, image in zip(names, images):
        Image.fromarray(image).save(folder / name)
    sizes_wh = tuple((image.shape[1], image.shape[0]) for image in images)
    return Thumbnails(ImageTable(root=folder, names=names, sizes_wh=sizes_wh, digests=names))


def jpeg(shown: Thumbnail) -> bytes:
    return base64.b64decode(shown.uri.removeprefix("data:image/jpeg;base64,"))


@pytest.mark.parametrize(
    ("size_wh", "thumbnail_wh"), [((2000, 1500), (480, 360)), ((300, 1200), (120, 480)), ((90, 60), (90, 60))]
)
def test_a_large_image_is_resized_and_a_small_one_keeps_its_size(tmp_path, size_wh, thumbnail_wh):
    shown = thumbnails_of(tmp_path, np.full((size_wh[1], size_wh[0], 3), 77, np.uint8)).get(0)
    assert (shown.size_wh, shown.image_size_wh) == (thumbnail_wh, size_wh)
    with Image.open(io.BytesIO(jpeg(shown))) as image:
        assert image.size == thumbnail_wh
        np.testing.assert_allclose(np.asarray(image), 77, atol=2)  # JPEG rounds


def test_a_thumbnail_of_noise_is_within_the_size_limit(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (360, LONG_SIDE_PX, 3), dtype=np.uint8)
    assert len(jpeg(thumbnails_of(tmp_path, noise).get(0))) <= MAX_BYTES


def test_an_image_has_one_thumbnail_however_often_it_is_shown(tmp_path):
    thumbnails = thumbnails_of(tmp_path, *(np.full((8, 8, 3), value, np.uint8) for value in (0, 100, 200)))
    assert thumbnails.get(2) is thumbnails.get(2)
    assert thumbnails.get_all([0, 2]) == [thumbnails.made[0], thumbnails.made[2]]
    assert {image_id: each.name for image_id, each in thumbnails.made.items()} == {0: "images-0-0", 2: "images-0-2"}


def test_an_image_whose_size_has_changed_is_refused(tmp_path):
    thumbnails = thumbnails_of(tmp_path, np.zeros((60, 90, 3), np.uint8))
    Image.new("RGB", (91, 60)).save(tmp_path / "0.png")
    with pytest.raises(ImageError, match=r"0\.png: has 91x60 px, and had 90x60 when the images were scanned"):
        thumbnails.get(0)
