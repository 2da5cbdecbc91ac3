import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from tests.reference.crops import cut
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as TF

from orl.views.crops import centre_crop, cut_boxes, random_resized_crop, resize, resize_to_square

RATIOS = (3 / 4, 4 / 3)


def image(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_cutting_at_the_same_size_copies_the_pixels() -> None:
    full = image(60, 50)
    crop = cut_boxes(full, box(10, 20, 26, 36)[None], 16)[0]
    np.testing.assert_array_equal(crop.permute(1, 2, 0), full[20:36, 10:26])


def test_the_reference_equals_torchvisions_crop_and_resize() -> None:
    full = image(90, 70)
    ours = cut(full, box(13, 7, 76, 59), 24)
    theirs = TF.resized_crop(Image.fromarray(full), 7, 13, 52, 63, [24, 24])
    np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_a_box_outside_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[40.0, 0.0, 50.0, 10.0\] lies outside its image of 40x30 px"):
        cut_boxes(image(40, 30), box(40, 0, 50, 10)[None], 8)


SHAPES_WH = [(60, 50), (50, 60), (24, 24), (24, 60), (90, 24), (10, 7), (2, 3), (1, 1), (1, 70), (90, 1), (90, 70)]


def rows_then_columns(crop: np.ndarray, size_px: int) -> np.ndarray:
    """Pillow's antialiased bilinear filter in the order that its versions share."""
    rows = Image.fromarray(crop).resize((size_px, crop.shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(rows.resize((size_px, size_px), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("size_px", [24, 64])
@pytest.mark.parametrize("size_wh", SHAPES_WH)
def test_boxes_cut_in_a_batch_equal_pillows_up_to_rounding(size_wh: tuple[int, int], size_px: int) -> None:
    full = image(90, 70)
    # At the top left, at the bottom right, in between.
    lefts, tops = ((0, rest, rest // 2) for rest in (90 - size_wh[0], 70 - size_wh[1]))
    boxes = np.array([[x, y, x + size_wh[0], y + size_wh[1]] for x, y in zip(lefts, tops)], dtype=np.float32)
    found = cut_boxes(full, boxes, size_px)
    assert found.is_contiguous(memory_format=torch.channels_last)
    for crop, (left, top, right, bottom) in zip(found, boxes.astype(int)):
        difference = crop.permute(1, 2, 0).numpy() - rows_then_columns(full[top:bottom, left:right], size_px).astype(
            int
        )
        # Both round to whole grey levels twice; the second time can widen a difference of the first.
        assert abs(difference).max() <= 2
        assert abs(difference).mean() <= 0.02


@pytest.mark.parametrize("size_wh", [(600, 450), (450, 600), (300, 900), (2000, 1500)])
def test_boxes_cut_in_a_batch_equal_pillows_single_crop_on_a_smooth_image(
    size_wh: tuple[int, int],
) -> None:
    y, x = np.mgrid[: size_wh[1], : size_wh[0]]
    waves = [128 + 90 * np.sin(x / 40 + phase) * np.cos(y / 25 - phase) for phase in range(3)]
    full = np.stack(waves, axis=-1).astype(np.uint8)
    boxes = np.array([[0, 0, *size_wh], [17, 5, 240, 299], [90.4, 33.7, 290.5, 150.2]], dtype=np.float32)
    for crop, one in zip(cut_boxes(full, boxes, 224), boxes):
        difference = abs(crop.permute(1, 2, 0).numpy() - cut(full, one, 224).astype(int))
        assert difference.max() <= 2
        assert (difference > 1).mean() <= 1e-3
        assert difference.mean() <= 0.02


def test_boxes_cut_in_a_batch_are_rounded_and_clipped_as_a_single_one() -> None:
    full = image(40, 30)
    boxes = np.stack([box(-5, -5, 45, 35), box(10.1, 5.2, 10.2, 5.3), box(9.6, 3.4, 17.6, 11.4)])
    found = cut_boxes(full, boxes, 8).permute(0, 2, 3, 1).numpy()
    assert abs(found[0] - cut(full, boxes[0], 8).astype(int)).max() <= 1
    np.testing.assert_array_equal(found[1], np.tile(full[5:6, 10:11], (8, 8, 1)))
    np.testing.assert_array_equal(found[2], full[3:11, 10:18])


def test_no_boxes_give_no_crops() -> None:
    assert cut_boxes(image(40, 30), np.zeros((0, 4), np.float32), 8).shape == (0, 3, 8, 8)


def test_the_memory_layout_of_an_image_does_not_change_its_crops() -> None:
    full, boxes = image(40, 30), box(3, 2, 30, 20)[None]
    locked = full.copy()
    locked.setflags(write=False)
    for same in (locked, np.asfortranarray(full), np.repeat(full, 2, axis=1)[:, ::2]):
        torch.testing.assert_close(cut_boxes(same, boxes, 8), cut_boxes(full, boxes, 8), rtol=0, atol=0)


def test_one_of_several_boxes_outside_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0.0, 30.0, 5.0, 40.0\] lies outside its image of 40x30 px"):
        cut_boxes(image(40, 30), np.stack([box(0, 0, 5, 5), box(0, 30, 5, 40)]), 8)


SIZES_WH = [(320, 200), (200, 321), (223, 223), (64, 900), (1203, 641)]


def smooth(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(x / 40 + phase) * np.cos(y / 25 - phase) for phase in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("size_wh", SIZES_WH)
def test_the_centre_crop_is_torchvisions_resize_and_centre_crop(size_wh: tuple[int, int]) -> None:
    full = smooth(*size_wh)
    theirs = TF.center_crop(TF.resize(Image.fromarray(full), [256]), [224, 224])
    (found,) = centre_crop(full, 224).permute(0, 2, 3, 1).numpy()
    # Pillow 13 resizes some images by columns first.
    assert abs(found - np.asarray(theirs).astype(int)).max() <= 1


@pytest.mark.parametrize("size_wh", SIZES_WH)
def test_a_square_is_torchvisions_two_resizes(size_wh: tuple[int, int]) -> None:
    full = smooth(*size_wh)
    theirs = TF.resize(TF.resize(Image.fromarray(full), [256]), [224, 224])
    (found,) = resize_to_square(full, 224).permute(0, 2, 3, 1).numpy()
    assert abs(found - np.asarray(theirs).astype(int)).max() <= 2


def test_a_centre_crop_keeps_the_fraction_at_other_sizes() -> None:
    # A ramp whose value is the column: the crop of 28 of 32 px shows 28/32 of the short side, 2 px from each edge.
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (64, 64, 3))
    (found,) = centre_crop(ramp, 28).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found[0, :, 0], (2 + np.arange(28) + 0.5) * 8 - 2, atol=1)


def test_only_the_middle_of_a_strip_is_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    strip = np.zeros((32, 30_000, 3), np.uint8)
    strip[:, 14_984:15_016] = 255
    (found,) = centre_crop(strip, 224).permute(0, 2, 3, 1)
    assert found.shape == (224, 224, 3)
    assert found.float().mean() > 250


def test_resizing_a_step_gives_the_weights_of_a_triangle() -> None:
    # Each output pixel covers 4 of the input; the triangle spans 8 around its centre.
    step = np.zeros((1, 16, 3), np.uint8)
    step[:, 8:] = 255
    triangle = 1 - abs(np.arange(16) + 0.5 - 6) / 4
    expected = triangle[8:].clip(0).sum() / triangle.clip(0).sum() * 255
    assert resize(step, (1, 4))[0, 0].tolist() == [0, round(expected), 255 - round(expected), 255]


@pytest.mark.parametrize("size_wh", [(320, 200), (200, 320), (700, 100)])
@pytest.mark.parametrize("area_range", [(0.08, 1.0), (0.2, 1.0)])
def test_random_crops_are_distributed_as_torchvisions(
    size_wh: tuple[int, int], area_range: tuple[float, float]
) -> None:
    generator, count = np.random.default_rng(0), 3000
    ours = np.stack([random_resized_crop(size_wh, area_range, RATIOS, generator) for _ in range(count)]).astype(int)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.zeros(3, size_wh[1], size_wh[0])
        sampled = [RandomResizedCrop.get_params(image, list(area_range), list(RATIOS)) for _ in range(count)]
    theirs = np.array([[left, top, left + width, top + height] for top, left, height, width in sampled])
    # The largest gap between the distribution functions of two samples of 3,000 is below 0.05 but for one in 1,000.
    for edge in range(4):
        assert ks_2samp(ours[:, edge], theirs[:, edge]).statistic < 0.05
    for measure in (areas, aspect_ratios):
        assert ks_2samp(measure(ours), measure(theirs)).statistic < 0.05


def areas(found: np.ndarray) -> np.ndarray:
    return (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])


def aspect_ratios(found: np.ndarray) -> np.ndarray:
    return (found[:, 2] - found[:, 0]) / (found[:, 3] - found[:, 1])


def test_random_crops_lie_inside_and_obey_area_and_shape() -> None:
    generator = np.random.default_rng(1)
    for _ in range(300):
        left, top, right, bottom = random_resized_crop((100, 80), (0.3, 0.6), RATIOS, generator)
        assert 0 <= left < right <= 100
        assert 0 <= top < bottom <= 80
        # Sides are rounded to whole pixels.
        assert 0.28 < (right - left) * (bottom - top) / 8000 < 0.62
        assert 0.72 < (right - left) / (bottom - top) < 1.39


def test_without_a_shape_that_fits_the_crop_is_the_centre() -> None:
    np.testing.assert_allclose(
        random_resized_crop((400, 30), (0.9, 1.0), RATIOS, np.random.default_rng(0)), [180, 0, 220, 30]
    )
