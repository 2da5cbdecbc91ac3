import ctypes
import sys
from types import ModuleType

import numpy as np
import pytest
from tests.discovery.images import mottled

from orl.boxes import iou
from orl.discovery.opencv_search import opencv_selective_search
from orl.discovery.selective_search import selective_search
from orl.synthetic.scenes import draw_scene


@pytest.fixture
def image() -> np.ndarray:
    pytest.importorskip("cv2.ximgproc")
    return draw_scene(0, 0, (120, 90)).image


def test_boxes_lie_inside_the_image_and_two_squares_are_among_them(image: np.ndarray) -> None:
    image = np.full((96, 128, 3), 40, dtype=np.uint8)
    image[16:56, 16:56] = (220, 30, 30)
    image[40:88, 72:120] = (30, 200, 60)
    found = opencv_selective_search(image, seed=0)
    assert found.dtype == np.float32
    assert (found[:, :2] >= 0).all()
    assert (found[:, 2:] <= [128, 96]).all()
    squares = np.array([[16, 16, 56, 56], [72, 40, 120, 88]], dtype=np.float32)
    assert iou(squares, found).max(axis=1).min() > 0.85


def test_the_order_depends_on_the_seed_only(image: np.ndarray) -> None:
    first = opencv_selective_search(image, seed=3)
    ctypes.CDLL(None).srand(99)
    opencv_selective_search(image[::-1], seed=9)
    np.testing.assert_array_equal(opencv_selective_search(image, seed=3), first)
    other = opencv_selective_search(image, seed=4)
    assert not np.array_equal(other, first)
    assert set(map(tuple, other.tolist())) == set(map(tuple, first.tolist()))


@pytest.mark.parametrize("seed", [-1, 2**32 + 2, 2**70])
def test_of_a_seed_the_last_32_bits_count(image: np.ndarray, seed: int) -> None:
    found = opencv_selective_search(image, seed)
    np.testing.assert_array_equal(found, opencv_selective_search(image, seed % 2**32))


def test_colours_are_taken_as_red_green_and_blue_as_in_our_own_search(image: np.ndarray) -> None:
    found = opencv_selective_search(image, 0)
    np.testing.assert_array_equal(found, selective_search(image, 0))
    swapped = opencv_selective_search(np.ascontiguousarray(image[:, :, ::-1]), 0)
    assert not np.array_equal(found, swapped)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 30), (60, 50)])
def test_an_image_of_one_colour_is_its_own_proposal(image: np.ndarray, size_hw: tuple[int, int]) -> None:
    found = opencv_selective_search(np.full((*size_hw, 3), 90, dtype=np.uint8), seed=0)
    assert found.tolist() == [[0, 0, size_hw[1], size_hw[0]]]


@pytest.mark.parametrize("size_hw", [(40, 400), (400, 40)])
def test_a_long_image_is_searched(image: np.ndarray, size_hw: tuple[int, int]) -> None:
    found = opencv_selective_search(mottled(0, *size_hw), seed=0)
    assert [0, 0, size_hw[1], size_hw[0]] in found.tolist()
    assert (found[:, 2:] <= size_hw[::-1]).all()


@pytest.mark.parametrize("found", [None, ModuleType("cv2")])
def test_without_contributed_modules_the_error_says_what_to_install(
    found: ModuleType | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", found)
    with pytest.raises(ImportError, match=r"needs its contributed modules.*pip install 'orl\[opencv\]'"):
        opencv_selective_search(np.zeros((10, 10, 3), dtype=np.uint8), seed=0)
