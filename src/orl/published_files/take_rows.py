"""Selection of arbitrary rows of a table."""

import numpy as np
from jaxtyping import Int, Int64, Shaped
from numpy import ndarray

from orl import tables


def take_rows(table: tables.Table, name: str, rows: Int64[ndarray, "n"]) -> Shaped[ndarray, "n ..."]:
    """Return rows of a column in the given order; each shard is opened once.

    Args:
        table: table of any size, also larger than the memory.
        name: name of the column.
        rows: row numbers in any order, with repetitions.
    """
    order = np.argsort(rows, kind="stable")
    edges = np.searchsorted(rows[order], table.shard_starts)
    like = table.shard_column(0, name)[:0]
    found = np.empty((len(rows), *like.shape[1:]), like.dtype)
    for shard in np.flatnonzero(np.diff(edges)).tolist():
        positions = order[edges[shard] : edges[shard + 1]]
        found[positions] = table.shard_column(shard, name)[rows[positions] - table.shard_starts[shard]]
    return found


def ranges(starts: Int[ndarray, "n"], stops: Int[ndarray, "n"]) -> Int64[ndarray, "m"]:
    """Concatenate the ranges from each start up to its stop (exclusive)."""
    counts = (stops - starts).astype(np.int64)
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(starts - before, counts)
