"""Whitening of embeddings."""

import numpy as np
import pytest
import torch

from orl.discovery.whitening import fit_whitening


def sample(seed: int = 0, num: int = 400) -> np.ndarray:
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(num, 6)) * [4, 2, 1, 1, 0.5, 0.1] + [3, 0, 0, 1, 0, 0]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_almost_without_shrinkage_the_sample_has_unit_covariance() -> None:
    units = sample()
    found = fit_whitening(units, 1e-9)
    whitened = (units - found.mean) @ found.matrix
    np.testing.assert_allclose(whitened.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(whitened.T, bias=True), np.eye(6), atol=1e-3)


def test_full_shrinkage_only_centres() -> None:
    units = sample()
    found = fit_whitening(units, 1.0).to(torch.device("cpu"))(torch.from_numpy(units))
    centred = units - units.mean(axis=0)
    np.testing.assert_allclose(found, centred / np.linalg.norm(centred, axis=1, keepdims=True), atol=1e-5)


def test_the_order_of_the_sample_does_not_matter() -> None:
    units = sample()
    np.testing.assert_allclose(fit_whitening(units).matrix, fit_whitening(units[::-1]).matrix, atol=1e-4)


def test_a_collapsed_or_single_embedding_is_refused() -> None:
    with pytest.raises(ValueError, match="embeddings of all 5 sampled RoIs are equal"):
        fit_whitening(np.ones((5, 3), np.float32))
    with pytest.raises(ValueError, match="at least 2 RoIs, got 1"):
        fit_whitening(np.ones((1, 3), np.float32))
