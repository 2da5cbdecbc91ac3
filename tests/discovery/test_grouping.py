import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.discovery.images import mottled, random_regions
from tests.reference.selective_search import bins_of_codes, group_by_loops

from orl.discovery.grouping import group_regions
from orl.discovery.texture import texture_codes

BLACK = [0, 0, 0]


def plain(labels: np.ndarray, colours: list[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw an image whose regions have these colours and no texture."""
    image = np.array(colours, dtype=np.uint8)[labels]
    return image, np.zeros((12, *labels.shape), dtype=np.uint8), np.zeros((12, 2), dtype=np.int64)


def group(labels: np.ndarray, colours: list[list[int]]) -> tuple[list[list[int]], list[int]]:
    found, levels = group_regions(*plain(labels, colours), labels.astype(np.int32)[None])
    return found.tolist(), levels.tolist()


def stripes(*widths: int) -> np.ndarray:
    return np.repeat(np.arange(len(widths)), widths)[None].repeat(6, axis=0)


def test_similar_colours_merge_first_and_without_colour_small_regions() -> None:
    found, levels = group(stripes(5, 10, 6), [[200, 0, 0], [0, 0, 50], [0, 0, 50]])
    leaves = [[0, 0, 5, 6], [5, 0, 15, 6], [15, 0, 21, 6]]
    assert found == [*leaves, [5, 0, 21, 6], [0, 0, 21, 6], *leaves, [0, 0, 15, 6], [0, 0, 21, 6]]
    assert levels == [1, 1, 1, 2, 3] * 2


def test_the_level_is_one_more_than_the_higher_of_the_two_parts() -> None:
    red, blue = [255, 0, 0], [0, 0, 255]
    found, levels = group(stripes(4, 4, 4, 4, 4), [red, red, blue, blue, blue])
    assert found[5:9] == [[12, 0, 20, 6], [0, 0, 8, 6], [8, 0, 20, 6], [0, 0, 20, 6]]
    assert levels[:9] == [1, 1, 1, 1, 1, 2, 2, 3, 4]


def test_of_equally_similar_pairs_the_later_merges_first() -> None:
    found, _ = group(stripes(4, 4, 4, 4), [BLACK] * 4)
    assert found[4:7] == [[8, 0, 16, 6], [0, 0, 8, 6], [0, 0, 16, 6]]


def test_a_merge_that_fills_its_box_is_preferred() -> None:
    # Both neighbours of region 0 have 12 pixels; one lies below it, the other makes an L.
    labels = np.full((9, 12), 3)
    labels[:3, :6], labels[3:5, :6], labels[:2, 6:12] = 0, 1, 2
    found, _ = group(labels, [BLACK] * 4)
    assert found[4] == [0, 0, 6, 5]


def test_similar_textures_merge_first() -> None:
    labels = stripes(6, 6, 6).astype(np.int32)
    image, codes, zeros = plain(labels, [BLACK] * 3)
    codes[:, labels == 0] = codes[:, labels == 1] = 17
    found, _ = group_regions(image, codes, zeros, labels[None])
    assert found[[3, 8]].tolist() == [[0, 0, 12, 6]] * 2


def test_neighbours_along_the_first_row_or_column_only_are_not_neighbours() -> None:
    # As in OpenCV. Regions 0 and 1 are alike and touch in the first row; they merge with what is below instead.
    labels = np.array([[0, 0, 1, 1], [2, 2, 2, 2], [2, 2, 2, 2]])
    for turned, alone in ((labels, [0, 0, 4, 1]), (np.ascontiguousarray(labels.T), [0, 0, 1, 4])):
        found, levels = group(turned, [BLACK, BLACK, [255, 255, 255]])
        assert alone not in found
        assert levels == [1, 1, 1, 2, 3] * 2


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 12), (12, 1)])
def test_an_image_of_one_row_or_column_has_regions_and_no_merges(size_hw: tuple[int, int]) -> None:
    labels = np.arange(size_hw[0] * size_hw[1]).reshape(size_hw) // 4
    found, levels = group(labels, [BLACK] * 3)
    assert len(found) == 2 * (labels.max() + 1)
    assert set(levels) == {1}


@pytest.mark.parametrize(("seed", "num_regions"), [(0, 20), (1, 30), (2, 45), (3, 90)])
def test_merges_are_those_of_the_slow_reference(seed: int, num_regions: int) -> None:
    image = mottled(seed, 24, 30)
    codes, zeros = texture_codes(image)
    labels = random_regions(seed, 24, 30, num_regions)
    boxes, levels = group_regions(image, codes, zeros, labels[None])
    theirs = [group_by_loops(image, bins_of_codes(codes, zeros), labels, colour) for colour in (True, False)]
    np.testing.assert_array_equal(boxes, np.concatenate([each[0] for each in theirs]))
    np.testing.assert_array_equal(levels, np.concatenate([each[1] for each in theirs]))


@given(st.integers(0, 1000), st.integers(1, 26), st.integers(1, 26), st.lists(st.integers(1, 40), max_size=3))
@settings(max_examples=25, deadline=None)
def test_several_segmentations_are_each_of_them_alone(seed: int, height: int, width: int, counts: list[int]) -> None:
    image = mottled(seed, height, width)
    codes = texture_codes(image)
    labels = np.stack([random_regions(seed + at, height, width, count) for at, count in enumerate([5, *counts])])
    boxes, levels = group_regions(image, *codes, labels)
    alone = [group_regions(image, *codes, each[None]) for each in labels]
    np.testing.assert_array_equal(boxes, np.concatenate([each[0] for each in alone]))
    np.testing.assert_array_equal(levels, np.concatenate([each[1] for each in alone]))


@given(st.integers(0, 1000), st.integers(2, 26), st.integers(2, 26), st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_segments_come_first_and_the_complete_image_last(seed: int, height: int, width: int, count: int) -> None:
    image, labels = mottled(seed, height, width), random_regions(seed, height, width, count)
    boxes, levels = group_regions(image, *texture_codes(image), labels[None])
    num_regions = int(labels.max()) + 1
    assert len(boxes) == len(levels) == 2 * (2 * num_regions - 1)
    for found, heights in zip(np.split(boxes, 2), np.split(levels, 2)):
        for number in range(num_regions):
            rows, columns = np.nonzero(labels == number)
            assert found[number].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert found[-1].tolist() == [0, 0, width, height]
        assert (heights[:num_regions] == 1).all()
        assert (heights[num_regions:] > 1).all()
        assert (found[:, :2] < found[:, 2:]).all()


def test_more_regions_than_the_tables_begin_with_are_grouped_alike() -> None:
    # Regions of two pixels far apart: pieces, neighbours and the queue of pairs all outgrow their first sizes.
    image = mottled(0, 60, 50)
    codes = texture_codes(image)
    tiny = np.tile(np.arange(1500).reshape(30, 50), (2, 1))
    labels = np.stack([tiny, random_regions(0, 60, 50, 30)]).astype(np.int32)
    boxes, levels = group_regions(image, *codes, labels)
    assert len(boxes) == 2 * 2999 + 2 * 59
    for start in (0, 2999):
        leaves = boxes[start : start + 1500]
        np.testing.assert_array_equal(leaves[:, 0] + 50 * leaves[:, 1], np.arange(1500))
        np.testing.assert_array_equal(leaves[:, 2:] - leaves[:, :2], np.tile([1, 31], (1500, 1)))
        assert boxes[start + 2998].tolist() == [0, 0, 50, 60]
    alone = group_regions(image, *codes, labels[1:])
    np.testing.assert_array_equal(boxes[2 * 2999 :], alone[0])
    np.testing.assert_array_equal(levels[2 * 2999 :], alone[1])
