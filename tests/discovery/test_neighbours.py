import numpy as np
import pytest
import torch
from tests.reference.discovery import neighbours_by_loops

from orl.discovery.neighbours import nearest_neighbours, unit_rows


def embeddings(count: int, seed: int = 0) -> torch.Tensor:
    return unit_rows(np.random.default_rng(seed).normal(size=(count, 8)))


@pytest.mark.parametrize("block_columns", [1, 7, 16, 1000])
def test_neighbours_equal_sorting_every_pair_for_every_block_size(block_columns: int) -> None:
    rows = embeddings(40)
    expected_ids, expected_values = neighbours_by_loops(rows.double().numpy(), 5)
    ids, values = nearest_neighbours(rows, torch.arange(40), rows, 5, block_columns)
    np.testing.assert_array_equal(ids.numpy(), expected_ids)
    np.testing.assert_allclose(values.numpy(), expected_values, atol=1e-6)


def test_a_query_may_be_any_part_of_the_photos() -> None:
    rows = embeddings(30)
    ids, _ = nearest_neighbours(rows, torch.arange(30), rows, 4)
    part, _ = nearest_neighbours(rows[10:15], torch.arange(10, 15), rows, 4)
    assert torch.equal(part, ids[10:15])


def test_a_photo_is_left_out_by_identity_and_its_duplicates_stay() -> None:
    rows = embeddings(12)
    rows[[3, 5, 9]] = rows[3].clone()
    ids, values = nearest_neighbours(rows, torch.arange(12), rows, 3)
    for photo, others in ((3, [5, 9]), (5, [3, 9]), (9, [3, 5])):
        assert ids[photo, :2].tolist() == others
        assert photo not in ids[photo].tolist()
        torch.testing.assert_close(values[photo, :2], torch.ones(2))


def test_all_photos_alike_still_gives_others() -> None:
    rows = unit_rows(np.ones((6, 4)))
    ids, _ = nearest_neighbours(rows, torch.arange(6), rows, 5, 2)
    for photo in range(6):
        assert ids[photo].tolist() == [other for other in range(6) if other != photo]


@pytest.mark.parametrize("num_neighbours", [0, 10, 11])
def test_too_few_photos_are_refused(num_neighbours: int) -> None:
    rows = embeddings(10)
    with pytest.raises(ValueError, match=rf"{num_neighbours} neighbours need at least {num_neighbours + 1} photos"):
        nearest_neighbours(rows, torch.arange(10), rows, num_neighbours)


def test_a_row_of_zeros_stays_one() -> None:
    np.testing.assert_array_equal(
        unit_rows(np.array([[0.0, 0.0], [3.0, 4.0]])).numpy(), np.float32([[0, 0], [0.6, 0.8]])
    )
