"""Logistic regression in shards against scikit-learn's, and standardising against NumPy."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from orl.evaluation.classification.logistic import Shards, count_correct, find_moments, fit_logistic


def images(num: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample three overlapping clouds in four dimensions."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (num,), generator=generator)
    centres = torch.tensor([[1.0, 0, 0, 2], [0, 1, 0, 1], [0, 0, 1, 0]])
    return centres[labels] + torch.randn(num, 4, generator=generator), labels


def in_shards(features: torch.Tensor, labels: torch.Tensor, size: int) -> Shards:
    return lambda: zip(features.split(size), labels.split(size))


@pytest.mark.parametrize("l2", [1.0, 0.01, 0.0001])
def test_the_fit_equals_scikit_learns(l2: float) -> None:
    features, labels = images(150)
    fit = fit_logistic(in_shards(features, labels, 40), 3, l2)
    expected = LogisticRegression(C=1 / (150 * l2), tol=1e-8, max_iter=1000).fit(features.numpy(), labels.numpy())
    assert fit.converged
    ours = torch.softmax(features @ fit.weight.T + fit.bias, dim=1).numpy()
    # Both stop near the optimum; with a nearly flat loss the weights differ more than the probabilities.
    np.testing.assert_allclose(ours, expected.predict_proba(features.numpy()), atol=2e-3)
    np.testing.assert_allclose(fit.weight.numpy(), expected.coef_, atol=1e-2)
    accuracy = count_correct(fit, in_shards(features, labels, 7)).to_json()["top1"]
    assert accuracy == pytest.approx(expected.score(features.numpy(), labels.numpy()), abs=0.01)


def test_the_start_does_not_change_the_fit() -> None:
    shards = in_shards(*images(100), 100)
    first = fit_logistic(shards, 3, 0.1)
    again = fit_logistic(shards, 3, 0.01, start=first)
    torch.testing.assert_close(again.weight, fit_logistic(shards, 3, 0.01).weight, atol=2e-3, rtol=0)


def test_a_fit_at_its_iteration_limit_is_not_converged() -> None:
    fit = fit_logistic(in_shards(*images(100), 100), 3, 1e-4, max_iterations=2)
    assert (fit.num_iterations, fit.converged) == (2, False)


def test_moments_of_shards_equal_numpys() -> None:
    features, labels = images(101)
    features[:, 2] = 3.0
    moments = find_moments(in_shards(features, labels, 10))
    np.testing.assert_allclose(moments.mean.numpy(), features.numpy().mean(axis=0), rtol=1e-5)
    std = features.numpy().std(axis=0)
    std[2] = 1
    np.testing.assert_allclose(moments.std.numpy(), std, rtol=1e-5)
    assert moments.standardise(features)[:, 2].abs().max() == 0


def test_zero_penalty_and_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="l2 must be above 0, got 0"):
        fit_logistic(in_shards(*images(5), 5), 3, 0.0)
    with pytest.raises(ValueError, match="at least one image, got 0"):
        find_moments(lambda: ())


def test_channels_of_several_positions_are_standardised_as_by_batch_normalisation() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = 3 + 2 * torch.randn(30, 5, 2, 2, generator=generator)
    features, labels = maps.flatten(1), torch.zeros(30, dtype=torch.int64)
    moments = find_moments(in_shards(features, labels, 7), num_positions=4)
    expected = torch.nn.BatchNorm2d(5, eps=1e-12, affine=False)(maps).flatten(1)
    torch.testing.assert_close(moments.standardise(features), expected)
