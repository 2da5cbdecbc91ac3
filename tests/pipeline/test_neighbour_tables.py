import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.reference.discovery import neighbours_by_loops

from orl import tables
from orl.config import DiscoverConfig, RunConfig
from orl.discovery import faiss_neighbours
from orl.discovery.nearest_neighbours import unit_vectors
from orl.pipeline import neighbour_tables as module
from orl.pipeline.neighbour_tables import exact_finder, neighbour_finder, neighbour_inputs
from orl.pipeline.shards import ShardMaker
from orl.processes import Processes

CPU = torch.device("cpu")
SHARD_SIZE = 40
NUM_IMAGES = 3 * SHARD_SIZE - 7


@pytest.fixture
def embeddings(tmp_path: Path) -> tables.Table:
    vectors = unit_vectors(np.random.default_rng(0).normal(size=(NUM_IMAGES, 6))).numpy().astype(np.float16)
    slices = tables.shard_slices(NUM_IMAGES, SHARD_SIZE)
    for index in tables.begin(tmp_path / "embeddings", {}, len(slices)):
        tables.write_shard(tmp_path / "embeddings", index, {"embedding": vectors[slices[index]]})
    return tables.load(tmp_path / "embeddings")


def new_config(out: Path, **changes: object) -> RunConfig:
    return RunConfig(images=out, out=out, discover=DiscoverConfig(**({"num_neighbours": 3} | changes)))


def found_by(make: ShardMaker) -> dict[str, np.ndarray]:
    """All shards of a maker as one; every image is reported once."""
    reported: list[int] = []
    parts = [make(images, reported.append) for images in tables.shard_slices(NUM_IMAGES, SHARD_SIZE)]
    assert sum(reported) == NUM_IMAGES
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize(("cached_bytes", "block_rows"), [(2**20, 65_536), (0, 65_536), (0, 7), (2**20, 7)])
def test_neighbours_are_the_same_from_kept_blocks_and_from_streamed_ones(
    embeddings: tables.Table, monkeypatch: pytest.MonkeyPatch, cached_bytes: int, block_rows: int
) -> None:
    monkeypatch.setattr(module, "CACHED_BYTES", cached_bytes)
    monkeypatch.setattr(module, "BLOCK_ROWS", block_rows)
    found = found_by(exact_finder(embeddings, 3, math.inf, CPU))
    ids, similarities = neighbours_by_loops(unit_vectors(embeddings.column("embedding")).double().numpy(), 3)
    np.testing.assert_array_equal(found["neighbour_ids"], ids)
    np.testing.assert_allclose(found["similarities"], similarities, atol=1e-6)


@pytest.mark.parametrize("search", ["exact", "faiss"])
def test_near_duplicates_are_passed_over_when_asked_for(embeddings: tables.Table, tmp_path: Path, search: str) -> None:
    if search == "faiss":
        pytest.importorskip("faiss")

    def find(config: RunConfig) -> dict[str, np.ndarray]:
        return found_by(neighbour_finder(embeddings, config, tmp_path / search, CPU, Processes()))

    config = new_config(tmp_path, neighbour_search=search)
    nearest = find(config)
    limit = float(np.median(nearest["similarities"][:, 0]))
    found = find(replace(config, discover=replace(config.discover, max_similarity=limit)))
    assert (found["similarities"] <= limit).all()
    far = nearest["similarities"][:, 0] <= limit
    np.testing.assert_array_equal(found["neighbour_ids"][far], nearest["neighbour_ids"][far])


def test_an_index_is_built_once_and_its_recall_is_saved(
    embeddings: tables.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(faiss_neighbours, "NUM_PROBES", 1)
    folder = tmp_path / "neighbours"
    config = new_config(tmp_path, neighbour_search="faiss")
    found = found_by(neighbour_finder(embeddings, config, folder, CPU, Processes()))
    built = (folder / "index.faiss").stat().st_mtime_ns
    exact = found_by(exact_finder(embeddings, 3, math.inf, CPU))
    # One list of all images: nothing is missed, but cosines of halves may swap two images that are nearly alike.
    agreement = (found["neighbour_ids"] == exact["neighbour_ids"]).mean()
    assert agreement > 0.98
    recall = json.loads((folder / "recall.json").read_text())
    assert recall["images"] == NUM_IMAGES
    assert recall["recall"] >= agreement
    again = found_by(neighbour_finder(embeddings, config, folder, CPU, Processes()))
    assert (folder / "index.faiss").stat().st_mtime_ns == built
    np.testing.assert_array_equal(again["neighbour_ids"], found["neighbour_ids"])


def test_the_seed_decides_the_neighbours_of_an_index_only(embeddings: tables.Table, tmp_path: Path) -> None:
    exact, indexed = new_config(tmp_path), new_config(tmp_path, neighbour_search="faiss")
    assert neighbour_inputs(embeddings, exact) == neighbour_inputs(embeddings, replace(exact, seed=1))
    assert neighbour_inputs(embeddings, indexed) != neighbour_inputs(embeddings, replace(indexed, seed=1))
    assert neighbour_inputs(embeddings, exact) != neighbour_inputs(embeddings, indexed)
