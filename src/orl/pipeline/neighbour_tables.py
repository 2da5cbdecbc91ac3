"""Neighbours of stage 2: exact, by comparing all images in blocks, or approximate, by an index for tens of millions."""

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from orl import files, tables
from orl.config import RunConfig
from orl.discovery import faiss_neighbours as faiss
from orl.discovery.nearest_neighbours import BLOCK_ROWS, nearest_neighbours
from orl.pipeline.shards import Columns, Report, ShardMaker
from orl.processes import Processes

logger = logging.getLogger(__name__)

CACHED_BYTES = 2**30
"""Largest embeddings, as float32, that are cached on the device; larger ones are read again for every shard."""
RECALL_IMAGES = 256
"""Images whose exact neighbours are found too, to measure the recall of an index."""
INDEX, RECALL = "index.faiss", "recall.json"

Block = tuple[int, Float[Tensor, "b d"]]
"""First row, and unit vectors of the rows from it on."""


def neighbour_inputs(embeddings: tables.Table, config: RunConfig) -> dict[str, Any]:
    """Return all inputs that determine the neighbours of a run."""
    options = config.discover
    inputs = {
        "embeddings": embeddings.fingerprint,
        "num_neighbours": options.num_neighbours,
        "max_similarity": options.max_similarity,
        "neighbour_search": options.neighbour_search,
    }
    return {**inputs, "seed": config.seed} if options.neighbour_search == "faiss" else inputs


def neighbour_finder(
    embeddings: tables.Table, config: RunConfig, folder: Path, device: torch.device, processes: Processes
) -> ShardMaker:
    """Build the maker of shards with the K nearest other images of each image.

    Args:
        embeddings: table of all images.
        config: the run; `discover.neighbour_search` chooses the search.
        folder: folder of the table, where an index is saved.
        device: device of the exact search; an index is searched on the CPU.
        processes: all processes of the run; the first builds the index.
    """
    options = config.discover
    max_similarity = math.inf if options.max_similarity is None else options.max_similarity
    if options.neighbour_search == "exact":
        return exact_finder(embeddings, options.num_neighbours, max_similarity, device)
    processes.from_first(lambda: _build_index(embeddings, config, folder), "the index of the images")
    return _index_finder(embeddings, faiss.load_index(folder / INDEX), options.num_neighbours, max_similarity)


def exact_finder(
    embeddings: tables.Table, num_neighbours: int, max_similarity: float, device: torch.device
) -> ShardMaker:
    """Build the maker that compares the images of a shard with all images, in blocks."""
    cached: list[Block] | None = None
    if embeddings.num_rows * embeddings.rows("embedding", 0, 1)[0].size * 4 <= CACHED_BYTES:
        cached = list(_unit_blocks(embeddings, device))

    def make(images: slice, report: Report) -> Columns:
        neighbour_ids, similarities = nearest_neighbours(
            _unit_vectors(embeddings, images.start, images.stop, device),
            torch.arange(images.start, images.stop, device=device),
            _unit_blocks(embeddings, device) if cached is None else iter(cached),
            num_neighbours,
            max_similarity,
        )
        report(images.stop - images.start)
        return _neighbour_columns(neighbour_ids, similarities)

    return make


def _index_finder(embeddings: tables.Table, index: Any, num_neighbours: int, max_similarity: float) -> ShardMaker:
    cpu = torch.device("cpu")

    def make(images: slice, report: Report) -> Columns:
        queries = _unit_vectors(embeddings, images.start, images.stop, cpu)
        ids = torch.arange(images.start, images.stop)
        found = faiss.approximate_neighbours(index, queries, ids, num_neighbours, max_similarity)
        report(images.stop - images.start)
        return _neighbour_columns(*found)

    return make


def _build_index(embeddings: tables.Table, config: RunConfig, folder: Path) -> None:
    """Build the index unless an earlier call did, and save the fraction of neighbours that it finds."""
    cpu, num_images = torch.device("cpu"), embeddings.num_rows
    if not (folder / INDEX).exists():
        num_lists = faiss.num_lists_of(num_images)
        logger.info("neighbours: building an index of %d images in %d lists", num_images, num_lists)
        sample = _rows_of(embeddings, faiss.training_rows(num_images, num_lists, config.seed))
        index = faiss.build_index(sample, _unit_blocks(embeddings, cpu), num_lists, config.seed)
        faiss.save_index(index, folder / INDEX)
    if (folder / RECALL).exists():
        return
    images = np.linspace(0, num_images - 1, min(RECALL_IMAGES, num_images)).astype(np.int64)
    recall = faiss.recall_against_exact(
        faiss.load_index(folder / INDEX),
        _rows_of(embeddings, images),
        torch.from_numpy(images),
        _unit_blocks(embeddings, cpu),
        config.discover.num_neighbours,
        math.inf if config.discover.max_similarity is None else config.discover.max_similarity,
    )
    logger.info("neighbours: the index finds %.1f%% of the exact neighbours of %d images", 100 * recall, len(images))
    files.write_atomically(folder / RECALL, json.dumps({"recall": recall, "images": len(images)}))


def _unit_blocks(embeddings: tables.Table, device: torch.device) -> Iterator[Block]:
    for start in range(0, embeddings.num_rows, BLOCK_ROWS):
        yield start, _unit_vectors(embeddings, start, min(start + BLOCK_ROWS, embeddings.num_rows), device)


def _unit_vectors(embeddings: tables.Table, start: int, stop: int, device: torch.device) -> Float[Tensor, "n d"]:
    # Copied to the device in half precision, then converted to single precision.
    halves = torch.from_numpy(np.array(embeddings.rows("embedding", start, stop)))
    embeddings.release()
    return torch.nn.functional.normalize(halves.to(device).float(), dim=1)


def _rows_of(embeddings: tables.Table, rows: Int[ndarray, "n"]) -> Float[Tensor, "n d"]:
    """Read unit vectors of rows in rising order, shard by shard."""
    parts = [
        np.array(part[rows[(rows >= start) & (rows < start + len(part))] - start])
        for start, part in embeddings.parts("embedding")
    ]
    return torch.nn.functional.normalize(torch.from_numpy(np.concatenate(parts)).float(), dim=1)


def _neighbour_columns(ids: Int[Tensor, "n k"], similarities: Float[Tensor, "n k"]) -> Columns:
    return {"neighbour_ids": ids.cpu().numpy().astype(np.int32), "similarities": similarities.cpu().numpy()}
