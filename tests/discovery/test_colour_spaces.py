import colorsys
from collections.abc import Callable

import numpy as np
import pytest
from tests.discovery.images import mottled
from tests.reference.selective_search import lab_by_formula

from orl.discovery.colour_spaces import to_hsv, to_lab

CONVERSIONS = pytest.mark.parametrize("convert", [to_hsv, to_lab])


def one_pixel(*colour: int) -> np.ndarray:
    return np.array(colour, dtype=np.uint8).reshape(1, 1, 3)


@pytest.mark.parametrize(
    ("colour", "hsv"),
    [
        ((255, 0, 0), [0, 255, 255]),
        ((255, 255, 0), [30, 255, 255]),
        ((0, 255, 0), [60, 255, 255]),
        ((0, 255, 255), [90, 255, 255]),
        ((0, 0, 255), [120, 255, 255]),
        ((255, 0, 255), [150, 255, 255]),
        ((255, 0, 9), [179, 255, 255]),  # minus one degree: red from the other side
        ((100, 50, 50), [0, 128, 100]),
        ((0, 0, 0), [0, 0, 0]),
        ((255, 255, 255), [0, 0, 255]),
    ],
)
def test_hue_saturation_and_value_of_known_colours(colour: tuple[int, ...], hsv: list[int]) -> None:
    assert to_hsv(one_pixel(*colour)).ravel().tolist() == hsv


# L*, a* and b* of the sRGB primaries, as tabled; L* is scaled by 2.55 and the others are moved by 128.
@pytest.mark.parametrize(
    ("colour", "lightness", "a", "b"),
    [
        ((255, 255, 255), 100, 0, 0),
        ((0, 0, 0), 0, 0, 0),
        ((255, 0, 0), 53.24, 80.09, 67.20),
        ((0, 255, 0), 87.73, -86.18, 83.18),
        ((0, 0, 255), 32.30, 79.20, -107.86),
    ],
)
def test_lightness_and_opponents_of_known_colours(
    colour: tuple[int, ...], lightness: float, a: float, b: float
) -> None:
    assert to_lab(one_pixel(*colour)).ravel().tolist() == [round(2.55 * lightness), round(128 + a), round(128 + b)]


def test_greys_have_no_hue_and_no_opponents() -> None:
    greys = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert (to_hsv(greys)[:, :, :2] == 0).all()
    np.testing.assert_array_equal(to_hsv(greys)[:, :, 2], greys[:, :, 0])
    assert (to_lab(greys)[:, :, 1:] == 128).all()
    lightness = to_lab(greys)[:, :, 0].ravel().astype(int)
    assert (np.diff(lightness) >= 0).all()
    assert lightness[[0, 255]].tolist() == [0, 255]


def test_hsv_is_the_formula_but_for_its_rounding() -> None:
    # Half a level, and a tenth for the 12 binary places of the factors.
    image = mottled(0, 30, 40)
    for colour, ours in zip(image.reshape(-1, 3), to_hsv(image).reshape(-1, 3).astype(float)):
        hue, saturation, value = colorsys.rgb_to_hsv(*(colour / 255))
        turn = abs(ours[0] - 180 * hue)
        assert min(turn, 180 - turn) <= 0.6
        np.testing.assert_allclose(ours[1:], [255 * saturation, 255 * value], atol=0.6)


def test_lab_is_the_formula_to_a_level() -> None:
    image = mottled(1, 30, 40)
    formula = np.array([lab_by_formula(colour) for colour in image.reshape(-1, 3)])
    # A table of 2,040 steps and 12 binary places: a level at the worst, a quarter as a rule.
    difference = np.abs(to_lab(image).reshape(-1, 3) - formula)
    assert difference.max() < 1.5
    assert difference.mean() < 0.3


def test_every_colour_is_converted_as_by_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    image = np.empty((256, 256, 3), dtype=np.uint8)
    image[:, :, 1:] = np.stack(np.mgrid[:256, :256], axis=-1)
    for red in range(256):
        image[:, :, 0] = red
        np.testing.assert_array_equal(to_hsv(image), cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
        np.testing.assert_array_equal(to_lab(image), cv2.cvtColor(image, cv2.COLOR_RGB2Lab))


@CONVERSIONS
def test_each_pixel_is_converted_by_itself(convert: Callable[[np.ndarray], np.ndarray]) -> None:
    image = mottled(2, 7, 11)
    full = convert(image)
    assert full.dtype == np.uint8
    np.testing.assert_array_equal(convert(image[2:5, 3:4]), full[2:5, 3:4])
    np.testing.assert_array_equal(convert(image[::-1, ::2]), full[::-1, ::2])
