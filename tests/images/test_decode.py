"""Every kind of photo comes in right side up as RGB, and every kind of damage is named."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from orl.images import decode as decode_module
from orl.images.decode import PhotoError, load_photo

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners(photo: np.ndarray) -> list[tuple[int, ...]]:
    """The colours at top left, top right and bottom left."""
    return [tuple(photo[y, x].tolist()) for y, x in ((0, 0), (0, -1), (-1, 0))]


def asymmetric() -> Image.Image:
    """40x24 px: red at the top left, green at the top right, blue at the bottom left."""
    photo = Image.new("RGB", (40, 24), WHITE)
    for colour, place in ((RED, (0, 0)), (GREEN, (32, 0)), (BLUE, (0, 16))):
        photo.paste(colour, (*place, place[0] + 8, place[1] + 8))
    return photo


def saved(path: Path, image: Image.Image, **options: object) -> np.ndarray:
    image.save(path, **options)
    return load_photo(path)


def test_rgb_comes_in_as_it_is(tmp_path: Path) -> None:
    photo = saved(tmp_path / "a.png", asymmetric())
    assert photo.shape == (24, 40, 3)
    assert corners(photo) == [RED, GREEN, BLUE]
    assert photo.flags.writeable


TURNS = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_every_exif_orientation_is_turned_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](np.asarray(asymmetric()))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {".jpg": {"quality": 95, "subsampling": 0}, ".webp": {"lossless": True}}.get(suffix, {})
    photo = saved(tmp_path / f"turned{suffix}", stored, exif=exif, **options)
    assert photo.shape == (24, 40, 3)
    # JPEG moves flat colours by a few values.
    np.testing.assert_allclose(corners(photo), [RED, GREEN, BLUE], atol=8)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 77, (77, 77, 77)),
        ("1", 1, WHITE),
        ("LA", (0, 128), (127, 127, 127)),
        ("RGBA", (255, 0, 0, 0), WHITE),
        ("RGBA", (255, 0, 0, 255), RED),
    ],
)
def test_gray_and_transparent_photos_become_rgb_over_white(
    tmp_path: Path, mode: str, value: object, expected: tuple[int, int, int]
) -> None:
    photo = saved(tmp_path / "a.png", Image.new(mode, (6, 5), value))
    assert photo.shape == (5, 6, 3)
    np.testing.assert_allclose(photo[2, 2], expected, atol=1)


def test_palettes_with_and_without_transparency(tmp_path: Path) -> None:
    palette = asymmetric().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    assert corners(saved(tmp_path / "a.png", palette)) == [RED, GREEN, BLUE]
    one = Image.new("P", (4, 4), 1)
    one.putpalette([0, 0, 0, 10, 200, 30])
    assert saved(tmp_path / "b.png", one)[0, 0].tolist() == [10, 200, 30]
    assert saved(tmp_path / "c.png", one, transparency=1)[0, 0].tolist() == [255, 255, 255]


def test_cmyk_is_converted(tmp_path: Path) -> None:
    photo = saved(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=95)
    np.testing.assert_allclose(photo[8, 8], RED, atol=4)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    for suffix in (".png", ".tif"):
        photo = saved(tmp_path / f"a{suffix}", Image.fromarray(values))
        assert photo[0, :, 0].tolist() == [0, 1, 128, 255]
        assert (photo == photo[:, :, :1]).all()


def test_wide_integers_and_floats_keep_their_range(tmp_path: Path) -> None:
    ramp = np.array([[0, 32896, 65535]], dtype=np.int32)
    assert saved(tmp_path / "i.tif", Image.fromarray(ramp))[0, :, 0].tolist() == [0, 128, 255]
    shares = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    assert saved(tmp_path / "f.tif", Image.fromarray(shares))[0, :, 0].tolist() == [0, 128, 255]


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert tuple(load_photo(tmp_path / "a.gif")[0, 0]) == RED


def refusal(path: Path, **limits: int) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PhotoError) as refused:
            load_photo(path, **limits)
    assert str(path) in str(refused.value)
    return refused.value.reason


def test_damage_is_named(tmp_path: Path) -> None:
    jpeg, png = tmp_path / "a.jpg", tmp_path / "a.png"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    noise.save(jpeg)
    noise.save(png)
    (tmp_path / "empty.jpg").write_bytes(b"")
    assert refusal(tmp_path / "empty.jpg") == "empty: 0 bytes"
    (tmp_path / "cut.jpg").write_bytes(jpeg.read_bytes()[:2000])
    assert refusal(tmp_path / "cut.jpg").startswith("truncated: ")
    broken = bytearray(png.read_bytes())
    broken[200:260] = b"\xff" * 60
    (tmp_path / "broken.png").write_bytes(bytes(broken))
    assert refusal(tmp_path / "broken.png").startswith(("corrupt: ", "truncated: "))
    (tmp_path / "text.jpg").write_text("no photo at all")
    assert refusal(tmp_path / "text.jpg") == "not an image: begins with b'no photo at '"
    assert refusal(tmp_path / "nothing.jpg") == "missing: there is no such file"
    assert refusal(tmp_path).startswith("not a file")


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    assert bomb.stat().st_size < 100_000
    assert refusal(bomb) == "too many pixels: 20000x20000 px, at most 100 megapixels"


def test_the_limit_itself_is_allowed(tmp_path: Path) -> None:
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    assert load_photo(tmp_path / "a.png", max_pixels=100).shape == (10, 10, 3)
    assert refusal(tmp_path / "a.png", max_pixels=99).startswith("too many pixels: 10x10 px")


def test_pillows_own_settings_are_left_alone(tmp_path: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    refusal(tmp_path / "nothing.jpg")
    asymmetric().save(tmp_path / "a.png")
    load_photo(tmp_path / "a.png")
    assert limit == Image.MAX_IMAGE_PIXELS


def test_threads_decode_side_by_side_and_leave_pillows_limits_as_they_were(tmp_path: Path) -> None:
    photos = [np.full((40, 50 + index, 3), index, np.uint8) for index in range(8)]
    for index, photo in enumerate(photos):
        Image.fromarray(photo).save(tmp_path / f"{index}.png")
    inside = threading.Barrier(2, timeout=30)

    def decode(index: int) -> np.ndarray:
        with decode_module._guarded_pillow():
            inside.wait()  # passes only when two threads are in at once
            return load_photo(tmp_path / f"{index}.png")

    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    with ThreadPoolExecutor(2) as pool:
        for photo, found in zip(photos, pool.map(decode, range(8))):
            np.testing.assert_array_equal(found, photo)
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
