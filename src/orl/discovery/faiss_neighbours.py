"""Approximate nearest neighbours with FAISS, for tens of millions of images.

The index stores the vectors in lists, one for each cluster, and compares a query with a few clusters only. It is built
once and saved; every process that searches it maps the same file. `recall_against_exact` measures its recall.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from orl import files
from orl.discovery.nearest_neighbours import best_of, nearest_neighbours, ranks_of, similarities_of, too_few_images

NUM_PROBES = 64
ROWS_PER_LIST = 64
"""Sampled rows per cluster for training; FAISS needs at least 39."""
MAX_CANDIDATES = 4096
"""Images compared with a query before its near-duplicates count as neighbours."""


def num_lists_of(num_images: int) -> int:
    """Return the number of clusters: four times the square root of the number of images, as FAISS advises."""
    return max(1, min(round(4 * math.sqrt(num_images)), num_images // ROWS_PER_LIST))


def training_rows(num_images: int, num_lists: int, seed: int) -> Int[ndarray, "s"]:
    """Sample the rows that the clusters are trained on, in rising order."""
    size = min(num_images, num_lists * ROWS_PER_LIST)
    return np.sort(np.random.default_rng(seed).choice(num_images, size, replace=False, shuffle=False))


def build_index(
    sample: Float[Tensor, "s d"],
    blocks: Iterable[tuple[int, Float[Tensor, "_ d"]]],
    num_lists: int,
    seed: int = 0,
    storage: str = "SQfp16",
) -> Any:
    """Build an index of the images in the blocks.

    The index is built in memory: 2 d + 8 bytes per image in half precision (52 GB for 10^8 images and d = 256), plus
    the sample and one block. The same images, seed and number of threads give the same index.

    Args:
        sample: unit vectors of `training_rows`.
        blocks: (first row, unit vectors of consecutive rows) of all images, each row once.
        num_lists: number of clusters; see `num_lists_of`.
        seed: seed of the first cluster centres.
        storage: FAISS name of the vector format: 'SQfp16' (cosines within 0.001), 'Flat' (float32) or 'PQ64'
            (64 bytes; cosines and limits on them are then approximate).

    Raises:
        ImportError: if FAISS is not installed.
        ValueError: if the sample is smaller than the number of clusters, or an embedding is not finite.
    """
    faiss = load_faiss()
    if not 1 <= num_lists <= len(sample):
        raise ValueError(f"num_lists must be from 1 to the {len(sample)} sampled images, got {num_lists}")
    index = faiss.index_factory(sample.shape[1], f"IVF{num_lists},{storage}", faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed
    index.train(_array(sample))
    for first_row, block in blocks:
        index.add_with_ids(_array(block), np.arange(first_row, first_row + len(block), dtype=np.int64))
    return index


def save_index(index: Any, path: Path) -> None:
    """Write an index to a file atomically.

    Raises:
        OSError: if the file cannot be written.
    """
    try:
        with files.written_atomically(path) as temporary:
            load_faiss().write_index(index, str(temporary))
    except RuntimeError as error:
        raise OSError(f"cannot write the index {path} ({error}); is the disk full?") from error


def load_index(path: Path) -> Any:
    """Map an index file into memory, which processes that search the same file share.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or not an index.
    """
    if not path.exists():
        raise FileNotFoundError(f"no index at {path}; build it with 'orl discover'")
    faiss = load_faiss()
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    except RuntimeError as error:
        raise ValueError(f"index {path} cannot be read ({error}); delete it and run again") from error


def approximate_neighbours(
    index: Any,
    queries: Float[Tensor, "q d"],
    query_ids: Int[Tensor, "q"],
    num_neighbours: int,
    max_similarity: float = math.inf,
    num_probes: int = NUM_PROBES,
) -> tuple[Int[Tensor, "q k"], Float[Tensor, "q k"]]:
    """Find most of the most similar other images of each query, the most similar first.

    The approximate counterpart of `nearest_neighbours`, on the CPU. A query with too few images in its clusters is
    compared with more clusters, so K neighbours are always found.

    Args:
        index: from `build_index` or `load_index`.
        queries: unit vectors.
        query_ids: row of each query among all images, which is excluded from its neighbours.
        num_neighbours: K.
        max_similarity: images more similar than this are near-duplicates, and are sorted after all others if there
            are K others among the `MAX_CANDIDATES` most similar images.
        num_probes: clusters that a query is compared with; the search is exact with all of them.

    Returns:
        Rows, and cosine similarities to the vectors in the format of the index; of equally similar images the lower
        row comes first.

    Raises:
        ImportError: if FAISS is not installed.
        ValueError: if there are fewer than K other images, or the vectors of the index have another length.
    """
    if num_neighbours < 1 or num_probes < 1:
        raise ValueError(f"num_neighbours and num_probes must be at least 1, got {num_neighbours} and {num_probes}")
    if queries.shape[1] != index.d:
        raise ValueError(f"queries have {queries.shape[1]} numbers and the index {index.d}; build the index again")
    width = (num_neighbours + 1) * (1 if max_similarity == math.inf else 2)
    ranks, ids = _search(index, queries.cpu(), query_ids.cpu(), num_neighbours, max_similarity, width, num_probes)
    if torch.isinf(ranks).any():
        raise too_few_images(num_neighbours, index.ntotal)
    return ids.to(queries.device), similarities_of(ranks).to(queries.device)


def recall_against_exact(
    index: Any,
    queries: Float[Tensor, "q d"],
    query_ids: Int[Tensor, "q"],
    blocks: Iterable[tuple[int, Float[Tensor, "_ d"]]],
    num_neighbours: int,
    max_similarity: float = math.inf,
    num_probes: int = NUM_PROBES,
) -> float:
    """Measure the fraction of exact neighbours that the index finds.

    An equally similar image in place of an exact neighbour counts as missed, so duplicates lower the recall.
    """
    exact, _ = nearest_neighbours(queries, query_ids, blocks, num_neighbours, max_similarity)
    found, _ = approximate_neighbours(index, queries, query_ids, num_neighbours, max_similarity, num_probes)
    return (exact[:, :, None] == found[:, None, :]).any(dim=2).double().mean().item()


def _search(
    index: Any,
    queries: Float[Tensor, "q d"],
    query_ids: Int[Tensor, "q"],
    num_neighbours: int,
    max_similarity: float,
    width: int,
    num_probes: int,
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """Return ranks and images, -inf where there are too few; search further for queries that lack neighbours."""
    parameters = load_faiss().SearchParametersIVF(nprobe=min(num_probes, index.nlist))
    similarities, ids = (torch.from_numpy(found) for found in index.search(_array(queries), width, params=parameters))
    exhausted = (ids < 0).any(dim=1)
    ranks = ranks_of(similarities.double(), max_similarity)
    ranks[(ids < 0) | (ids == query_ids[:, None])] = -torch.inf
    ranks, ids = best_of(ranks, ids, num_neighbours)
    lacking = ranks[:, -1] < -2
    for retried, more_width, more_probes in (
        (lacking & ~exhausted & (width < MAX_CANDIDATES), 8 * width, num_probes),
        (lacking & exhausted & (num_probes < index.nlist), width, 4 * num_probes),
    ):
        if retried.any():
            ranks[retried], ids[retried] = _search(
                index, queries[retried], query_ids[retried], num_neighbours, max_similarity, more_width, more_probes
            )
    return ranks, ids


def _array(vectors: Float[Tensor, "n d"]) -> Float[ndarray, "n d"]:
    if not torch.isfinite(vectors).all():
        raise ValueError("an embedding is not finite; the network that made it has diverged, so train it again")
    return np.ascontiguousarray(vectors.float().cpu().numpy())


def load_faiss() -> Any:
    """Import FAISS.

    Raises:
        ImportError: if FAISS is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError("FAISS is not installed: pip install 'orl[faiss]', or search exactly") from error
    return faiss
