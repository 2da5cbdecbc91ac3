import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.methods.small import small_encoder, views
from tests.reference.byol import regression_loss_by_loops
from torch import nn

from orl.methods.byol import BYOL, pair_loss, regression_loss
from orl.networks.mlp import byol_mlp


@pytest.mark.parametrize(("degrees", "expected"), [(0, 0.0), (60, 1.0), (90, 2.0), (180, 4.0)])
def test_loss_at_known_angles(degrees: int, expected: float) -> None:
    angle = math.radians(degrees)
    prediction = torch.tensor([[3.0, 0.0]], dtype=torch.float64)
    target = 0.2 * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    assert regression_loss(prediction, target).item() == pytest.approx(expected, abs=1e-12)


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 1000))
def test_loss_equals_the_equation_as_loops(num_images: int, length: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    prediction, target = torch.randn(2, num_images, length, dtype=torch.float64, generator=generator) + 0.1
    expected = regression_loss_by_loops(prediction.tolist(), target.tolist())
    torch.testing.assert_close(regression_loss(prediction, target).item(), expected)


def test_loss_is_invariant_to_the_lengths_of_its_vectors() -> None:
    prediction, target = torch.randn(2, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(regression_loss(7 * prediction, 0.1 * target), regression_loss(prediction, target))


def test_gradient_of_the_loss_is_right_and_none_reaches_the_target() -> None:
    prediction, target = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    prediction.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: regression_loss(p, target), prediction)
    target = target.clone().requires_grad_()
    regression_loss(prediction, target).backward()
    assert target.grad is None
    assert prediction.grad is not None


def test_half_precision_inputs_are_compared_in_single_precision() -> None:
    prediction, target = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = regression_loss(prediction, target)
    assert loss.dtype == torch.float32
    expected = regression_loss_by_loops(prediction.double().tolist(), target.double().tolist())
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="empty batch"):
        regression_loss(torch.zeros(0, 4), torch.zeros(0, 4))


class Halves(nn.Module):
    """An encoder whose output is known: the means of the left and of the right half of a view."""

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        left, right = view.chunk(2, dim=3)
        return torch.stack([left.mean(dim=(1, 2, 3)), right.mean(dim=(1, 2, 3))], dim=1)


def test_pair_loss_compares_each_views_prediction_with_the_targets_projection_of_the_other() -> None:
    online, target = Halves(), Halves()

    def view(left: float, right: float) -> torch.Tensor:
        values = torch.tensor([left, right], dtype=torch.float64).repeat_interleave(2)
        return values.expand(1, 3, 4, 4).clone()

    quarter_turn = nn.Linear(2, 2, bias=False).double()
    quarter_turn.weight.data = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    # Projections (1, 0) and (0, 1); predictions turned by 90 degrees: (0, 1) and (-1, 0).
    pair = (view(1, 0), view(0, 1))
    loss, projections = pair_loss(online, target, quarter_turn, pair)
    # The first prediction meets the second view's target (cos 1), the second is opposed to the first's (cos -1).
    assert loss.item() == pytest.approx(0 + 4)
    assert [projection.tolist() for projection in projections] == [[[1.0, 0.0]], [[0.0, 1.0]]]


def test_joined_views_have_common_batch_statistics_and_nothing_else() -> None:
    torch.manual_seed(0)
    one = BYOL(small_encoder(), byol_mlp(8, 16, 8))
    apart, joined = copy.deepcopy(one), copy.deepcopy(one)
    joined.join_views = True
    batch = views("view_1", "view_2")
    # In evaluation mode no statistics are shared, and both give the same.
    for method in (apart, joined):
        method.eval()
    assert_same = torch.testing.assert_close
    assert_same(joined(batch)[0]["loss_global"], apart(batch)[0]["loss_global"])
    # Views that are the same batch have the same statistics, apart and joined.
    for method in (apart, joined):
        method.train()
    twice = {"view_1": batch["view_1"], "view_2": batch["view_1"]}
    assert_same(joined(twice)[0]["loss_global"], apart(twice)[0]["loss_global"])
    # Else, joined views are one batch of both.
    both = torch.cat([batch["view_1"], batch["view_2"]])
    projections = torch.cat(joined(batch)[1])
    assert_same(projections, one.train().online(both).detach())
    assert not torch.allclose(projections, torch.cat(apart(batch)[1]))


def test_byol_sends_gradients_to_the_online_network_and_the_predictor_only() -> None:
    torch.manual_seed(0)
    method = BYOL(small_encoder(), byol_mlp(8, 16, 8))
    losses, projections = method(views("view_1", "view_2"))
    losses["loss_global"].backward()
    assert all(weight.grad is not None for weight in method.online.parameters())
    assert all(weight.grad is not None for weight in method.predictor.parameters())
    assert all(weight.grad is None for weight in method.target.parameters())
    assert [projection.shape for projection in projections] == [(4, 8), (4, 8)]
    assert not any(projection.requires_grad for projection in projections)
