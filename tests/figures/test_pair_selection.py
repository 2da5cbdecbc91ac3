from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.reference import figure_choices

from orl import tables
from orl.figures.pair_selection import (
    best_correspondences,
    extreme_pairs,
    first_pairs,
    image_rows,
    random_pairs,
    ranked_neighbours,
    top_correspondences,
)

NUM_IMAGES = 5
Rows = list[tuple[int, int, float]]
# Image 1 has no correspondence; images 0 and 2 are each other's neighbours; those of a pair are not sorted.
ROWS: Rows = [(0, 2, 0.5), (0, 2, 0.9), (0, 3, 0.8), (2, 0, 0.95), (2, 4, 0.6), (3, 1, 0.7), (4, 0, 0.2), (4, 0, 0.1)]


def make_table(folder: Path, rows: Rows, rows_per_shard: int = 3) -> tables.Table:
    slices = tables.shard_slices(len(rows), rows_per_shard)
    tables.begin(folder, {"rows": repr(rows), "size": rows_per_shard}, len(slices), overwrite=True)
    image_ids, neighbour_ids, similarities = (np.array([row[at] for row in rows]) for at in range(3))
    for index, part in enumerate(slices):
        columns = {
            "image_id": image_ids[part].astype(np.int32),
            "neighbour_id": neighbour_ids[part].astype(np.int32),
            "roi": np.arange(len(rows), dtype=np.int64)[part],
            "neighbour_roi": 100 + np.arange(len(rows), dtype=np.int64)[part],
            "similarity": similarities[part].astype(np.float32),
        }
        tables.write_shard(folder, index, columns)
    return tables.load(folder)


IMAGE_IDS = np.array([0, 0, 0, 1, 1, 2], dtype=np.int32)
NEIGHBOUR_IDS = np.array([1, 1, 2, 0, 2, 0], dtype=np.int32)
SIMILARITIES = np.array([0.5, 0.9, 0.8, 0.95, 0.6, 0.7], dtype=np.float32)


@pytest.fixture
def table(tmp_path: Path) -> tables.Table:
    return make_table(tmp_path / "correspondences", ROWS)


@st.composite
def correspondences(draw: st.DrawFn) -> Rows:
    """Rows in the order of the images; few values of similarity, so that many are equal."""
    rows: Rows = []
    for image_id in range(NUM_IMAGES):
        others = [other for other in range(NUM_IMAGES) if other != image_id]
        for neighbour_id in draw(st.lists(st.sampled_from(others), unique=True, max_size=3)):
            values = draw(st.lists(st.sampled_from([-0.5, 0.0, 0.25, 0.5]), min_size=1, max_size=3))
            rows += [(image_id, neighbour_id, value) for value in values]
    return rows


def test_rows_of_an_image_are_found_across_shards(table: tables.Table) -> None:
    assert [list(image_rows(table, image_id)) for image_id in range(NUM_IMAGES)] == [
        [0, 1, 2],
        [],
        [3, 4],
        [5],
        [6, 7],
    ]


def test_neighbours_come_in_the_order_of_the_table_with_their_best_similarity(table: tables.Table) -> None:
    neighbour_ids, similarities = ranked_neighbours(table, 0)
    assert neighbour_ids.tolist() == [2, 3]
    np.testing.assert_array_equal(similarities, np.array([0.9, 0.8], dtype=np.float32))
    assert len(ranked_neighbours(table, 1)[0]) == 0


def test_the_best_correspondences_of_two_images_come_first(table: tables.Table) -> None:
    rois, neighbour_rois, similarities = best_correspondences(table, 0, 2, 5)
    assert (rois.tolist(), neighbour_rois.tolist()) == ([1, 0], [101, 100])
    assert best_correspondences(table, 0, 2, 1)[0].tolist() == [1]
    assert similarities[0] > similarities[1]


def test_an_unknown_similarity_comes_last(tmp_path: Path) -> None:
    unknown = make_table(tmp_path / "t", [(0, 1, np.nan), (0, 1, 0.3), (1, 2, np.nan), (2, 3, 0.1)])
    assert best_correspondences(unknown, 0, 1, 2)[0].tolist() == [1, 0]
    for sign, expected in {1: [(0, 1), (2, 3), (1, 2)], -1: [(2, 3), (0, 1), (1, 2)]}.items():
        assert extreme_pairs(unknown, NUM_IMAGES, 3, sign) == expected


