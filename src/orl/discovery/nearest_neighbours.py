"""Exact nearest neighbours of images by cosine similarity, computed block by block."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK_ROWS = 65_536
DENSE_RATIO = 32
"""All exact products are computed at once if more than one pair in 32 is a candidate, as in a collapsed embedding."""
NO_ROW = -1
"""Row of no image: the neighbour that is not found yet, and what a query outside the bank excludes."""
GROUP_COLUMNS = 32
"""Columns that are first compared by their maximum; the width of a tile is a multiple."""


def nearest_neighbours(
    queries: Float[Tensor, "q d"],
    query_ids: Int[Tensor, "q"] | None,
    blocks: Iterable[tuple[int, Float[Tensor, "b d"]]],
    num_neighbours: int,
    max_similarity: float = math.inf,
) -> tuple[Int[Tensor, "q k"], Float[Tensor, "q k"]]:
    """Find the most similar other images of each query, the most similar first.

    Beyond the arguments and one block, the memory needed is one tile of similarities. Candidates are compared again in
    double precision, each by itself. The result therefore does not depend on the sizes of batches and blocks or on the
    number of threads. One exception: another order of summation may change the last bit of a float32, about once in
    10^8 similarities.

    Args:
        queries: unit vectors.
        query_ids: row of each query among all images, which is excluded from its neighbours. A duplicate of the image
            under another row stays a neighbour. None if the queries are not among the images, such as patches that
            are compared with a memory bank.
        blocks: (first row, unit vectors of consecutive rows) of all images, each row once, in any order, on the
            device of the queries.
        num_neighbours: K.
        max_similarity: images more similar than this are near-duplicates, and are sorted after all others.

    Returns:
        Rows and cosine similarities; of equally similar images the lower row comes first.

    Raises:
        ValueError: if there are fewer than K images besides the query, or an embedding is not finite.
    """
    if num_neighbours < 1:
        raise ValueError(f"num_neighbours must be at least 1, got {num_neighbours}")
    ranks = queries.new_full((len(queries), num_neighbours), -torch.inf, dtype=torch.float64)
    ids = torch.full((len(queries), num_neighbours), NO_ROW, device=queries.device)
    excluded = ids.new_full((len(queries),), NO_ROW) if query_ids is None else query_ids
    tile_rows, tile_columns = _tile_size(queries)
    batches = [
        _Batch(queries[part], excluded[part], ranks[part], ids[part], max_similarity)
        for part in (slice(start, start + tile_rows) for start in range(0, len(queries), tile_rows))
    ]
    num_images = 0
    for first_row, block in blocks:
        for offset in range(0, len(block), tile_columns):
            for batch in batches:
                _update_best(batch, first_row + offset, block[offset : offset + tile_columns])
        num_images += len(block)
    if (ids < 0).any():
        raise too_few_images(num_neighbours, num_images, num_excluded=0 if query_ids is None else 1)
    return ids, similarities_of(ranks)


def row_blocks(
    embeddings: Float[Tensor, "n d"], block_rows: int = BLOCK_ROWS
) -> Iterator[tuple[int, Float[Tensor, "_ d"]]]:
    """Split one tensor into the blocks that `nearest_neighbours` takes."""
    for first_row in range(0, len(embeddings), block_rows):
        yield first_row, embeddings[first_row : first_row + block_rows]


def unit_vectors(embeddings: Float[np.ndarray, "n d"]) -> Float[Tensor, "n d"]:
    """Normalise embeddings to float32 unit vectors; a vector of zeros stays zero."""
    return torch.nn.functional.normalize(torch.from_numpy(np.array(embeddings, dtype=np.float32)), dim=1)


def ranks_of(similarities: Float[Tensor, "..."], max_similarity: float) -> Float[Tensor, "..."]:
    """Return the ranks that neighbours are sorted by: the cosine, minus 4 for a near-duplicate."""
    if max_similarity == math.inf:
        return similarities
    return torch.where(similarities > max_similarity, similarities - 4, similarities)


def similarities_of(ranks: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the cosines that belong to ranks in double precision."""
    return torch.where(ranks < -2, ranks + 4, ranks).float()


def best_of(
    ranks: Float[Tensor, "q m"], ids: Int[Tensor, "q m"], num_best: int
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """Return the highest ranks of each row and their images, the highest first; of equal ranks the lower image."""
    order = ids.argsort(dim=1)
    by_rank = ranks.gather(1, order).argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, by_rank)[:, :num_best]
    return ranks.gather(1, order), ids.gather(1, order)


def too_few_images(num_neighbours: int, num_images: int, num_excluded: int = 1) -> ValueError:
    """Return the error for more neighbours than there are images besides the excluded ones."""
    return ValueError(
        f"{num_neighbours} neighbours need at least {num_neighbours + num_excluded} images, got {num_images}; "
        "add images or ask for fewer neighbours"
    )


@dataclass(frozen=True)
class _Batch:
    """A batch of queries and their best neighbours so far, the best first; -inf and -1 where none has been found."""

    queries: Float[Tensor, "q d"]
    query_ids: Int[Tensor, "q"]
    """Row that is excluded from the neighbours of each query, or `NO_ROW`."""
    ranks: Float[Tensor, "q k"]
    ids: Int[Tensor, "q k"]
    max_similarity: float


