import ctypes
import ctypes.util
import doctest
import inspect
import logging
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.discovery.images import mottled
from tests.reference.selective_search import (
    bins_by_loops,
    group_by_loops,
    rand_by_loops,
    rank_by_loops,
    segment_by_loops,
)

from orl.boxes import iou
from orl.datasets.decode import load_image
from orl.datasets.labels import LabelledSplit
from orl.datasets.sources import read_labels
from orl.discovery import colour_spaces, graph_segmentation, grouping, selective_search, texture
from orl.discovery.opencv_search import opencv_selective_search
from orl.synthetic.scenes import Scene, draw_scene

search = selective_search.selective_search
sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def two_squares() -> np.ndarray:
    image = np.full((96, 128, 3), 40, dtype=np.uint8)
    image[16:56, 16:56] = (220, 30, 30)
    image[40:88, 72:120] = (30, 200, 60)
    return image


def jaccard(found: np.ndarray, others: np.ndarray) -> float:
    """Boxes that both hold over boxes that either holds."""
    ours, theirs = set(map(tuple, found.tolist())), set(map(tuple, others.tolist()))
    return len(ours & theirs) / len(ours | theirs)


def assert_proposals(found: np.ndarray, image: np.ndarray) -> None:
    """Boxes of at least a pixel, inside the image, each once."""
    height, width, _ = image.shape
    assert found.dtype == np.float32
    assert len(found) > 0
    assert (found[:, :2] >= 0).all()
    assert (found[:, 2:] <= [width, height]).all()
    assert (found[:, 2:] > found[:, :2]).all()
    assert len(np.unique(found, axis=0)) == len(found)


