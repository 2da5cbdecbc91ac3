import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orl.training.collapse import COLLAPSE_LIMITS, CollapseWatch, alignment, feature_std, uniformity


def uniform(count: int = 2000, dims: int = 64) -> torch.Tensor:
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(0))


def test_feature_std_is_zero_after_collapse_and_about_one_on_the_sphere() -> None:
    assert feature_std(torch.ones(16, 8)).item() == pytest.approx(0, abs=1e-6)
    assert feature_std(uniform()).item() == pytest.approx(1, abs=0.02)
    # Two opposite points on an axis of two: std 1 and 0, mean 1/2, times the root of 2.
    assert feature_std(torch.tensor([[5.0, 0.0], [-2.0, 0.0]])).item() == pytest.approx(0.5 * 2**0.5)


def test_alignment_by_hand() -> None:
    one = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0], [1.0, 0.0]])
    other = torch.tensor([[5.0, 0.0], [1.0, 0.0], [-4.0, 0.0], [0.5, 3**0.5 / 2]])
    # Angles of 0, 90, 180 and 60 degrees: 2 - 2 cos is 0, 2, 4 and 1.
    assert alignment(one, other).item() == pytest.approx((0 + 2 + 4 + 1) / 4)
    assert alignment(uniform(), uniform().flip(0)).item() == pytest.approx(2, abs=0.05)


def test_uniformity_by_hand() -> None:
    triangle = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    # Squared distances 2, 2 and 4.
    assert uniformity(triangle).item() == pytest.approx(math.log((2 * math.exp(-4) + math.exp(-8)) / 3), rel=1e-5)
    assert uniformity(torch.ones(5, 3)).item() == pytest.approx(0, abs=1e-5)
    assert uniformity(uniform(500)).item() == pytest.approx(-4, abs=0.15)


def test_uniformity_of_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two images, got 1"):
        uniformity(torch.ones(1, 3))


@given(scale=st.floats(0.01, 100), seed=st.integers(0, 99))
def test_collapse_metrics_are_invariant_to_the_length_and_order_of_features(scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    one, other = torch.randn(2, 6, 4, generator=generator)
    order = torch.randperm(6, generator=generator)
    for measure in (feature_std, uniformity):
        torch.testing.assert_close(measure(scale * one[order]), measure(one))
    torch.testing.assert_close(alignment(scale * one[order], other[order]), alignment(one, other))


def test_a_collapse_is_warned_of_once_and_again_only_after_a_recovery() -> None:
    watch = CollapseWatch(num_warmup_steps=10)
    stds = [0.01] * 20 + [0.9] * 20 + [0.01] * 100
    warned = [step for step, std in enumerate(stds, start=1) if watch.update(step, std)]
    # The running mean has to fall from 0.58 to 0.05: 0.95 ** n = 0.04 / 0.57.
    assert warned == [11, pytest.approx(40 + math.log(0.07) / math.log(0.95), abs=3)]


def test_a_healthy_training_gets_no_warning() -> None:
    watch = CollapseWatch(num_warmup_steps=0)
    assert not any(watch.update(step, 0.3) for step in range(1, 500))


def test_a_rank_towards_one_is_warned_of_once_and_again_after_a_recovery() -> None:
    watch = CollapseWatch(num_warmup_steps=3, limit=COLLAPSE_LIMITS[1])
    warnings = [watch.update(step, 1.5) for step in range(1, 8)]
    assert [warning is not None for warning in warnings] == [False, False, False, True, False, False, False]
    assert "at step 4 their effective rank is 1.500" in (warnings[3] or "")
    for step in range(8, 60):
        assert watch.update(step, 8.0) is None
    found = [watch.update(step, 1.2) for step in range(60, 140)]
    assert sum(warning is not None for warning in found) == 1
