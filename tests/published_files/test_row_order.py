import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orl.published_files.row_order import RowOrderedReader


def arrays_of(sizes: list[int]) -> list[np.ndarray]:
    return [
        np.full((size, 3), position, dtype=np.float32) + np.arange(3, dtype=np.float32)
        for position, size in enumerate(sizes)
    ]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(1, 5), st.randoms(use_true_random=False))
def test_arrays_are_returned_by_row_for_any_order_of_the_file(
    tmp_path_factory, sizes: list[int], step: int, random
) -> None:
    row_of = list(range(len(sizes)))
    random.shuffle(row_of)
    arrays = arrays_of(sizes)
    in_rows = RowOrderedReader(iter(arrays), np.array(row_of), tmp_path_factory.getbasetemp(), "f")
    found = [
        part for start in range(0, len(sizes), step) for part in in_rows(slice(start, min(start + step, len(sizes))))
    ]
    for position, row in enumerate(row_of):
        np.testing.assert_array_equal(found[row], arrays[position])
        assert found[row].dtype == np.float32


def test_a_file_in_the_order_of_the_run_is_read_only_as_far_as_needed(tmp_path: Path) -> None:
    read: list[int] = []
    in_rows = RowOrderedReader(iter(arrays_of([1, 2, 3, 4])), np.arange(4), tmp_path, "f", report=read.append)
    in_rows(slice(0, 2))
    assert len(read) == 2
    in_rows(slice(2, 4))
    assert read == [1, 1, 1, 1]


def test_slices_may_be_skipped(tmp_path: Path) -> None:
    in_rows = RowOrderedReader(iter(arrays_of([1, 2, 0, 4])), np.arange(4), tmp_path, "f")
    assert [len(part) for part in in_rows(slice(2, 4))] == [0, 4]


@pytest.mark.parametrize("number", [0, 3, 5, 9])
def test_another_number_of_images_is_refused_with_both_numbers(tmp_path: Path, number: int) -> None:
    in_rows = RowOrderedReader(iter(arrays_of([1] * number)), np.arange(4), tmp_path, "boxes.json")
    with pytest.raises(ValueError, match=rf"boxes\.json lists {number} images and the run has 4; .*rejected\.csv"):
        in_rows(slice(0, 4))


def test_nothing_is_left_on_disk(tmp_path: Path) -> None:
    in_rows = RowOrderedReader(iter(arrays_of([1, 2])), np.arange(2), tmp_path, "f")
    in_rows(slice(0, 2))
    gone = weakref.ref(in_rows)
    assert list(tmp_path.iterdir()) == []
    del in_rows
    assert gone() is None
