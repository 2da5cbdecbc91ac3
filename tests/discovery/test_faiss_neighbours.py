import builtins
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.discovery import neighbours_by_loops
from torch import Tensor

from orl.discovery import faiss_neighbours
from orl.discovery.faiss_neighbours import (
    approximate_neighbours,
    build_index,
    load_index,
    num_lists_of,
    recall_against_exact,
    save_index,
    training_rows,
)
from orl.discovery.nearest_neighbours import nearest_neighbours, row_blocks, unit_vectors

faiss = pytest.importorskip("faiss")


def clustered(count: int = 600, dim: int = 16, seed: int = 0) -> Tensor:
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(20, dim))
    return unit_vectors(centres[generator.integers(20, size=count)] + 0.5 * generator.normal(size=(count, dim)))


def index_of(rows: Tensor, num_lists: int = 8, storage: str = "Flat", seed: int = 0, block_rows: int = 70) -> Any:
    return build_index(rows, row_blocks(rows, block_rows), num_lists, seed, storage)


def of_all(
    index: Any, rows: Tensor, num_neighbours: int, max_similarity: float = math.inf, num_probes: int = 100
) -> tuple[Tensor, Tensor]:
    return approximate_neighbours(index, rows, torch.arange(len(rows)), num_neighbours, max_similarity, num_probes)


@pytest.mark.parametrize("max_similarity", [math.inf, 0.9, 0.2, -0.5])
def test_with_every_cluster_searched_neighbours_are_the_exact_ones(max_similarity: float) -> None:
    rows = clustered(150)
    expected_ids, expected_values = neighbours_by_loops(rows.double().numpy(), 6, max_similarity)
    ids, values = of_all(index_of(rows), rows, 6, max_similarity)
    np.testing.assert_array_equal(ids.numpy(), expected_ids)
    np.testing.assert_allclose(values.numpy(), expected_values, atol=1e-6)


def test_half_precision_keeps_cosines_within_a_thousandth() -> None:
    rows = clustered()
    ids, values = of_all(index_of(rows, storage="SQfp16"), rows, 5)
    exact = (rows[:, None].double() * rows[ids].double()).sum(dim=2)
    torch.testing.assert_close(values.double(), exact, atol=1e-3, rtol=0)


def test_recall_is_one_with_every_cluster_searched_and_grows_with_their_number() -> None:
    rows = clustered(2000)
    index, some = index_of(rows, num_lists=40), torch.arange(0, 2000, 10)
    recalls = [
        recall_against_exact(index, rows[some], some, row_blocks(rows), 10, num_probes=probes) for probes in (1, 4, 40)
    ]
    assert recalls == sorted(recalls)
    assert 0.1 < recalls[0] < recalls[2] == 1.0


def test_recall_is_the_fraction_of_exact_neighbours_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clustered(50)
    exact, values = nearest_neighbours(rows[:2], torch.arange(2), row_blocks(rows), 4)
    found = exact.clone()
    found[0, :3], found[1, 0] = torch.tensor([-5, -6, -7]), -8
    monkeypatch.setattr(faiss_neighbours, "approximate_neighbours", lambda *_: (found.flip(1), values))
    recall = recall_against_exact(None, rows[:2], torch.arange(2), row_blocks(rows), 4)
    assert recall == (1 + 3) / 8


@given(st.integers(0, 2**20), st.integers(1, 8), st.sampled_from([math.inf, 0.8, 0.0]), st.integers(1, 6))
@settings(deadline=None, max_examples=20)
def test_neighbours_are_others_ordinary_ones_first_and_falling(
    seed: int, num_neighbours: int, max_similarity: float, num_probes: int
) -> None:
    rows = clustered(90, seed=seed)
    ids, values = of_all(index_of(rows, num_lists=5), rows, num_neighbours, max_similarity, num_probes)
    assert all(len({image, *row}) == num_neighbours + 1 for image, row in enumerate(ids.tolist()))
    near, falls = values > max_similarity, values[:, 1:] <= values[:, :-1]
    assert (falls | (near[:, 1:] & ~near[:, :-1])).all()
    assert (near[:, 1:] >= near[:, :-1]).all()


def test_duplicates_stay_neighbours_in_the_order_of_their_rows_and_the_image_never_does() -> None:
    rows = clustered(100)
    rows[[3, 50, 90]] = rows[3].clone()
    ids, _ = of_all(index_of(rows), rows, 3, num_probes=1)
    for image, others in ((3, [50, 90]), (50, [3, 90]), (90, [3, 50])):
        assert ids[image, :2].tolist() == others
    assert not (ids == torch.arange(100)[:, None]).any()


def test_other_images_are_found_behind_many_near_duplicates() -> None:
    rows = clustered(400)
    rows[:300] = rows[0].clone()
    ids, values = of_all(index_of(rows), rows, 3, max_similarity=0.99, num_probes=8)
    assert (ids[:300] >= 300).all()
    assert (values[:300] <= 0.99).all()


