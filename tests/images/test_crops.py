import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as TF

from orl.images.crops import centre_box, cut, random_resized_crop

RATIOS = (3 / 4, 4 / 3)


def photo(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_cutting_at_the_same_size_copies_the_pixels() -> None:
    whole = photo(60, 50)
    np.testing.assert_array_equal(cut(whole, box(10, 20, 26, 36), 16), whole[20:36, 10:26])


def test_cutting_equals_torchvisions_crop_and_resize() -> None:
    whole = photo(90, 70)
    ours = cut(whole, box(13, 7, 76, 59), 24)
    theirs = TF.resized_crop(Image.fromarray(whole), 7, 13, 52, 63, [24, 24], TF.InterpolationMode.BICUBIC)
    np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_a_box_over_the_edge_is_cut_at_the_photo() -> None:
    whole = photo(40, 30)
    np.testing.assert_array_equal(cut(whole, box(-5, -5, 45, 35), 8), cut(whole, box(0, 0, 40, 30), 8))


def test_a_box_thinner_than_a_pixel_takes_one_pixel() -> None:
    whole = photo(40, 30)
    np.testing.assert_array_equal(cut(whole, box(10.1, 5.2, 10.2, 5.3), 4), np.tile(whole[5:6, 10:11], (4, 4, 1)))


def test_a_box_outside_the_photo_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[40.0, 0.0, 50.0, 10.0\] lies outside its photo of 40x30 px"):
        cut(photo(40, 30), box(40, 0, 50, 10), 8)


def test_centre_box_known_answer() -> None:
    np.testing.assert_array_equal(centre_box((100, 60), 40, 20), [30, 20, 70, 40])


def test_random_crops_are_distributed_as_torchvisions() -> None:
    generator = np.random.default_rng(0)
    ours = np.stack([random_resized_crop((320, 200), (0.08, 1.0), RATIOS, generator) for _ in range(4000)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.zeros(3, 200, 320)
        drawn = [RandomResizedCrop.get_params(image, [0.08, 1.0], list(RATIOS)) for _ in range(4000)]
    theirs = np.array([[left, top, left + width, top + height] for top, left, height, width in drawn])
    quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
    # 4,000 draws: a quantile of a side of 320 px wanders by a few pixels between two samples.
    np.testing.assert_allclose(np.quantile(ours, quantiles, axis=0), np.quantile(theirs, quantiles, axis=0), atol=8)


def test_random_crops_lie_inside_and_obey_area_and_shape() -> None:
    generator = np.random.default_rng(1)
    for _ in range(300):
        left, top, right, bottom = random_resized_crop((100, 80), (0.3, 0.6), RATIOS, generator)
        assert 0 <= left < right <= 100
        assert 0 <= top < bottom <= 80
        # Sides are rounded to whole pixels.
        assert 0.28 < (right - left) * (bottom - top) / 8000 < 0.62
        assert 0.72 < (right - left) / (bottom - top) < 1.39


def test_a_photo_that_no_shape_fits_gives_its_centre() -> None:
    np.testing.assert_allclose(
        random_resized_crop((400, 30), (0.9, 1.0), RATIOS, np.random.default_rng(0)), [180, 0, 220, 30]
    )