def test_the_most_and_the_least_similar_are_known_by_hand(table: tables.Table) -> None:
    # (0, 2) is (2, 0) the other way round; image 2 is shown once; the best of (4, 0) is 0.2.
    assert extreme_pairs(table, NUM_IMAGES, 9, sign=1) == [(2, 0), (0, 3), (3, 1), (4, 0)]
    assert extreme_pairs(table, NUM_IMAGES, 2, sign=-1) == [(4, 0), (2, 4)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=correspondences(),
    num_pairs=st.integers(1, 6),
    sign=st.sampled_from([1, -1]),
    images_per_block=st.integers(1, 6),
    pool_size=st.integers(1, 8),
)
def test_any_block_and_pool_give_what_loops_over_the_table_give(
    tmp_path: Path, rows: Rows, num_pairs: int, sign: int, images_per_block: int, pool_size: int
) -> None:
    table = make_table(tmp_path / "t", rows)
    chosen = extreme_pairs(table, NUM_IMAGES, num_pairs, sign, images_per_block, pool_size)
    assert chosen == figure_choices.extreme_pairs(rows, num_pairs, sign)


def test_the_most_similar_pairs_are_those_of_top_correspondences(table: tables.Table) -> None:
    image_ids, neighbour_ids, similarities = (table.column(name) for name in ("image_id", "neighbour_id", "similarity"))
    rows = top_correspondences(image_ids, neighbour_ids, similarities, 3)
    assert extreme_pairs(table, NUM_IMAGES, 3, sign=1) == [(image_ids[row], neighbour_ids[row]) for row in rows]


def test_random_pairs_are_images_at_random_each_with_a_neighbour_at_random(tmp_path: Path) -> None:
    rows = [(image_id, (image_id + step) % 8, 0.1 * step) for image_id in range(8) for step in (1, 2, 5)]
    table = make_table(tmp_path / "t", rows)
    image_ids, neighbour_ids = (table.column(name) for name in ("image_id", "neighbour_id"))
    drawn = set()
    for seed in range(10):
        generator = np.random.default_rng(seed)
        expected = [
            (query, int(generator.choice(sorted(set(neighbour_ids[image_ids == query].tolist())))))
            for query in generator.permutation(8).tolist()[:4]
        ]
        pairs = random_pairs(table, 8, 4, np.random.default_rng(seed))
        assert pairs == expected
        drawn |= set(pairs)
    assert len(drawn) > 12


def test_random_and_first_pairs_leave_out_images_without_correspondences(table: tables.Table) -> None:
    drawn = random_pairs(table, NUM_IMAGES, 9, np.random.default_rng(0))
    assert sorted(image_id for image_id, _ in drawn) == [0, 2, 3, 4]
    assert first_pairs(table, NUM_IMAGES, 9) == [(0, 2), (2, 0), (3, 1), (4, 0)]
    assert first_pairs(table, NUM_IMAGES, 2) == [(0, 2), (2, 0)]
    assert len(random_pairs(table, NUM_IMAGES, 2, np.random.default_rng(0))) == 2


def test_an_empty_table_gives_no_pairs(tmp_path: Path) -> None:
    table = make_table(tmp_path / "t", [])
    assert extreme_pairs(table, NUM_IMAGES, 3, sign=1) == []
    assert first_pairs(table, NUM_IMAGES, 3) == []
    assert random_pairs(table, NUM_IMAGES, 3, np.random.default_rng(0)) == []


def test_top_correspondences_are_the_best_of_distinct_query_images_and_distinct_image_pairs():
    # Row 3 (1 -> 0) is best; row 1 is the same two images the other way round; then row 2 (0 -> 2);
    # row 5 (2 -> 0) is row 2 the other way round.
    assert top_correspondences(IMAGE_IDS, NEIGHBOUR_IDS, SIMILARITIES, 3) == [3, 2]


def test_top_correspondences_are_as_many_as_asked_for():
    assert top_correspondences(IMAGE_IDS, NEIGHBOUR_IDS, SIMILARITIES, 1) == [3]
