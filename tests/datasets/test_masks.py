from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from orl.datasets.masks import box_of_mask, compress_mask, decode_masks, encode_masks

SIZE_WH = (30, 20)


def random_masks(seed: int, count: int = 3, size_wh: tuple[int, int] = SIZE_WH) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.random((count, size_wh[1], size_wh[0])) < generator.random()


@given(st.integers(0, 10**6), st.integers(0, 4), st.integers(1, 40), st.integers(1, 40))
def test_masks_survive_the_round_trip_and_are_pycocotools_rle(seed: int, count: int, width: int, height: int) -> None:
    masks = random_masks(seed, count, (width, height))
    rles = encode_masks(masks)
    assert rles == [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    np.testing.assert_array_equal(decode_masks(rles, (width, height)), masks)


@given(st.integers(0, 10**6))
def test_the_three_formats_give_one_mask(seed: int) -> None:
    mask = random_masks(seed, 1)[0]
    rle = encode_masks(mask[None])[0]
    flat = mask.ravel(order="F")
    counts, value = [], False
    while len(flat):
        run = int(np.argmax(flat != value)) if (flat != value).any() else len(flat)
        counts.append(run)
        flat, value = flat[run:], not value
    uncompressed = {"size": [20, 30], "counts": counts}
    assert compress_mask(uncompressed, SIZE_WH) == rle
    assert compress_mask({"size": [20, 30], "counts": rle["counts"].decode()}, SIZE_WH) == rle
    assert compress_mask(rle, SIZE_WH) == rle


@given(st.lists(st.lists(st.floats(-3, 33), min_size=6, max_size=6), min_size=1, max_size=3))
def test_polygons_are_filled_as_pycocotools_does(polygons: list[list[float]]) -> None:
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 20, 30)))
    np.testing.assert_array_equal(decode_masks([polygons], SIZE_WH)[0], expected.astype(bool))


def test_several_polygons_are_one_object() -> None:
    polygons = [[2, 3, 8, 3, 8, 7, 2, 7], [20, 10, 24, 10, 24, 14, 20, 14]]
    expected = np.zeros((20, 30), dtype=bool)
    expected[3:7, 2:8] = True
    expected[10:14, 20:24] = True
    np.testing.assert_array_equal(decode_masks([polygons], SIZE_WH)[0], expected)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], r"must be a list of polygons or an RLE, got \[\]"),
        ("abc", "must be a list of polygons or an RLE, got 'abc'"),
        ([[1, 2, float("nan"), 4, 5, 6]], r"a polygon must be near its image, got \[\[1, 2, nan"),
        ([[1, 2, 1e9, 4, 5, 6]], "a polygon must be near its image"),
        ([[1, 2, 10**400, 4, 5, 6]], "a polygon must contain numbers only"),
        ([[1, 2, 3, 4]], r"at least three corners, got \[1, 2, 3, 4\]"),
        ([[1, 2, 3, 4, 5, 6, 7]], "at least three corners"),
        ([[1, 2, 3, 4, 5, "x"]], "must contain numbers only"),
        ({"size": [30, 20], "counts": [600]}, r"height and width \[20, 30\] of its image, got \[30, 20\]"),
        ({"size": [20, 30], "counts": [599]}, "must have the 600 pixels of its image, got 599"),
        ({"size": [20, 30], "counts": [-1, 601]}, "must be text or a list of runs"),
        ({"size": [20, 30]}, "must be text or a list of runs, got None"),
    ],
)
def test_damaged_masks_are_refused(segmentation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compress_mask(segmentation, SIZE_WH)


def test_a_compressed_mask_of_a_larger_image_is_refused() -> None:
    rle = encode_masks(np.zeros((1, 50, 60), dtype=bool))[0]
    with pytest.raises(ValueError, match="must have the 600 pixels of its image, got 3000"):
        compress_mask({"size": [20, 30], "counts": rle["counts"]}, SIZE_WH)


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40))
def test_the_box_of_a_mask_is_the_smallest_around_its_pixels(seed: int, width: int, height: int) -> None:
    mask = random_masks(seed, 1, (width, height))[0] & random_masks(seed + 1, 1, (width, height))[0]
    found = box_of_mask(encode_masks(mask[None])[0])
    rows, columns = np.nonzero(mask)
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0, 0, 0, 0]
    assert found.tolist() == expected
