"""Every kind of image comes in right side up as RGB, and every kind of damage is named."""

import io
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from orl.datasets import decode as decode_module
from orl.datasets.decode import REDUCTIONS, ImageError, image_size, load_image, reduced_size

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners(image: np.ndarray) -> list[tuple[int, ...]]:
    """Return the colours at top left, top right and bottom left."""
    return [tuple(image[y, x].tolist()) for y, x in ((0, 0), (0, -1), (-1, 0))]


def asymmetric() -> Image.Image:
    """40x24 px: red at the top left, green at the top right, blue at the bottom left."""
    image = Image.new("RGB", (40, 24), WHITE)
    for colour, position in ((RED, (0, 0)), (GREEN, (32, 0)), (BLUE, (0, 16))):
        image.paste(colour, (*position, position[0] + 8, position[1] + 8))
    return image


def saved(path: Path, image: Image.Image, **options: object) -> np.ndarray:
    image.save(path, **options)
    return load_image(path)


def test_rgb_pixels_are_unchanged(tmp_path: Path) -> None:
    image = saved(tmp_path / "a.png", asymmetric())
    assert image.shape == (24, 40, 3)
    assert corners(image) == [RED, GREEN, BLUE]
    assert image.flags.writeable


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
def test_every_exif_orientation_becomes_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](np.asarray(asymmetric()))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {".jpg": {"quality": 95, "subsampling": 0}, ".webp": {"lossless": True}}.get(suffix, {})
    image = saved(tmp_path / f"turned{suffix}", stored, exif=exif, **options)
    assert image.shape == (24, 40, 3)
    assert image_size(tmp_path / f"turned{suffix}") == (40, 24)
    # JPEG moves flat colours by a few values.
    np.testing.assert_allclose(corners(image), [RED, GREEN, BLUE], atol=8)


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
def test_gray_and_transparent_images_become_rgb_over_white(
    tmp_path: Path, mode: str, value: object, expected: tuple[int, int, int]
) -> None:
    image = saved(tmp_path / "a.png", Image.new(mode, (6, 5), value))
    assert image.shape == (5, 6, 3)
    np.testing.assert_allclose(image[2, 2], expected, atol=1)


def test_palettes_with_and_without_transparency(tmp_path: Path) -> None:
    palette = asymmetric().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    assert corners(saved(tmp_path / "a.png", palette)) == [RED, GREEN, BLUE]
    one = Image.new("P", (4, 4), 1)
    one.putpalette([0, 0, 0, 10, 200, 30])
    assert saved(tmp_path / "b.png", one)[0, 0].tolist() == [10, 200, 30]
    assert saved(tmp_path / "c.png", one, transparency=1)[0, 0].tolist() == [255, 255, 255]


def test_cmyk_is_converted(tmp_path: Path) -> None:
    image = saved(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=95)
    np.testing.assert_allclose(image[8, 8], RED, atol=4)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    for suffix in (".png", ".tif"):
        image = saved(tmp_path / f"a{suffix}", Image.fromarray(values))
        assert image[0, :, 0].tolist() == [0, 1, 128, 255]
        assert (image == image[:, :, :1]).all()


def test_wide_integers_and_floats_keep_their_range(tmp_path: Path) -> None:
    ramp = np.array([[0, 32896, 65535]], dtype=np.int32)
    assert saved(tmp_path / "i.tif", Image.fromarray(ramp))[0, :, 0].tolist() == [0, 128, 255]
    fractions = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    assert saved(tmp_path / "f.tif", Image.fromarray(fractions))[0, :, 0].tolist() == [0, 128, 255]


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert tuple(load_image(tmp_path / "a.gif")[0, 0]) == RED


def refusal(path: Path, **limits: int) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError) as refused:
            load_image(path, **limits)
    assert str(path) in str(refused.value)
    return refused.value.reason


def test_damaged_files_are_refused_with_the_reason(tmp_path: Path) -> None:
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
    (tmp_path / "text.jpg").write_text("no image at all")
    assert refusal(tmp_path / "text.jpg") == "not an image: begins with b'no image at '"
    assert refusal(tmp_path / "nothing.jpg") == "missing: there is no such file"
    assert refusal(tmp_path).startswith("not a file")


