from pathlib import Path

import numpy as np
import pytest
import torch
from tests.reference.discovery import match_by_loops

from orl import tables
from orl.config import DiscoverConfig
from orl.datasets.image_table import ImageTable
from orl.discovery.nearest_neighbours import unit_vectors
from orl.pipeline import shards

CPU = torch.device("cpu")
NUM_IMAGES, SHARD_SIZE = 11, 4


def write(folder: Path, image_counts: list[int], columns: dict[str, np.ndarray], num_images: int = NUM_IMAGES) -> None:
    """A table in shards of four images, of which each has so many rows."""
    starts = np.concatenate([[0], np.cumsum(image_counts)])
    slices = tables.shard_slices(num_images, SHARD_SIZE)
    for index in tables.begin(folder, {"shard_size": SHARD_SIZE}, len(slices)):
        rows = slice(starts[slices[index].start], starts[slices[index].stop])
        tables.write_shard(folder, index, {name: values[rows] for name, values in columns.items()})


def found_by(make: shards.ShardMaker, num_images: int = NUM_IMAGES) -> dict[str, np.ndarray]:
    """All shards of a maker as one; every image is reported once."""
    reported: list[int] = []
    parts = [make(images, reported.append) for images in tables.shard_slices(num_images, SHARD_SIZE)]
    assert sum(reported) == num_images
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("release_bytes", [2**28, 0])
def test_correspondences_equal_loops_over_pairs_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release_bytes: int
) -> None:
    monkeypatch.setattr(shards, "RELEASE_BYTES", release_bytes)
    monkeypatch.setattr(tables, "MAX_OPEN_SHARDS", 1)
    generator = np.random.default_rng(0)
    counts = generator.integers(1, 30, NUM_IMAGES).tolist()
    starts = np.concatenate([[0], np.cumsum(counts)])
    vectors = unit_vectors(generator.normal(size=(starts[-1], 5))).numpy().astype(np.float16)
    ids = np.stack([generator.permutation(np.delete(np.arange(NUM_IMAGES), image))[:3] for image in range(NUM_IMAGES)])
    write(tmp_path / "rois", counts, {"image_id": np.repeat(np.arange(NUM_IMAGES, dtype=np.int32), counts)})
    write(tmp_path / "roi_embeddings", counts, {"embedding": vectors})
    write(tmp_path / "neighbours", [1] * NUM_IMAGES, {"neighbour_ids": ids.astype(np.int32)})
    loaded = [tables.load(tmp_path / name) for name in ("neighbours", "rois", "roi_embeddings")]
    found = found_by(shards.matcher(NUM_IMAGES, *loaded, DiscoverConfig(top_fraction=0.3), CPU))

    units = unit_vectors(vectors).double().numpy()
    expected = [
        (image, other, starts[image] + i, starts[other] + j)
        for image in range(NUM_IMAGES)
        for other in ids[image]
        for i, j in match_by_loops(
            units[starts[image] : starts[image + 1]], units[starts[other] : starts[other + 1]], 0.3
        )
    ]
    columns = ("image_id", "neighbour_id", "roi", "neighbour_roi")
    assert list(zip(*(found[name].tolist() for name in columns))) == expected
    assert [found[name].dtype for name in (*columns, "similarity")] == [
        np.int32,
        np.int32,
        np.int64,
        np.int64,
        np.float32,
    ]
    cosines = np.einsum("nd,nd->n", units[found["roi"]], units[found["neighbour_roi"]])
    np.testing.assert_allclose(found["similarity"], cosines, atol=1e-6)


def test_embeddings_of_other_rois_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "rois", [1] * NUM_IMAGES, {"image_id": np.arange(NUM_IMAGES, dtype=np.int32)})
    write(tmp_path / "roi_embeddings", [2] * NUM_IMAGES, {"embedding": np.zeros((2 * NUM_IMAGES, 3), np.float16)})
    rois, roi_embeddings = tables.load(tmp_path / "rois"), tables.load(tmp_path / "roi_embeddings")
    with pytest.raises(ValueError, match=r"roi_embeddings has 22 rows but there are 11 RoIs; rebuild"):
        shards.matcher(NUM_IMAGES, rois, rois, roi_embeddings, DiscoverConfig(), CPU)


def test_proposals_cut_into_other_shards_are_refused(tmp_path: Path) -> None:
    boxes = np.tile(np.array([0, 0, 50, 50], np.float32), (NUM_IMAGES, 1))
    image_ids = np.arange(1, NUM_IMAGES + 1, dtype=np.int32)
    write(tmp_path / "proposals", [1] * NUM_IMAGES, {"image_id": image_ids, "box": boxes})
    names = tuple(map(str, range(NUM_IMAGES)))
    images = ImageTable(root=tmp_path, names=names, sizes_wh=((64, 64),) * NUM_IMAGES, digests=names)
    limits = {"min_side": 10.0, "max_aspect_ratio": 3.0, "max_iou": 0.5, "max_rois": 5}
    make = shards.proposal_filter(images, tables.load(tmp_path / "proposals"), **limits)
    with pytest.raises(ValueError, match=r"shard 0 of .*proposals has images 1 to 4, not 0 to 3"):
        make(slice(0, 4), print)


def filtered(folder: Path, columns: dict[str, np.ndarray], counts: list[int]) -> dict[str, np.ndarray]:
    """The RoIs of images of 64 x 48 pixels."""
    write(folder / "proposals", counts, columns, len(counts))
    names = tuple(map(str, range(len(counts))))
    images = ImageTable(root=folder, names=names, sizes_wh=((64, 48),) * len(counts), digests=names)
    limits = {"min_side": 10.0, "max_aspect_ratio": 3.0, "max_iou": 0.5, "max_rois": 2}
    return found_by(shards.proposal_filter(images, tables.load(folder / "proposals"), **limits), len(counts))


def test_rois_keep_the_masks_of_their_proposals_and_are_the_same_without_masks(tmp_path: Path) -> None:
    counts = [4, 0, 2, 0, 1, 3]
    several = [[0, 0, 9, 9], [0, 0, 30, 30], [1, 1, 30, 30], [32, 0, 60, 40]]  # too small, kept, covered, kept
    small = [[0, 0, 5, 5], [0, 0, 4, 4]]  # the first is the fallback
    in_a_row = [[0, 0, 20, 20], [22, 0, 42, 20], [44, 0, 64, 20]]  # at most two are kept
    boxes = np.array([*several, *small, [0, 0, 20, 20], *in_a_row], np.float32)
    columns = {"image_id": np.repeat(np.arange(6, dtype=np.int32), counts), "box": boxes}
    rles = np.array([*"abcdefg", "", "h", "i"], dtype=object)
    found = filtered(tmp_path / "with", {**columns, "rle": rles}, counts)
    assert found["image_id"].tolist() == [0, 0, 1, 2, 3, 4, 5, 5]
    assert found["rle"].tolist() == ["b", "d", "", "e", "", "g", "", "h"]
    complete = [0, 0, 64, 48]
    kept = [several[1], several[3], complete, small[0], complete, [0, 0, 20, 20], *in_a_row[:2]]
    assert found["box"].tolist() == kept
    without = filtered(tmp_path / "without", columns, counts)
    assert set(without) == {"image_id", "box"}
    for name, values in without.items():
        np.testing.assert_array_equal(values, found[name])
