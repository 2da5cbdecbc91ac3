"""Rows of a table from anywhere in it."""

import numpy as np
from jaxtyping import Int, Int64, Shaped
from numpy import ndarray

from orl import tables


def take_rows(table: tables.Table, name: str, rows: Int64[ndarray, "n"]) -> Shaped[ndarray, "n ..."]:
    """These rows of a column, in this order; each shard is opened once.

    Args:
        table: may be larger than the memory.
        name: the column.
        rows: row numbers in any order, with repetitions.
    """
    order = np.argsort(rows, kind="stable")
    edges = np.searchsorted(rows[order], table.shard_starts)
    like = table.shard_column(0, name)[:0]
    found = np.empty((len(rows), *like.shape[1:]), like.dtype)
    for shard in np.flatnonzero(np.diff(edges)).tolist():
        places = order[edges[shard] : edges[shard + 1]]
        found[places] = table.shard_column(shard, name)[rows[places] - table.shard_starts[shard]]
    return found


def ranges(starts: Int[ndarray, "n"], stops: Int[ndarray, "n"]) -> Int64[ndarray, "m"]:
    """The numbers from each start up to its stop, one range after the other."""
    counts = (stops - starts).astype(np.int64)
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(starts - before, counts)