def test_the_size_is_read_or_the_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="missing"):
        image_size(tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ImageError, match="not an image: begins with b'no image'"):
        image_size(tmp_path / "text.jpg")


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    assert bomb.stat().st_size < 100_000
    assert refusal(bomb) == "too many pixels: 20000x20000 px, at most 100 megapixels"


def test_a_huge_file_that_begins_as_an_image_is_refused_unread(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        asymmetric().save(tmp_path / name)
        os.truncate(tmp_path / name, 3 * 10**9)  # a hole, which takes no space
        assert refusal(tmp_path / name) == "too many bytes: 3.0 GB, at most 1.1 GB"
    assert load_image(tmp_path / "a.png", max_pixels=400_000_000).shape == (24, 40, 3), "8 bytes for each allowed pixel"


def test_a_jpeg_with_much_data_behind_it_is_not_read_completely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asymmetric().save(tmp_path / "a.jpg")
    expected = load_image(tmp_path / "a.jpg")
    os.truncate(tmp_path / "a.jpg", 70 * 10**6)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read completely"))
    np.testing.assert_array_equal(load_image(tmp_path / "a.jpg"), expected)


def test_an_image_of_exactly_the_largest_size_is_allowed(tmp_path: Path) -> None:
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", max_pixels=100).shape == (10, 10, 3)
    assert refusal(tmp_path / "a.png", max_pixels=99).startswith("too many pixels: 10x10 px")


def test_pillows_own_options_are_left_alone(tmp_path: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    refusal(tmp_path / "nothing.jpg")
    asymmetric().save(tmp_path / "a.png")
    load_image(tmp_path / "a.png")
    assert limit == Image.MAX_IMAGE_PIXELS


def test_threads_decode_in_parallel_and_leave_pillows_limits_as_they_were(tmp_path: Path) -> None:
    images = [np.full((40, 50 + index, 3), index, np.uint8) for index in range(8)]
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    inside = threading.Barrier(2, timeout=30)

    def decode(index: int) -> np.ndarray:
        with decode_module._guarded_pillow():
            inside.wait()  # passes only when two threads are in at once
            return load_image(tmp_path / f"{index}.png")

    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    with ThreadPoolExecutor(2) as pool:
        for image, found in zip(images, pool.map(decode, range(8))):
            np.testing.assert_array_equal(found, image)
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def textured(width: int, height: int) -> Image.Image:
    """Waves and some noise: something in every frequency."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 7 + phase) * np.cos(y / 5 - phase) for phase in range(3)], axis=-1)
    noise = np.random.default_rng(0).normal(0, 12, (height, width, 3))
    return Image.fromarray(np.clip(128 + 90 * waves + noise, 0, 255).astype(np.uint8))


JPEGS = {
    "420": {},
    "422": {"subsampling": "4:2:2"},
    "444": {"subsampling": "4:4:4"},
    "progressive": {"progressive": True},
    "coarse": {"quality": 5},
    "rgb": {"keep_rgb": True},
    "restarts": {"restart_marker_rows": 1},
}


@pytest.mark.parametrize("size_wh", [(64, 48), (67, 51), (9, 17), (7, 5), (1, 1)])
@pytest.mark.parametrize("kind", JPEGS)
def test_jpeg_pixels_equal_pillows_at_every_reduction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, size_wh: tuple[int, int]
) -> None:
    path = tmp_path / "a.jpg"
    textured(*size_wh).save(path, **JPEGS[kind])
    Image.init()  # some of Pillow's plugins load pictures of their own when they are imported
    monkeypatch.setattr(Image.Image, "load", forbidden)
    found = {reduction: load_image(path, reduction=reduction) for reduction in REDUCTIONS}
    monkeypatch.undo()
    for reduction in REDUCTIONS:
        assert found[reduction].shape[1::-1] == reduced_size(size_wh, reduction)
        if max(size_wh) // reduction and min(size_wh) // reduction:  # Pillow does not reduce to less than a pixel
            with Image.open(path) as image:
                image.draft(None, (size_wh[0] // reduction, size_wh[1] // reduction))
                np.testing.assert_array_equal(found[reduction], np.asarray(image.convert("RGB")))


def forbidden(*_: object) -> None:
    raise AssertionError("Pillow was asked to decode")


def test_gray_and_multi_picture_jpegs_equal_pillows(tmp_path: Path) -> None:
    pixels = textured(67, 51)
    pixels.convert("L").save(tmp_path / "gray.jpg")
    pixels.save(tmp_path / "several.jpg", format="MPO", save_all=True, append_images=[Image.new("RGB", (20, 20))])
    for name in ("gray.jpg", "several.jpg"):
        with Image.open(tmp_path / name) as image:
            assert image.format == ("JPEG" if name == "gray.jpg" else "MPO")
            np.testing.assert_array_equal(load_image(tmp_path / name), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_reduced_images_are_turned_upright_and_have_the_size_of_the_upright_one(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    upright = np.kron(np.asarray(asymmetric()), np.ones((8, 8, 1), np.uint8))[:-5, :-3]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](upright)))
    stored.save(tmp_path / f"turned{suffix}", exif=exif, **({"quality": 95} if suffix == ".jpg" else {}))
    for reduction in REDUCTIONS:
        image = load_image(tmp_path / f"turned{suffix}", reduction=reduction)
        assert image.shape[1::-1] == reduced_size((317, 187), reduction)
        np.testing.assert_allclose(corners(image), [RED, GREEN, BLUE], atol=8)


@pytest.mark.parametrize("mode", ["CMYK", "RGBA", "P", "I;16", "LA"])
def test_other_reduced_images_are_averages_of_the_full_size_image(tmp_path: Path, mode: str) -> None:
    image = textured(67, 51)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    (image if mode == "I;16" else image.convert(mode)).save(path)
    full_size = load_image(path).astype(np.float64)
    for reduction in (2, 4, 8):
        reduced = load_image(path, reduction=reduction)
        assert reduced.shape[1::-1] == reduced_size((67, 51), reduction)
        rows, columns = 48 // reduction, 64 // reduction
        blocks = full_size[:48, :64].reshape(rows, reduction, columns, reduction, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(reduced[:rows, :columns], blocks, atol=0.51)


def test_a_reduced_jpeg_is_close_to_the_average_of_the_full_size_image(tmp_path: Path) -> None:
    textured(64, 48).save(tmp_path / "a.jpg", quality=95, subsampling=0)
    full_size = load_image(tmp_path / "a.jpg").astype(np.float64)
    for reduction in (2, 4, 8):
        blocks = full_size.reshape(48 // reduction, reduction, 64 // reduction, reduction, 3).mean(axis=(1, 3))
        # A smaller cosine transform leaves out what averaging only weakens; at an eighth both are the mean.
        difference = abs(load_image(tmp_path / "a.jpg", reduction=reduction) - blocks)
        assert difference.mean() < {2: 5, 4: 5, 8: 1}[reduction]


@pytest.mark.parametrize("reduction", [0, 3, 16])
def test_other_reductions_are_refused(tmp_path: Path, reduction: int) -> None:
    asymmetric().save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=rf"reduction must be one of \(1, 2, 4, 8\), got {reduction}"):
        load_image(tmp_path / "a.png", reduction=reduction)


def test_damage_is_named_as_by_pillow_at_every_reduction(tmp_path: Path) -> None:
    file = io.BytesIO()
    textured(80, 60).save(file, "JPEG", quality=95)
    data = file.getvalue()
    for cut in range(300, len(data) - 2, len(data) // 12):
        (tmp_path / "cut.jpg").write_bytes(data[:cut])
        for reduction in (1, 8):
            assert refusal(tmp_path / "cut.jpg", reduction=reduction).startswith(("truncated: ", "corrupt: ")), cut


def test_a_jpeg_without_end_marker_is_decoded_as_by_pillow(tmp_path: Path) -> None:
    textured(80, 60).save(tmp_path / "a.jpg", quality=95)
    full_size = load_image(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[:-2] + b"after the end")
    with Image.open(tmp_path / "a.jpg") as image:
        np.testing.assert_array_equal(load_image(tmp_path / "a.jpg"), np.asarray(image))
    (tmp_path / "a.jpg").write_bytes(data + b"after the end")
    np.testing.assert_array_equal(load_image(tmp_path / "a.jpg"), full_size)
