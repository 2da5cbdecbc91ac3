"""Exact nearest neighbours of images, block by block."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK_ROWS = 65_536
DENSE = 32
"""Where one pair in so many may be among the best, as in a collapsed embedding, one product of all is faster."""
GROUP = 32
"""Columns looked at by their maximum first; a tile is a whole number of groups."""


def nearest_neighbours(
    queries: Float[Tensor, "q d"],
    query_ids: Int[Tensor, "q"],
    blocks: Iterable[tuple[int, Float[Tensor, "b d"]]],
    num_neighbours: int,
    max_similarity: float = math.inf,
) -> tuple[Int[Tensor, "q k"], Float[Tensor, "q k"]]:
    """The most similar other images of each query, the most similar first.

    The memory beyond the arguments and one block is a tile of similarities, however many queries and images there are.
    Only images that may be among the best are compared again, in double precision and each by itself. So the result
    depends neither on how queries and blocks are cut nor on the number of threads, except that another order of the
    double sums may, once in about 10^8 similarities, change the last bit of a float32.

    Args:
        queries: unit vectors.
        query_ids: row of each query among all images. The query is left out by it: a duplicate of the image stays a
            neighbour.
        blocks: (first row, unit vectors of the rows from there on) of all images, each row once, in any order, on
            the queries' device.
        num_neighbours: K.
        max_similarity: images more similar than this, near-duplicates, come after all others.

    Returns:
        Rows and cosine similarities; of equally similar images the lower row comes first.

    Raises:
        ValueError: if there are not K other images, or an embedding is not finite.
    """
    if num_neighbours < 1:
        raise ValueError(f"num_neighbours is {num_neighbours}; ask for at least 1")
    ranks = queries.new_full((len(queries), num_neighbours), -torch.inf, dtype=torch.float64)
    ids = query_ids.new_full((len(queries), num_neighbours), -1, dtype=torch.int64)
    tile_rows, tile_columns = _tile_size(queries)
    batches = [
        _Batch(queries[part], query_ids[part], ranks[part], ids[part], max_similarity)
        for part in (slice(start, start + tile_rows) for start in range(0, len(queries), tile_rows))
    ]
    num_images = 0
    for first_row, block in blocks:
        for offset in range(0, len(block), tile_columns):
            for batch in batches:
                _update_best(batch, first_row + offset, block[offset : offset + tile_columns])
        num_images += len(block)
    if (ids < 0).any():
        raise too_few(num_neighbours, num_images)
    return ids, similarities_of(ranks)


def row_blocks(
    embeddings: Float[Tensor, "n d"], block_rows: int = BLOCK_ROWS
) -> Iterator[tuple[int, Float[Tensor, "_ d"]]]:
    """One tensor as the blocks that `nearest_neighbours` takes."""
    for first_row in range(0, len(embeddings), block_rows):
        yield first_row, embeddings[first_row : first_row + block_rows]


def unit_vectors(embeddings: Float[np.ndarray, "n d"]) -> Float[Tensor, "n d"]:
    """Embeddings as float32 unit vectors; a vector of zeros stays one."""
    return torch.nn.functional.normalize(torch.from_numpy(np.array(embeddings, dtype=np.float32)), dim=1)


def ranks_of(similarities: Float[Tensor, "..."], max_similarity: float) -> Float[Tensor, "..."]:
    """What neighbours are sorted by: the cosine, that of a near-duplicate 4 lower and so below all others."""
    if max_similarity == math.inf:
        return similarities
    return torch.where(similarities > max_similarity, similarities - 4, similarities)


def similarities_of(ranks: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The cosines that ranks in double precision were made of."""
    return torch.where(ranks < -2, ranks + 4, ranks).float()


def best_of(
    ranks: Float[Tensor, "q m"], ids: Int[Tensor, "q m"], num_best: int
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """The highest ranks of each row and their images, the highest first; of equal ranks the lower image first."""
    order = ids.argsort(dim=1)
    by_rank = ranks.gather(1, order).argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, by_rank)[:, :num_best]
    return ranks.gather(1, order), ids.gather(1, order)


def too_few(num_neighbours: int, num_images: int) -> ValueError:
    """The error for K neighbours of too few images."""
    return ValueError(
        f"{num_neighbours} neighbours need at least {num_neighbours + 1} images, and there are {num_images}; "
        "add images or ask for fewer neighbours"
    )


@dataclass(frozen=True)
class _Batch:
    """Some queries and their best neighbours so far, the best first: -inf and -1 where none is found yet."""

    queries: Float[Tensor, "q d"]
    query_ids: Int[Tensor, "q"]
    ranks: Float[Tensor, "q k"]
    ids: Int[Tensor, "q k"]
    max_similarity: float


