import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.reference.discovery import neighbours_by_loops
from torch import Tensor

from orl.discovery import nearest_neighbours as neighbours
from orl.discovery.nearest_neighbours import nearest_neighbours, row_blocks, unit_vectors


def embeddings(count: int, dim: int = 8, seed: int = 0) -> Tensor:
    return unit_vectors(np.random.default_rng(seed).normal(size=(count, dim)))


def of_all(rows: Tensor, num_neighbours: int, block_rows: int = 7, max_similarity: float = math.inf) -> tuple:
    blocks = row_blocks(rows, block_rows)
    return nearest_neighbours(rows, torch.arange(len(rows)), blocks, num_neighbours, max_similarity)


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_tile_size", lambda queries: (3, 40))


@pytest.mark.parametrize("block_rows", [1, 7, 16, 64, 1000])
@pytest.mark.parametrize("max_similarity", [math.inf, 0.5, -0.2])
def test_neighbours_equal_sorting_every_pair_for_every_block_size(block_rows: int, max_similarity: float) -> None:
    rows = embeddings(140)
    expected_ids, expected_values = neighbours_by_loops(rows.double().numpy(), 5, max_similarity)
    ids, values = of_all(rows, 5, block_rows, max_similarity)
    np.testing.assert_array_equal(ids.numpy(), expected_ids)
    np.testing.assert_array_equal(values.numpy(), expected_values.astype(np.float32))


