import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.reference.discovery import match_by_loops, pairs_by_loops

from orl.discovery.matching import corrected_similarities, hubness, match_neighbours, match_rois, select_pairs
from orl.discovery.nearest_neighbours import unit_vectors


@given(st.integers(1, 25), st.integers(1, 25), st.sampled_from([0.04, 0.1, 0.5, 1.0]), st.integers(0, 99))
def test_matching_equals_a_double_loop(num_own: int, num_other: int, fraction: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    own, other = (unit_vectors(generator.normal(size=(count, 6))) for count in (num_own, num_other))
    pairs, values = match_rois(own, other, fraction)
    assert [tuple(pair) for pair in pairs.tolist()] == match_by_loops(
        own.double().numpy(), other.double().numpy(), fraction
    )
    assert values.tolist() == sorted(values.tolist(), reverse=True)


@given(st.integers(1, 9), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 99))
def test_several_neighbours_at_once_are_matched_as_one_by_one(num_own: int, counts: list[int], seed: int) -> None:
    # Along four axes most cosines are 0 and the rest are 1: all sums are exact, and nearly every entry has its equal.
    generator = np.random.default_rng(seed)
    axes = torch.eye(4)
    own = axes[generator.integers(0, 4, num_own)]
    others = [axes[generator.integers(0, 4, count)] for count in counts]
    found = match_neighbours(own, torch.cat(others), counts, fraction=0.6)
    assert len(found) == len(counts)
    for (pairs, values), other in zip(found, others):
        assert [tuple(pair) for pair in pairs.tolist()] == match_by_loops(own.numpy(), other.numpy(), 0.6)
        assert torch.equal(values, (own[pairs[:, 0]] * other[pairs[:, 1]]).sum(dim=1))


@pytest.mark.parametrize(("num_rois", "num_pairs"), [(1, 1), (9, 1), (10, 1), (19, 1), (20, 2), (57, 5)])
def test_ten_per_cent_of_the_images_rois_are_matched_but_at_least_one(num_rois: int, num_pairs: int) -> None:
    own, other = unit_vectors(np.random.default_rng(0).normal(size=(num_rois, 4))), unit_vectors(np.eye(4))
    pairs, _ = match_rois(own, other)
    assert len(pairs) == num_pairs


def test_the_same_crop_is_matched_with_itself() -> None:
    own = unit_vectors(np.random.default_rng(0).normal(size=(5, 16)))
    other = torch.cat([unit_vectors(np.random.default_rng(1).normal(size=(3, 16))), own[2:3]])
    pairs, values = match_rois(own, other)
    assert pairs.tolist() == [[2, 3]]
    torch.testing.assert_close(values, torch.ones(1))


def test_an_image_without_rois_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one RoI an image, got 0 and 2"):
        match_rois(torch.zeros(0, 4), torch.eye(4)[:2])
    with pytest.raises(ValueError, match="at least one RoI an image, got 1 and 2, 0"):
        match_neighbours(torch.eye(4)[:1], torch.eye(4)[:2], [2, 0])


def test_counts_that_do_not_sum_to_the_embeddings_are_refused() -> None:
    with pytest.raises(ValueError, match="neighbour_counts sum to 3, but there are 4 embeddings"):
        match_neighbours(torch.eye(4), torch.eye(4), [1, 2])


@given(
    st.integers(1, 7).flatmap(lambda rows: arrays(np.float32, (rows, 9), elements=st.sampled_from([0.0, 0.25, 0.5]))),
    st.booleans(),
)
def test_selected_pairs_equal_loops_with_ties(scores: np.ndarray, mutual: bool) -> None:
    found = select_pairs(torch.from_numpy(scores), [4, 5], 0.4, mutual)
    for (pairs, values), part in zip(found, (scores[:, :4], scores[:, 4:])):
        assert [tuple(pair) for pair in pairs.tolist()] == pairs_by_loops(part, 0.4, mutual)
        assert values.tolist() == [part[i, j] for i, j in pairs.tolist()]


def test_hubness_does_not_count_rois_of_the_same_image() -> None:
    units = torch.eye(4)[[0, 0, 1, 2]]
    image_ids = torch.tensor([0, 0, 1, 2])
    assert hubness(units, image_ids, units, image_ids, 1).tolist() == [0, 0, 0, 0]
    assert hubness(units, torch.arange(4), units, torch.arange(4), 1).tolist() == [1, 1, 0, 0]


def test_the_correction_prefers_a_distinct_pair_to_a_hub() -> None:
    similarities = torch.tensor([[0.9, 0.8], [0.8, 0.7]])
    corrected = corrected_similarities(similarities, torch.tensor([0.9, 0.1]), torch.tensor([0.9, 0.1]))
    torch.testing.assert_close(corrected, torch.tensor([[0.0, 0.3], [0.3, 0.6]]))
