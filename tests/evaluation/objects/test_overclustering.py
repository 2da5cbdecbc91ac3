"""Clusters of patches: against loops over pixels and over permutations."""

import numpy as np
import pytest
from tests.reference.clusters import best_assignment_iou, count_pixels

from orl.datasets.semantic_masks import VOID
from orl.evaluation.objects.overclustering import (
    OverclusteringConfig,
    co_occurrence,
    k_means,
    match_many_to_one,
    match_one_to_one,
)


def test_counts_equal_loops() -> None:
    generator = np.random.default_rng(0)
    maps = list(generator.integers(0, 5, (3, 6, 6)))
    labels = generator.integers(0, 3, (3, 6, 6)).astype(np.uint8)
    labels[0, :2] = VOID
    found = co_occurrence(maps, labels, 5, 3)
    np.testing.assert_array_equal(found, count_pixels(maps, labels, 5, 3, VOID))


@pytest.mark.parametrize("seed", range(8))
def test_one_to_one_is_the_best_of_all_permutations(seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 30, (5, 5))
    found = match_one_to_one(counts)
    assert sorted(found.tolist()) == [0, 1, 2, 3, 4]
    union = counts.sum(axis=1, keepdims=True) + counts.sum(axis=0, keepdims=True) - counts
    chosen = sum(counts[cluster, label] / max(union[cluster, label], 1) for cluster, label in enumerate(found))
    assert chosen == pytest.approx(best_assignment_iou(counts))


def test_many_to_one_takes_the_majority_and_the_first_of_equal_ones() -> None:
    assert match_many_to_one(np.array([[1, 5, 2], [4, 4, 0], [0, 0, 0]])).tolist() == [1, 0, 0]


def test_separate_groups_are_separate_clusters() -> None:
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(3), 40)
    patches = (10 * np.eye(3)[groups] + generator.normal(size=(120, 3))).astype(np.float32)
    clusters = k_means(patches, 3, 100, seed=0)
    assert len({(group, cluster) for group, cluster in zip(groups.tolist(), clusters.tolist())}) == 3


def test_fewer_patches_than_clusters_are_refused() -> None:
    with pytest.raises(ValueError, match="max_patches is 100; 500 clusters need at least as many"):
        OverclusteringConfig(max_patches=100)
