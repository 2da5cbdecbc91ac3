import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.discovery.images import mottled
from tests.reference.selective_search import bins_by_loops, bins_of_codes

from orl.discovery.texture import NUM_TEXTURE_BINS, Turns, texture_codes
from orl.synthetic.scenes import draw_scene

RISES = NUM_TEXTURE_BINS
"""Codes from here on stand for a gradient that rises."""
DIAGONAL = 6
sizes = st.tuples(st.integers(1, 30), st.integers(1, 30))


def grey(levels: np.ndarray) -> np.ndarray:
    return levels.astype(np.uint8)[:, :, None].repeat(3, axis=2)


def bins_by_opencv(image: np.ndarray) -> np.ndarray:
    """Compute the bins with the calls of OpenCV's selectivesearchsegmentation.cpp."""
    import cv2

    height, width, _ = image.shape
    bins = []
    for channel in range(3):
        plane = np.ascontiguousarray(image[:, :, channel])
        frame = cv2.RotatedRect((width / 2, height / 2), (width, height), 45).boundingRect()
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), 45, 1)
        turn[:, 2] += [frame[2] / 2 - width / 2, frame[3] / 2 - height / 2]
        turned = cv2.warpAffine(plane, turn, frame[2:])
        gradients = [cv2.Scharr(plane, cv2.CV_32F, 1, 0), cv2.Scharr(plane, cv2.CV_32F, 0, 1)]
        middle = frame[2] // 2, frame[3] // 2
        turn_back = cv2.getRotationMatrix2D(middle, -45, 1)
        larger = cv2.RotatedRect(middle, frame[2:], -45).boundingRect()[2:]
        left, top = max(0, (frame[2] - width) // 2), max(0, (frame[3] - height) // 2)
        for direction in ((1, 0), (0, 1)):
            back = cv2.warpAffine(cv2.Scharr(turned, cv2.CV_32F, *direction), turn_back, larger)
            gradients.append(back[top : top + height, left : left + width])
        for gradient in gradients:
            for part in (np.maximum(gradient, 0), np.minimum(gradient, 0)):
                span = float(part.max()) - float(part.min())
                level = np.rint(part.astype(float) * (255 / span) - 255 * float(part.min()) / span)
                bins.append((level.astype(np.float32) / np.float32(256 / NUM_TEXTURE_BINS)).astype(int))
    return np.stack(bins)


def test_a_rising_step_has_a_gradient_along_x_at_the_step_only() -> None:
    codes, zeros = texture_codes(grey(np.repeat([[20, 220]], [8, 6], axis=1).repeat(9, axis=0)))
    wanted = np.zeros((9, 14))
    wanted[:, 7:9] = RISES + 9
    for channel in range(3):
        np.testing.assert_array_equal(codes[2 * channel], wanted)
        assert (codes[2 * channel + 1] == 0).all()
        assert zeros[2 * channel : 2 * channel + 2].tolist() == [[0, 0], [0, 0]]


def test_a_step_that_falls_is_the_lowest_of_its_part_where_nothing_falls_is_the_highest() -> None:
    codes, zeros = texture_codes(grey(np.repeat([[220, 20]], [8, 6], axis=1).repeat(9, axis=0).T))
    wanted = np.full((14, 9), 9)
    wanted[7:9] = 0
    np.testing.assert_array_equal(codes[1], wanted)
    assert (codes[0] == 0).all()
    assert zeros[1].tolist() == [9, 0]


def test_steps_are_tenths_of_the_steepest() -> None:
    # Gradients of 16 times 40, 80, 120, 160 and 200, far apart.
    heights = np.repeat([0, 40, 0, 80, 0, 120, 0, 160, 0, 200], 4)[None].repeat(5, axis=0)
    codes, _ = texture_codes(grey(heights))
    rises = codes[0, 2, [4, 12, 20, 28, 36]]
    assert rises.tolist() == [RISES + int(round(255 * fraction) / 25.6) for fraction in (0.2, 0.4, 0.6, 0.8, 1)]
    # Falls of 40 to 160, from the deepest, which is 0.
    falls = codes[0, 2, [8, 16, 24, 32]]
    assert falls.tolist() == [int(round(255 * fraction) / 25.6) for fraction in (0.75, 0.5, 0.25, 0)]


def test_diagonal_gradients_point_to_the_lower_right_and_lower_left() -> None:
    y, x = np.mgrid[:30, :30]
    codes, _ = texture_codes(grey(4 * (x + y)))
    # Around the turned image all is black: its border is left out.
    inside = codes[DIAGONAL:, 4:-4, 4:-4]
    assert (inside[::2] > RISES).all()
    codes, zeros = texture_codes(grey(4 * (x + 29 - y)))
    inside = codes[DIAGONAL:, 4:-4, 4:-4]
    assert (inside[1::2] < zeros[DIAGONAL + 1 :: 2, :1, None]).all()


def test_an_image_of_one_colour_has_no_gradient_along_x_and_y() -> None:
    codes, zeros = texture_codes(np.full((12, 15, 3), 90, dtype=np.uint8))
    assert (codes[:DIAGONAL] == 0).all()
    assert (zeros[:DIAGONAL] == 0).all()
    black, black_zeros = texture_codes(np.zeros((12, 15, 3), dtype=np.uint8))
    assert not black.any()
    assert not black_zeros.any()


@pytest.mark.parametrize(
    "size_hw", [(20, 24), (21, 24), (24, 19), (31, 31), (13, 40), (40, 12), (3, 50), (1, 9), (9, 1), (2, 2), (1, 1)]
)
def test_bins_are_those_of_the_slow_reference(size_hw: tuple[int, int]) -> None:
    image = mottled(sum(size_hw), *size_hw, patch_px=4)
    ours, theirs = bins_of_codes(*texture_codes(image)), bins_by_loops(image)
    # Positions in single precision tip a level of the turned image now and then.
    assert (ours != theirs).mean() < 1e-3
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("size_wh", [(160, 120), (121, 160), (140, 141), (99, 201), (300, 50), (50, 333)])
def test_bins_are_those_of_opencv(size_wh: tuple[int, int]) -> None:
    pytest.importorskip("cv2")
    image = draw_scene(7, 0, size_wh).image
    ours = bins_of_codes(*texture_codes(image))
    assert (ours != bins_by_opencv(image)).mean() < 1e-4


@given(st.integers(0, 1000), sizes)
@settings(max_examples=25, deadline=None)
def test_each_channel_has_its_own_gradients(seed: int, size_hw: tuple[int, int]) -> None:
    image = mottled(seed, *size_hw, patch_px=3)
    codes, zeros = texture_codes(image)
    turned_codes, turned_zeros = texture_codes(np.ascontiguousarray(image[:, :, [1, 2, 0]]))
    order = [2, 3, 4, 5, 0, 1, 8, 9, 10, 11, 6, 7]
    np.testing.assert_array_equal(turned_codes, codes[order])
    np.testing.assert_array_equal(turned_zeros, zeros[order])


@given(st.integers(0, 1000), sizes | st.tuples(st.integers(1, 3), st.integers(60, 90)))
@settings(max_examples=25, deadline=None)
def test_turns_that_were_used_before_give_the_same_codes(seed: int, size_hw: tuple[int, int]) -> None:
    image, other = mottled(seed, *size_hw, patch_px=3), mottled(seed + 1, *size_hw, patch_px=5)
    turns = Turns(size_hw[1], size_hw[0])
    texture_codes(np.full((*size_hw, 3), 255, dtype=np.uint8), turns)
    for each in (image, other, image):
        codes, zeros = texture_codes(each, turns)
        np.testing.assert_array_equal(codes, texture_codes(each)[0])
        np.testing.assert_array_equal(zeros, texture_codes(each)[1])


@given(st.integers(0, 1000), sizes)
@settings(max_examples=25, deadline=None)
def test_along_x_of_an_image_is_along_y_of_its_transpose(seed: int, size_hw: tuple[int, int]) -> None:
    image = mottled(seed, *size_hw, patch_px=3)
    codes, zeros = texture_codes(image)
    flipped_codes, flipped_zeros = texture_codes(np.ascontiguousarray(image.transpose(1, 0, 2)))
    order = [1, 0, 3, 2, 5, 4]
    np.testing.assert_array_equal(flipped_codes[:DIAGONAL], codes[order].transpose(0, 2, 1))
    np.testing.assert_array_equal(flipped_zeros[:DIAGONAL], zeros[order])


@given(st.integers(0, 1000), sizes, st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_codes_are_in_range_and_brightness_does_not_matter(seed: int, size_hw: tuple[int, int], lighter: int) -> None:
    image = mottled(seed, *size_hw, patch_px=3) // 2
    codes, zeros = texture_codes(image)
    assert codes.max() < 2 * NUM_TEXTURE_BINS
    assert zeros.min() >= 0
    assert zeros.max() < NUM_TEXTURE_BINS
    # Along the diagonals it does: the turned image has a black surround.
    brighter_codes, brighter_zeros = texture_codes(image + np.uint8(lighter))
    np.testing.assert_array_equal(brighter_codes[:DIAGONAL], codes[:DIAGONAL])
    np.testing.assert_array_equal(brighter_zeros[:DIAGONAL], zeros[:DIAGONAL])
