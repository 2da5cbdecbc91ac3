"""Effective rank: known values, another way to compute it, and laws."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orl.networks.feature_rank import effective_rank


def rank_by_svd(features: np.ndarray) -> float:
    """Compute exp(-sum p log p) over singular values as loops, with RankMe's epsilon."""
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    entropy = 0.0
    for value in values:
        fraction = value / values.sum() + 1e-7
        entropy -= fraction * math.log(fraction)
    return math.exp(entropy)


def test_orthogonal_rows_have_full_rank_and_equal_rows_rank_one() -> None:
    assert effective_rank(torch.eye(7)).item() == pytest.approx(7)
    assert effective_rank(torch.ones(9, 4)).item() == pytest.approx(1)


def test_two_singular_values_by_hand() -> None:
    fractions = torch.tensor([0.75, 0.25])
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(torch.diag(fractions * 8)).item() == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (30, 30)])
def test_it_is_the_published_formula(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=shape) @ np.diag(0.7 ** np.arange(shape[1]))
    # The published epsilon adds 1e-7 to each fraction.
    assert effective_rank(torch.from_numpy(features)).item() == pytest.approx(rank_by_svd(features), rel=1e-4)


@given(st.integers(0, 1000))
def test_scale_rotation_and_order_change_nothing(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(10, 6, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    expected = effective_rank(features)
    assert 1 <= expected.item() <= 6
    for other in (3 * features, features @ rotation, features[torch.randperm(10, generator=generator)]):
        torch.testing.assert_close(effective_rank(other), expected)


def test_values_that_are_not_finite_give_nan_and_no_features_are_refused() -> None:
    assert effective_rank(torch.tensor([[1.0, torch.nan], [0.0, 1.0]])).isnan()
    with pytest.raises(ValueError, match=r"needs features, got the shape \(0, 4\)"):
        effective_rank(torch.zeros(0, 4))