def _tile_size(queries: Float[Tensor, "q d"]) -> tuple[int, int]:
    """Queries and images compared at a time: few queries are compared with more images."""
    max_rows, num_similarities, max_columns = (4096, 2**27, 65_536) if queries.is_cuda else (2048, 2**23, 16_384)
    rows = max(1, min(len(queries), max_rows))
    return rows, min(num_similarities // rows // GROUP * GROUP, max_columns)


def _update_best(batch: _Batch, first_row: int, tile: Float[Tensor, "t d"]) -> None:
    """Let the images of a tile in among the best."""
    similarities = batch.queries.float() @ tile.float().T
    rows, columns = _candidates(batch, similarities)
    ranks = _exact_ranks(batch, rows, tile, columns)
    ids = columns + first_row
    worst_ranks, worst_ids = batch.ranks[rows, -1], batch.ids[rows, -1]
    kept = (ids != batch.query_ids[rows]) & ((ranks > worst_ranks) | ((ranks == worst_ranks) & (ids < worst_ids)))
    if kept.any():
        _merge(batch, rows[kept], ranks[kept], ids[kept])


def _rounding(queries: Float[Tensor, "q d"]) -> float:
    """How far a float32 product of unit vectors may be from their cosine: on a GPU it may be made of TF32."""
    return (queries.shape[1] + 4) * torch.finfo(torch.float32).eps + (2.0**-9 if queries.is_cuda else 0.0)


def _candidates(batch: _Batch, similarities: Float[Tensor, "q t"]) -> tuple[Int[Tensor, "c"], Int[Tensor, "c"]]:
    """Rows and columns, in order, of all that may be among the best.

    The maximum of each group of columns is one fast pass, after which few groups are left to look into: on a processor
    this costs a twentieth of `topk`.
    """
    margin = _rounding(batch.queries)
    floor = _floor(batch, similarities, margin)
    if ragged := -similarities.shape[1] % GROUP:
        similarities = torch.nn.functional.pad(similarities, (0, ragged), value=-torch.inf)
    groups = similarities.unflatten(1, (-1, GROUP))
    maxima = groups.amax(dim=2)
    if not torch.isfinite(maxima).all():
        raise ValueError("an embedding is not finite; the network that made it has diverged, so train it again")
    rows, group = (maxima >= floor[:, None]).nonzero().unbind(dim=1)
    highest = ranks_of(groups[rows, group], batch.max_similarity + margin)
    found, offset = (highest >= floor[rows, None]).nonzero().unbind(dim=1)
    return rows[found], group[found] * GROUP + offset


def _floor(batch: _Batch, similarities: Float[Tensor, "q t"], margin: float) -> Float[Tensor, "q"]:
    """A computed rank that no image among the best stays below.

    K images reach it for sure: those found before, else those of this tile besides the query.
    """
    worst = batch.ranks[:, -1].float()
    num_sure = batch.ranks.shape[1] + 1
    if similarities.shape[1] >= num_sure and torch.isinf(worst).any():
        lowest = ranks_of(similarities, batch.max_similarity - margin)
        worst = torch.maximum(worst, lowest.topk(num_sure, dim=1).values[:, -1])
    # Finite, so that the columns that fill the last group never reach it.
    return (worst - 2 * margin).clamp(min=-8.0)


def _exact_ranks(
    batch: _Batch, rows: Int[Tensor, "c"], tile: Float[Tensor, "t d"], columns: Int[Tensor, "c"]
) -> Float[Tensor, "c"]:
    """Ranks by cosines in double precision, which do not depend on what else is computed at the same time."""
    if len(rows) * DENSE > len(batch.queries) * len(tile):
        cosines = (batch.queries.double() @ tile.double().T)[rows, columns]
    else:
        # A megabyte at a time stays in the cache, which makes this five times as fast.
        chunk = max(1, 2**17 // tile.shape[1])
        parts = [
            batch.queries[some_rows].double().mul_(tile[some_columns]).sum(dim=1)
            for some_rows, some_columns in zip(rows.split(chunk), columns.split(chunk))
        ]
        cosines = torch.cat(parts)
    return ranks_of(cosines.float().double(), batch.max_similarity)


def _merge(batch: _Batch, rows: Int[Tensor, "c"], ranks: Float[Tensor, "c"], ids: Int[Tensor, "c"]) -> None:
    """Keep the K best of those so far and those found, of equal ranks the lower row; `rows` never falls."""
    counts = torch.bincount(rows, minlength=len(batch.ranks))
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    size = (len(counts), int(counts.max()))
    new_ranks, new_ids = batch.ranks.new_full(size, -torch.inf), batch.ids.new_full(size, -1)
    new_ranks[rows, place], new_ids[rows, place] = ranks, ids
    ranks, ids = torch.cat([batch.ranks, new_ranks], dim=1), torch.cat([batch.ids, new_ids], dim=1)
    best_ranks, best_ids = best_of(ranks, ids, batch.ranks.shape[1])
    batch.ranks.copy_(best_ranks)
    batch.ids.copy_(best_ids)
