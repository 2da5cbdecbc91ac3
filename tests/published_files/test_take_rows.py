import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orl import tables
from orl.published_files.take_rows import ranges, take_rows


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tables.Table:
    """Ten rows in shards of 4, 0, 5 and 1."""
    folder = tmp_path_factory.mktemp("gather") / "table"
    edges = [0, 4, 4, 9, 10]
    for index in tables.begin(folder, {}, 4):
        rows = np.arange(edges[index], edges[index + 1])
        tables.write_shard(folder, index, {"number": rows, "box": np.outer(rows, [1, 10, 100]).astype(np.float32)})
    return tables.load(folder)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 9), max_size=20))
def test_rows_are_returned_in_the_given_order(table: tables.Table, rows: list[int]) -> None:
    wanted = np.array(rows, dtype=np.int64)
    np.testing.assert_array_equal(take_rows(table, "number", wanted), wanted)
    boxes = take_rows(table, "box", wanted)
    np.testing.assert_array_equal(boxes, np.outer(wanted, [1, 10, 100]))
    assert boxes.dtype == np.float32


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=8))
def test_ranges_equal_those_of_python(starts_and_counts: list[tuple[int, int]]) -> None:
    starts = np.array([start for start, _ in starts_and_counts], dtype=np.int64)
    stops = np.array([start + count for start, count in starts_and_counts], dtype=np.int64)
    assert ranges(starts, stops).tolist() == [
        each for start, count in starts_and_counts for each in range(start, start + count)
    ]