def test_near_duplicates_count_where_the_most_similar_images_have_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_neighbours, "MAX_CANDIDATES", 50)
    rows = clustered(400)
    rows[:300] = rows[0].clone()
    ids, _ = of_all(index_of(rows), rows[:300], 3, max_similarity=0.99, num_probes=8)
    assert (ids < 300).all()


def test_a_query_in_a_small_cluster_is_compared_with_more_of_them() -> None:
    rows = clustered(200)
    ids, _ = of_all(index_of(rows, num_lists=100), rows, 20, num_probes=1)
    assert ids.shape == (200, 20)
    assert (ids >= 0).all()


def test_an_index_gives_the_same_result_after_saving_and_rebuilding(tmp_path: Path) -> None:
    rows = clustered()
    index = index_of(rows, storage="SQfp16")
    expected = of_all(index, rows, 5, num_probes=2)
    save_index(index, tmp_path / "new" / "images.faiss")
    again = index_of(rows, storage="SQfp16", block_rows=333)
    assert faiss.serialize_index(again).tobytes() == faiss.serialize_index(index).tobytes()
    for other in (index, again, load_index(tmp_path / "new" / "images.faiss")):
        ids, values = of_all(other, rows, 5, num_probes=2)
        assert torch.equal(ids, expected[0])
        assert torch.equal(values, expected[1])
    part, _ = approximate_neighbours(index, rows[100:110], torch.arange(100, 110), 5, num_probes=2)
    assert torch.equal(part, expected[0][100:110])


def test_another_seed_gives_other_clusters() -> None:
    rows = clustered()
    first, second = (index_of(rows, seed=seed) for seed in (0, 1))
    assert faiss.serialize_index(first).tobytes() != faiss.serialize_index(second).tobytes()


@pytest.mark.parametrize(("num_images", "expected"), [(1, 1), (63, 1), (6400, 100), (118_287, 1376), (10**8, 40_000)])
def test_lists_grow_with_the_square_root_once_each_has_enough_images(num_images: int, expected: int) -> None:
    assert num_lists_of(num_images) == expected


def test_training_rows_are_distinct_rising_and_seeded() -> None:
    rows = training_rows(10_000, 50, seed=1)
    assert len(rows) == 50 * 64
    assert (np.diff(rows) > 0).all()
    assert 0 <= rows[0] < rows[-1] < 10_000
    np.testing.assert_array_equal(rows, training_rows(10_000, 50, seed=1))
    assert not np.array_equal(rows, training_rows(10_000, 50, seed=2))
    np.testing.assert_array_equal(training_rows(30, 4, seed=0), np.arange(30))


def test_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rows = tmp_path / "images.faiss", clustered(100)
    save_index(index_of(rows), path)
    before = path.read_bytes()

    def fails(index: Any, name: str) -> None:
        Path(name).write_bytes(b"half")
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(faiss, "write_index", fails)
    with pytest.raises(OSError, match=r"images.faiss \(No space left on device\)"):
        save_index(index_of(rows), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.9])
def test_a_truncated_index_is_refused(fraction: float, tmp_path: Path) -> None:
    path = tmp_path / "images.faiss"
    save_index(index_of(clustered(100)), path)
    complete = path.read_bytes()
    path.write_bytes(complete[: int(fraction * len(complete))])
    with pytest.raises(ValueError, match=r"images.faiss cannot be read.*delete it"):
        load_index(path)


def test_a_missing_index_is_refused_with_the_command_that_builds_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no index at .*orl discover"):
        load_index(tmp_path / "images.faiss")


@pytest.mark.parametrize("num_lists", [0, 31])
def test_a_sample_that_is_too_small_is_refused(num_lists: int) -> None:
    with pytest.raises(ValueError, match=rf"num_lists must be from 1 to the 30 sampled images, got {num_lists}"):
        index_of(clustered(30), num_lists=num_lists)


def test_too_few_images_are_refused() -> None:
    rows = clustered(30)
    with pytest.raises(ValueError, match=r"30 neighbours need at least 31 images.* 30"):
        of_all(index_of(rows, num_lists=2), rows, 30)


@pytest.mark.parametrize(("num_neighbours", "num_probes"), [(0, 1), (1, 0)])
def test_numbers_below_one_are_refused(num_neighbours: int, num_probes: int) -> None:
    rows = clustered(30)
    with pytest.raises(ValueError, match=f"must be at least 1, got {num_neighbours} and {num_probes}"):
        of_all(index_of(rows, num_lists=2), rows, num_neighbours, num_probes=num_probes)


def test_queries_of_another_length_are_refused() -> None:
    index = index_of(clustered(30), num_lists=2)
    with pytest.raises(ValueError, match="queries have 8 numbers and the index 16"):
        of_all(index, clustered(30, dim=8), 2)


def test_an_embedding_that_is_not_finite_is_refused() -> None:
    rows = clustered(100)
    broken = rows.clone()
    broken[5, 2] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        build_index(rows, row_blocks(broken), 2)
    with pytest.raises(ValueError, match="not finite"):
        of_all(index_of(rows), broken, 2)


def test_without_faiss_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == "faiss":
            raise ImportError("no module")
        return real_import(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'orl\[faiss\]'"):
        index_of(clustered(30), num_lists=2)
