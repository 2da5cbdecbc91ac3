"""Exact nearest neighbours of every photo, block by block."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK_ROWS = 1024
BLOCK_COLUMNS = 65_536


def nearest_neighbours(
    queries: Float[Tensor, "q d"],
    query_ids: Int[Tensor, "q"],
    embeddings: Float[Tensor, "n d"],
    num_neighbours: int,
    block_columns: int = BLOCK_COLUMNS,
) -> tuple[Int[Tensor, "q k"], Float[Tensor, "q k"]]:
    """The most similar other photos of each query, the most similar first.

    Args:
        queries: unit vectors; at most `BLOCK_ROWS` at a time keep the memory small.
        query_ids: row of each query in `embeddings`, which is left out by its identity: a duplicate of the
            photo stays a neighbour.
        embeddings: unit vectors of all photos, on the same device.
        num_neighbours: K.
        block_columns: photos compared at a time; changes memory, not the result.

    Returns:
        Rows of `embeddings` and cosine similarities; of equally similar photos the lower row comes first.

    Raises:
        ValueError: if there are not K other photos.
    """
    n = len(embeddings)
    if not 1 <= num_neighbours < n:
        raise ValueError(f"{num_neighbours} neighbours need at least {num_neighbours + 1} photos, and there are {n}")
    best_values = queries.new_full((len(queries), 0), 0.0)
    best_ids = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
    for start in range(0, n, block_columns):
        block = embeddings[start : start + block_columns]
        similarities = queries @ block.T
        own = (query_ids >= start) & (query_ids < start + len(block))
        similarities[own.nonzero().flatten(), query_ids[own] - start] = -torch.inf
        values, columns = similarities.topk(min(num_neighbours, len(block)), dim=1)
        values, ids = torch.cat([best_values, values], 1), torch.cat([best_ids, columns + start], 1)
        order = ids.argsort(dim=1)
        values, ids = values.gather(1, order), ids.gather(1, order)
        order = values.sort(dim=1, descending=True, stable=True).indices[:, :num_neighbours]
        best_values, best_ids = values.gather(1, order), ids.gather(1, order)
    return best_ids, best_values


def unit_rows(embeddings: Float[np.ndarray, "n d"]) -> Float[Tensor, "n d"]:
    """Embeddings as float32 unit vectors; a vector of zeros stays one."""
    return torch.nn.functional.normalize(torch.from_numpy(np.array(embeddings, dtype=np.float32)), dim=1)