def coco_images(real_data: Path, count: int) -> tuple[LabelledSplit, list[int]]:
    """Choose every n-th image of a COCO data set."""
    labels = read_labels(real_data / "coco-mini" / "annotations" / "instances_train2017.json")
    assert labels is not None
    return labels, list(range(0, len(labels), len(labels) // count))[:count]


def scene(index: int, size_wh: tuple[int, int] = (192, 144)) -> Scene:
    return draw_scene(11, index, size_wh)


# Known answers and the slow reference.


def test_squares_of_one_colour_are_found() -> None:
    squares = np.array([[16, 16, 56, 56], [72, 40, 120, 88]], dtype=np.float32)
    # The search smooths before it segments, which moves an edge by a pixel or two.
    assert iou(squares, search(two_squares(), seed=0)).max(axis=1).min() > 0.85


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 130), (2, 2), (30, 50)])
def test_an_image_of_one_colour_is_its_own_proposal(size_hw: tuple[int, int]) -> None:
    found = search(np.full((*size_hw, 3), 130, dtype=np.uint8), seed=0)
    assert found.tolist() == [[0, 0, size_hw[1], size_hw[0]]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_boxes_and_their_order_are_those_of_the_slow_reference(seed: int) -> None:
    pixels = mottled(seed, 40, 54, patch_px=17)
    boxes, levels = [], []
    for image in (colour_spaces.to_hsv(pixels), colour_spaces.to_lab(pixels)):
        bins = bins_by_loops(image)
        for scale in (150, 300, 450):
            labels = segment_by_loops(image, scale)
            for with_colour in (True, False):
                found = group_by_loops(image, bins, labels, with_colour)
                boxes += found[0]
                levels += found[1]
    draws = np.array(rand_by_loops(seed, len(boxes))) / (2**31 - 1)
    wanted = rank_by_loops(np.array(boxes), np.array(levels), draws)
    assert len(wanted) > 10
    assert search(pixels, seed).tolist() == wanted


def test_small_random_numbers_and_low_levels_rank_first(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.array([0.9, 0.4, 0.1, 0.3, 0.2]) * (2**31 - 1)
    monkeypatch.setattr(selective_search, "c_random", lambda seed, count: draws[:count])
    one, two, three = [0, 0, 65535, 1], [0, 1, 2, 65535], [0, 0, 2, 2]
    # In order of draw times level: 0.1 of one, 0.4 of three, 0.4 of two, 0.6 of three, 0.9 of one.
    regions, levels = np.array([one, three, one, three, two]), np.array([1, 1, 1, 2, 2])
    assert selective_search.rank(regions, levels, seed=0).tolist() == [one, three, two]


def test_of_equal_ranks_the_first_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selective_search, "c_random", lambda seed, count: np.full(count, 7.0))
    regions = np.arange(4 * 300).reshape(300, 4)
    ranked = selective_search.rank(regions, np.ones(300, dtype=int), seed=0)
    np.testing.assert_array_equal(ranked, regions)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
@settings(max_examples=50, deadline=None)
def test_ranks_are_those_of_the_slow_reference(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    corners = generator.choice([0, 1, 2, 2**15 - 1, 2**15, 2**16 - 1], (count, 4))
    levels = generator.integers(1, 9, count)
    draws = np.array(rand_by_loops(seed, count)) / (2**31 - 1)
    assert selective_search.rank(corners, levels, seed).tolist() == rank_by_loops(corners, levels, draws)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_first_random_numbers_are_the_known_ones(seed: int) -> None:
    known = [1804289383, 846930886, 1681692777, 1714636915, 1957747793]
    assert selective_search.c_random(seed, 5).tolist() == known


@given(st.integers(-(2**40), 2**40) | st.sampled_from([2**31 - 1, 2**31, 2**32 - 1, 2**32]))
@settings(deadline=None)
def test_random_numbers_are_those_of_the_slow_reference(seed: int) -> None:
    assert selective_search.c_random(seed, 40).tolist() == rand_by_loops(seed, 40)


@pytest.mark.parametrize("seed", [0, 1, 77, 2**31 - 1, 2**31, 3 * 10**9, 2**32 - 1])
def test_random_numbers_are_those_of_the_c_library(seed: int) -> None:
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        pytest.skip("not the GNU C library")
    library.srand(ctypes.c_uint(seed))
    assert selective_search.c_random(seed, 500).tolist() == [library.rand() for _ in range(500)]


# OpenCV.


def test_boxes_are_those_of_opencv_on_synthetic_scenes() -> None:
    pytest.importorskip("cv2.ximgproc")
    pairs = [(search(image, seed), opencv_selective_search(image, seed)) for seed, image in random_images()]
    agreement = [jaccard(*pair) for pair in pairs]
    # Where two edges or two similarities are equal the order is a matter of the sort.
    assert np.mean(agreement) >= 0.99
    assert min(agreement) >= 0.9
    assert sum(np.array_equal(*pair) for pair in pairs) >= len(pairs) // 2


def random_images() -> list[tuple[int, np.ndarray]]:
    """Seeds and images, small ones and large ones, the last two much longer than wide."""
    sizes_wh = [(150, 120), (151, 121), (90, 200), (152, 119), (300, 60), (50, 280)]
    return [(2**31 * (index % 2) + index, scene(index, size_wh).image) for index, size_wh in enumerate(sizes_wh)]


@pytest.mark.parametrize("which", range(4))
def test_boxes_are_those_of_opencv_on_an_image(real_data: Path, which: int) -> None:
    pytest.importorskip("cv2.ximgproc")
    labels, rows = coco_images(real_data, 4)
    image = load_image(labels.root / labels.names[rows[which]])
    assert jaccard(search(image, which), opencv_selective_search(image, which)) >= 0.98


@pytest.mark.slow
def test_boxes_and_objects_found_are_those_of_opencv_on_forty_images(real_data: Path) -> None:
    pytest.importorskip("cv2.ximgproc")
    labels, rows = coco_images(real_data, 40)
    agreement, best, best_of_opencv = [], [], []
    for row in rows:
        image = load_image(labels.root / labels.names[row])
        ours, theirs = search(image, row), opencv_selective_search(image, row)
        agreement.append(jaccard(ours, theirs))
        if len(labels.boxes[row]):
            best += iou(labels.boxes[row], ours).max(axis=1).tolist()
            best_of_opencv += iou(labels.boxes[row], theirs).max(axis=1).tolist()
    assert len(best) > 100
    assert np.mean(agreement) >= 0.99
    assert abs(np.mean(best) - np.mean(best_of_opencv)) <= 0.005


# Laws.


@given(st.integers(0, 1000), sizes, st.floats(0.05, 1))
@settings(max_examples=40, deadline=None)
def test_boxes_lie_inside_the_image_each_once(seed: int, size_hw: tuple[int, int], scale: float) -> None:
    image = mottled(seed, *size_hw)
    assert_proposals(search(image, seed, scale), image)


@pytest.mark.parametrize(
    "size_hw", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (1, 700), (700, 1), (2, 300), (300, 2), (40, 400), (400, 40)]
)
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_images_of_odd_shapes_are_searched(size_hw: tuple[int, int], scale: float) -> None:
    image = mottled(4, *size_hw, patch_px=30)
    found = search(image, 0, scale)
    assert_proposals(found, image)
    if min(size_hw) > 1:
        assert [0, 0, size_hw[1], size_hw[0]] in found.tolist()


def test_the_order_depends_on_image_and_seed_only() -> None:
    image = scene(0).image
    first = search(image, seed=3)
    search(two_squares(), seed=9)
    np.testing.assert_array_equal(search(image, seed=3), first)
    other = search(image, seed=4)
    assert not np.array_equal(other, first)
    assert jaccard(other, first) == 1


def test_two_threads_find_what_one_finds() -> None:
    images = [scene(index).image for index in range(6)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(search, images, range(6)))
    for seed, (image, found) in enumerate(zip(images, together)):
        np.testing.assert_array_equal(found, search(image, seed))


@pytest.mark.parametrize("index", range(3))
def test_at_half_size_the_same_objects_are_found(index: int) -> None:
    scene_of_index = scene(index, (400, 300))
    full, half = search(scene_of_index.image, 0), search(scene_of_index.image, 0, scale=0.5)
    assert_proposals(half, scene_of_index.image)
    assert len(half) < len(full)
    objects = np.array([each.box for each in scene_of_index.objects if not each.difficult], dtype=np.float32)
    assert iou(objects, half).max(axis=1).mean() > iou(objects, full).max(axis=1).mean() - 0.1
    large = full[(full[:, 2:] - full[:, :2]).min(axis=1) >= 80]
    assert iou(large, half).max(axis=1).mean() > 0.8


def test_at_half_size_corners_are_even_and_the_image_border_is_exact() -> None:
    image = scene(0).image
    found = search(image, 0, scale=0.5)
    assert (found % 2 == 0).all()
    assert [0, 0, 192, 144] in found.tolist()
    for width in range(1, 60):
        edges = search(np.full((2, width, 3), 9, dtype=np.uint8), 0, scale=0.37)
        assert edges.tolist() == [[0, 0, width, 2]]


def test_half_size_is_the_search_of_means_of_four_pixels() -> None:
    image = scene(1).image
    # First along the rows, then along the columns, each time rounded, halves up.
    rows = (image[:, ::2].astype(int) + image[:, 1::2] + 1) // 2
    small = ((rows[::2] + rows[1::2] + 1) // 2).astype(np.uint8)
    np.testing.assert_array_equal(search(image, 5, scale=0.5), 2 * search(small, 5))


def test_an_image_of_too_large_a_mean_side_is_searched_at_a_reduced_size(monkeypatch: pytest.MonkeyPatch) -> None:
    image = scene(2).image
    full_size, half, quarter = (search(image, 0, scale) for scale in (1, 0.5, 0.25))
    monkeypatch.setattr(selective_search, "MAX_SEARCHED_PIXELS", ((192 + 144) // 2) ** 2)
    np.testing.assert_array_equal(search(image, 0), full_size)
    monkeypatch.setattr(selective_search, "MAX_SEARCHED_PIXELS", ((96 + 72) // 2) ** 2)
    np.testing.assert_array_equal(search(image, 0), half)
    np.testing.assert_array_equal(search(image, 0, scale=0.25), quarter)


def test_a_very_long_image_is_searched_at_a_reduced_size(monkeypatch: pytest.MonkeyPatch) -> None:
    # Turned by 45 degrees it would be a square of 50,000 pixels a side.
    image = np.zeros((2, 70_000, 3), dtype=np.uint8)
    image[:, 35_000:] = 255
    monkeypatch.setattr(selective_search, "MAX_SEARCHED_PIXELS", 1000**2)
    found = search(image, 0)
    assert_proposals(found, image)
    wanted = np.array([[0, 0, 35_000, 2], [35_000, 0, 70_000, 2]], dtype=np.float32)
    assert iou(wanted, found).max(axis=1).min() > 0.99


def test_the_array_of_an_image_need_not_be_contiguous_or_writable() -> None:
    image = scene(3).image
    locked = image.copy()
    locked.setflags(write=False)
    np.testing.assert_array_equal(search(locked, 0), search(image, 0))
    cut = image[4:, ::-2]
    np.testing.assert_array_equal(search(cut, 0), search(cut.copy(), 0))
    standing = image.transpose(1, 0, 2)
    np.testing.assert_array_equal(search(standing, 0), search(np.ascontiguousarray(standing), 0))


def test_a_pil_image_of_any_mode_gives_the_boxes_of_its_rgb_array() -> None:
    image = two_squares()
    expected = search(image)
    np.testing.assert_array_equal(search(Image.fromarray(image)), expected)
    np.testing.assert_array_equal(search(Image.fromarray(image).convert("RGBA")), expected)
    gray = Image.fromarray(image).convert("L")
    np.testing.assert_array_equal(search(gray), search(np.stack([np.array(gray)] * 3, axis=-1)))


def test_the_seed_is_0_unless_it_is_given() -> None:
    image = scene(0).image
    np.testing.assert_array_equal(search(image), search(image, seed=0))
    assert not np.array_equal(search(image), search(image, seed=2))


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ("image.jpg", TypeError, "needs a PIL image or an RGB array, got str"),
        (torch.zeros(3, 8, 8), TypeError, r"got Tensor; for a torch tensor \(3, H, W\) pass tensor.permute"),
        (np.zeros((8, 9, 3)), TypeError, r"dtype uint8, got float64; for values in \[0, 1\]"),
        (np.zeros((8, 9), np.uint8), ValueError, r"shape \(height, width, 3\), got \(8, 9\); for a gray array"),
        (np.zeros((8, 9, 4), np.uint8), ValueError, r"shape \(height, width, 3\), got \(8, 9, 4\)"),
        (np.zeros((0, 9, 3), np.uint8), ValueError, r"at least one pixel, got an image of shape \(0, 9, 3\)"),
    ],
)
def test_anything_but_an_rgb_image_is_refused(image: Any, error: type[Exception], message: str) -> None:
    # Unwrapped, because the test suite checks the types in signatures, which a user's program does not.
    with pytest.raises(error, match=message):
        inspect.unwrap(search)(image)


def test_the_example_in_the_docstring_runs() -> None:
    assert doctest.testmod(selective_search) == (0, 5)


def test_the_image_is_not_changed() -> None:
    image = scene(3).image
    before = image.copy()
    search(image, 0)
    np.testing.assert_array_equal(image, before)


# Compilation.


def compiled_functions() -> dict[str, Any]:
    """Return Numba's compiled loops by module and name."""
    modules: list[ModuleType] = [colour_spaces, graph_segmentation, grouping, selective_search, texture]
    return {
        f"{module.__name__}.{name}": function
        for module in modules
        for name, function in vars(module).items()
        if hasattr(function, "signatures")
    }


def test_every_loop_releases_the_global_lock_and_is_cached_on_disk() -> None:
    functions = compiled_functions()
    assert len(functions) > 20
    for function in functions.values():
        assert function.targetoptions["nogil"]
        assert function.stats.cache_path


def test_nothing_is_compiled_again_for_another_image() -> None:
    script = """
import numpy as np
from orl.discovery import colour_spaces, graph_segmentation, grouping, selective_search, texture

modules = [colour_spaces, graph_segmentation, grouping, selective_search, texture]
functions = [each for module in modules for each in vars(module).values() if hasattr(each, "signatures")]
selective_search.compile_search()
before = [len(each.signatures) for each in functions]
image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
image.setflags(write=False)
for searched in (image, image[::2, ::-1], image[:1], image[:1, :1]):
    for scale in (1.0, 0.5):
        selective_search.selective_search(searched, 3, scale)
print([each.__name__ for each, count in zip(functions, before) if len(each.signatures) != count])
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize(("seconds", "notices"), [(0.2, ["compiling selective search"]), (0.0, [])])
def test_a_compilation_is_announced_when_it_takes_long_and_only_then(
    seconds: float, notices: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def slowly(image: np.ndarray) -> np.ndarray:
        time.sleep(seconds)
        return image

    monkeypatch.setattr(selective_search, "to_hsv", slowly)
    monkeypatch.setattr(selective_search, "COMPILE_NOTICE_S", 0.1 if seconds else 60)
    selective_search.compile_search.cache_clear()
    with caplog.at_level(logging.INFO, logger="orl"):
        selective_search.compile_search()
        selective_search.compile_search()
    assert [record.message.split(" for ")[0] for record in caplog.records] == notices
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    for timer in timers:
        timer.join(10)
        assert not timer.is_alive()


# Refusals.


@pytest.mark.parametrize("scale", [0.0, -0.5, 1.5, float("nan")])
def test_a_scale_outside_0_to_1_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=rf"scale must be in \(0, 1\], got {scale}"):
        search(two_squares(), 0, scale)