@given(
    vectors=st.integers(3, 90).flatmap(lambda n: arrays(np.int8, (n, 3), elements=st.integers(-1, 2))),
    num_neighbours=st.integers(1, 12),
    cuts=st.lists(st.integers(1, 50), min_size=1, max_size=4),
    max_similarity=st.sampled_from([math.inf, 0.99, 0.5, 0.0, -2.0]),
    backwards=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_ties_and_duplicates_come_in_the_order_of_their_rows_however_blocks_are_cut(
    vectors: np.ndarray, num_neighbours: int, cuts: list[int], max_similarity: float, backwards: bool
) -> None:
    rows, num_neighbours = unit_vectors(vectors.astype(np.float32)), min(num_neighbours, len(vectors) - 1)

    def blocks() -> Iterator[tuple[int, Tensor]]:
        starts = [0]
        while starts[-1] < len(rows):
            starts.append(starts[-1] + cuts[len(starts) % len(cuts)])
        pairs = list(itertools.pairwise(starts))
        yield from ((start, rows[start:end]) for start, end in (pairs[::-1] if backwards else pairs))

    expected_ids, expected_values = neighbours_by_loops(rows.double().numpy(), num_neighbours, max_similarity)
    ids, values = nearest_neighbours(rows, torch.arange(len(rows)), blocks(), num_neighbours, max_similarity)
    np.testing.assert_array_equal(ids.numpy(), expected_ids)
    np.testing.assert_array_equal(values.numpy(), expected_values.astype(np.float32))


@given(st.integers(0, 2**31), st.integers(1, 6))
@settings(deadline=None, max_examples=20)
def test_neighbours_are_other_images_of_falling_similarity(seed: int, num_neighbours: int) -> None:
    ids, values = of_all(embeddings(30, seed=seed), num_neighbours)
    assert (values[:, 1:] <= values[:, :-1]).all()
    assert all(len({image, *row}) == num_neighbours + 1 for image, row in enumerate(ids.tolist()))


@pytest.mark.usefixtures("small_tiles")
def test_tiles_and_query_batches_do_not_change_a_bit() -> None:
    rows = embeddings(300, dim=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_tile_size", lambda queries: (1000, 1000))
        expected = of_all(rows, 4, 1000)
    assert_same(of_all(rows, 4, 90), expected)
    for part in torch.arange(300).split(110):
        found = nearest_neighbours(rows[part], part, row_blocks(rows, 128), 4)
        assert_same(found, (expected[0][part], expected[1][part]))


@pytest.mark.parametrize("num_queries", [0, 1, 100, 2000, 10**6])
def test_a_tile_is_bounded_however_many_queries(num_queries: int) -> None:
    rows, columns = neighbours._tile_size(torch.zeros(num_queries, 1))
    assert 1 <= rows * columns <= 2**23
    assert columns % neighbours.GROUP_COLUMNS == 0
    assert 4096 <= columns <= 16_384


@pytest.mark.parametrize("dense", [0, 10**9])
def test_similarities_are_the_same_one_by_one_and_as_one_product(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = embeddings(200, dim=32)
    expected = of_all(rows, 5, 50)
    monkeypatch.setattr(neighbours, "DENSE_RATIO", dense)
    assert_same(of_all(rows, 5, 50), expected)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("noise_scale", [0.0, 1e-7, 1e-5])
def test_a_collapsed_embedding_has_exact_neighbours(noise_scale: float) -> None:
    noise = np.random.default_rng(0).normal(size=(150, 16))
    rows = unit_vectors(np.ones(16) + noise_scale * noise)
    ids, _ = of_all(rows, 6, 64)
    np.testing.assert_array_equal(ids.numpy(), neighbours_by_loops(rows.double().numpy(), 6)[0])


def test_the_query_is_excluded_by_row_and_its_duplicates_stay() -> None:
    rows = embeddings(12)
    rows[[3, 5, 9]] = rows[3].clone()
    ids, values = of_all(rows, 3)
    for image, others in ((3, [5, 9]), (5, [3, 9]), (9, [3, 5])):
        assert ids[image, :2].tolist() == others
        assert image not in ids[image].tolist()
        torch.testing.assert_close(values[image, :2], torch.ones(2))


def test_identical_images_have_neighbours() -> None:
    ids, _ = of_all(unit_vectors(np.ones((6, 4))), 5, 2)
    for image in range(6):
        assert ids[image].tolist() == [other for other in range(6) if other != image]


def test_near_duplicates_come_last_and_only_where_others_run_out() -> None:
    angles = np.radians([0, 1, 60, 90, 2])
    rows = unit_vectors(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    ids, values = of_all(rows, 2, 2, max_similarity=0.99)
    assert ids[0].tolist() == [2, 3]
    torch.testing.assert_close(values[0], torch.tensor([0.5, 0.0]))
    ids, values = of_all(rows, 4, 2, max_similarity=0.99)
    assert ids[0].tolist() == [2, 3, 1, 4]
    torch.testing.assert_close(values[0, 2:], torch.tensor(np.cos(np.radians([1, 2])), dtype=torch.float32))


def test_a_query_that_is_no_image_may_have_all_images_as_neighbours() -> None:
    rows = embeddings(5)
    ids, _ = nearest_neighbours(rows[:1], torch.tensor([-1]), row_blocks(rows), 5)
    assert sorted(ids[0].tolist()) == [0, 1, 2, 3, 4]
    assert ids[0, 0] == 0


def test_half_precision_blocks_are_compared_at_their_stored_values() -> None:
    rows = embeddings(60)
    stored = rows.half()
    assert_same(of_all(stored, 4), of_all(stored.float(), 4))


@pytest.mark.parametrize("block_rows", [3, 64])
def test_queries_that_are_no_rows_have_the_neighbours_of_every_pair(block_rows: int) -> None:
    rows = embeddings(60)
    rows[40:50] = rows[10]
    queries, bank = rows[:12], rows[12:]
    cosines = queries.double() @ bank.double().T
    expected = [sorted(range(48), key=lambda row: (-np.float32(own[row]), row))[:6] for own in cosines.tolist()]
    ids, values = nearest_neighbours(queries, None, row_blocks(bank, block_rows), 6)
    assert ids.tolist() == expected
    assert torch.equal(values, cosines.gather(1, ids).float())


def test_a_query_finds_itself_in_a_bank_that_is_searched_without_query_ids() -> None:
    rows = embeddings(10)
    ids, values = nearest_neighbours(rows, None, row_blocks(rows), 1)
    assert ids.flatten().tolist() == list(range(10))
    torch.testing.assert_close(values, torch.ones(10, 1))


def test_a_bank_of_exactly_k_rows_is_enough_and_a_smaller_one_is_refused() -> None:
    rows = embeddings(6)
    ids, _ = nearest_neighbours(rows[:2], None, row_blocks(rows), 6)
    assert ids.sort(dim=1).values.tolist() == [list(range(6))] * 2
    with pytest.raises(ValueError, match=r"7 neighbours need at least 7 images, got 6"):
        nearest_neighbours(rows[:2], None, row_blocks(rows), 7)


def test_no_queries_have_no_neighbours() -> None:
    rows = embeddings(5)
    ids, values = nearest_neighbours(rows[:0], torch.arange(0), row_blocks(rows), 2)
    assert ids.shape == values.shape == (0, 2)


@pytest.mark.parametrize("num_neighbours", [10, 11])
def test_too_few_images_are_refused(num_neighbours: int) -> None:
    with pytest.raises(
        ValueError, match=rf"{num_neighbours} neighbours need at least {num_neighbours + 1} images.* 10"
    ):
        of_all(embeddings(10), num_neighbours)


def test_zero_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match="num_neighbours must be at least 1, got 0"):
        of_all(embeddings(10), 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_embedding_that_is_not_finite_is_refused(value: float) -> None:
    rows = embeddings(100)
    rows[70, 3] = value
    with pytest.raises(ValueError, match="not finite"):
        of_all(rows, 3, 64)


@pytest.mark.parametrize("block_rows", [1, 4, 10, 11])
def test_blocks_of_one_tensor_cover_it_in_order(block_rows: int) -> None:
    rows = embeddings(10)
    blocks = list(row_blocks(rows, block_rows))
    assert torch.equal(torch.cat([block for _, block in blocks]), rows)
    assert [start for start, _ in blocks] == list(range(0, 10, block_rows))


def test_a_vector_of_zeros_stays_zero() -> None:
    np.testing.assert_array_equal(
        unit_vectors(np.array([[0.0, 0.0], [3.0, 4.0]])).numpy(), np.float32([[0, 0], [0.6, 0.8]])
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("max_similarity", [math.inf, 0.4])
def test_a_gpu_finds_the_neighbours_of_the_cpu(max_similarity: float) -> None:
    rows = embeddings(5000, dim=64)
    expected = of_all(rows, 10, 5000, max_similarity)
    queries, ids = rows.cuda(), torch.arange(5000).cuda()
    found = nearest_neighbours(queries, ids, row_blocks(queries, 700), 10, max_similarity)
    assert_same((found[0].cpu(), found[1].cpu()), expected)