def _tile_size(queries: Float[Tensor, "q d"]) -> tuple[int, int]:
    """Return the numbers of queries and of images per tile; few queries are compared with more images."""
    max_rows, num_similarities, max_columns = (4096, 2**27, 65_536) if queries.is_cuda else (2048, 2**23, 16_384)
    rows = max(1, min(len(queries), max_rows))
    return rows, min(num_similarities // rows // GROUP_COLUMNS * GROUP_COLUMNS, max_columns)


def _update_best(batch: _Batch, first_row: int, tile: Float[Tensor, "t d"]) -> None:
    """Update the best neighbours with the images of a tile."""
    similarities = batch.queries.float() @ tile.float().T
    rows, columns = _candidates(batch, similarities)
    ranks = _exact_ranks(batch, rows, tile, columns)
    ids = columns + first_row
    worst_ranks, worst_ids = batch.ranks[rows, -1], batch.ids[rows, -1]
    kept = (ids != batch.query_ids[rows]) & ((ranks > worst_ranks) | ((ranks == worst_ranks) & (ids < worst_ids)))
    if kept.any():
        _merge(batch, rows[kept], ranks[kept], ids[kept])


def _rounding(queries: Float[Tensor, "q d"]) -> float:
    """Bound the error of a float32 product of unit vectors; a GPU may compute it in TF32."""
    return (queries.shape[1] + 4) * torch.finfo(torch.float32).eps + (2.0**-9 if queries.is_cuda else 0.0)


def _candidates(batch: _Batch, similarities: Float[Tensor, "q t"]) -> tuple[Int[Tensor, "c"], Int[Tensor, "c"]]:
    """Return rows and columns, in order, of all entries that may be among the best.

    One fast pass computes the maximum of each group of columns, and few groups remain. On a CPU this costs a twentieth
    of `topk`.
    """
    margin = _rounding(batch.queries)
    floor = _floor(batch, similarities, margin)
    if ragged := -similarities.shape[1] % GROUP_COLUMNS:
        similarities = torch.nn.functional.pad(similarities, (0, ragged), value=-torch.inf)
    groups = similarities.unflatten(1, (-1, GROUP_COLUMNS))
    maxima = groups.amax(dim=2)
    if not torch.isfinite(maxima).all():
        raise ValueError("an embedding is not finite; the network that made it has diverged, so train it again")
    rows, group = (maxima >= floor[:, None]).nonzero().unbind(dim=1)
    highest = ranks_of(groups[rows, group], batch.max_similarity + margin)
    found, offset = (highest >= floor[rows, None]).nonzero().unbind(dim=1)
    return rows[found], group[found] * GROUP_COLUMNS + offset


def _floor(batch: _Batch, similarities: Float[Tensor, "q t"], margin: float) -> Float[Tensor, "q"]:
    """Return a lower bound of the computed ranks of the best images.

    At least K images reach it: those found before, or those of this tile besides the query.
    """
    worst = batch.ranks[:, -1].float()
    num_certain = batch.ranks.shape[1] + 1
    if similarities.shape[1] >= num_certain and torch.isinf(worst).any():
        lowest = ranks_of(similarities, batch.max_similarity - margin)
        worst = torch.maximum(worst, lowest.topk(num_certain, dim=1).values[:, -1])
    # A finite bound, because the columns that pad the last group have rank -inf.
    return (worst - 2 * margin).clamp(min=-8.0)


def _exact_ranks(
    batch: _Batch, rows: Int[Tensor, "c"], tile: Float[Tensor, "t d"], columns: Int[Tensor, "c"]
) -> Float[Tensor, "c"]:
    """Compute ranks in double precision, which do not depend on the other entries of the tile."""
    if len(rows) * DENSE_RATIO > len(batch.queries) * len(tile):
        cosines = (batch.queries.double() @ tile.double().T)[rows, columns]
    else:
        # One megabyte at a time stays in the CPU's cache: five times as fast.
        chunk = max(1, 2**17 // tile.shape[1])
        parts = [
            batch.queries[some_rows].double().mul_(tile[some_columns]).sum(dim=1)
            for some_rows, some_columns in zip(rows.split(chunk), columns.split(chunk))
        ]
        cosines = torch.cat(parts)
    return ranks_of(cosines.float().double(), batch.max_similarity)


def _merge(batch: _Batch, rows: Int[Tensor, "c"], ranks: Float[Tensor, "c"], ids: Int[Tensor, "c"]) -> None:
    """Merge new candidates into the K best; of equal ranks the lower row comes first. `rows` must be sorted."""
    counts = torch.bincount(rows, minlength=len(batch.ranks))
    position = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    size = (len(counts), int(counts.max()))
    new_ranks, new_ids = batch.ranks.new_full(size, -torch.inf), batch.ids.new_full(size, -1)
    new_ranks[rows, position], new_ids[rows, position] = ranks, ids
    ranks, ids = torch.cat([batch.ranks, new_ranks], dim=1), torch.cat([batch.ids, new_ids], dim=1)
    best_ranks, best_ids = best_of(ranks, ids, batch.ranks.shape[1])
    batch.ranks.copy_(best_ranks)
    batch.ids.copy_(best_ids)
