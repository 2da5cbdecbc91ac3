import doctest
import math

import pytest
import torch
from tests.reference.byol import regression_loss_by_loops

from orl.methods import losses
from orl.methods.losses import BYOLLoss, DenseCLLoss, InfoNCELoss, NTXentLoss, ORLLoss, SelfEMDLoss
from orl.methods.mocov2 import queue_loss
from orl.methods.selfemd import emd_loss


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_examples_in_the_docstrings_run() -> None:
    found = doctest.testmod(losses)
    assert found.attempted >= 20
    assert found.failed == 0


def test_byol_loss_is_the_equation_as_loops() -> None:
    prediction, target = random(2, 5, 8).double()
    expected = regression_loss_by_loops(prediction.tolist(), target.tolist())
    assert BYOLLoss()(prediction, target).item() == pytest.approx(expected)


def test_orl_loss_is_the_weighted_sum_of_six_byol_losses() -> None:
    predictions, targets = random(3, 2, 5, 8).double(), random(3, 2, 5, 8, seed=1).double()
    expected = 0.0
    for term, weight in enumerate((1.0, 0.5, 2.0)):
        for view in range(2):
            expected += weight * regression_loss_by_loops(
                predictions[term, view].tolist(), targets[term, 1 - view].tolist()
            )
    pairs = [(tuple(one), tuple(other)) for one, other in zip(predictions, targets)]
    assert ORLLoss(1.0, 0.5, 2.0)(*pairs).item() == pytest.approx(expected)


def test_orl_loss_refuses_weights_that_minimise_nothing() -> None:
    with pytest.raises(ValueError, match="one must be above 0; got"):
        ORLLoss(0.0, 0.0, 0.0)


def test_nt_xent_loss_of_a_perfect_match_goes_to_zero_with_the_temperature() -> None:
    projection = torch.eye(4)
    # Cosine 1 with the other view, 0 with the six views of other images.
    assert NTXentLoss(0.5)(projection, projection).item() == pytest.approx(math.log(1 + 6 * math.exp(-2)))
    assert NTXentLoss(0.01)(projection, projection).item() == pytest.approx(0, abs=1e-6)


def test_info_nce_loss_compares_with_earlier_keys_and_then_takes_the_new_ones() -> None:
    loss = InfoNCELoss(queue_size=8, num_features=6, temperature=0.2)
    query, key, queue = random(4, 6), random(4, 6, seed=1), loss.negatives.keys()
    torch.testing.assert_close(loss(query, key), queue_loss(query, key, queue, 0.2))
    unit = key / key.norm(dim=1, keepdim=True)
    torch.testing.assert_close(loss.negatives.keys(), torch.cat([unit, queue[4:]]))
    loss.eval()
    queue = loss.negatives.keys()
    loss(query, key)
    assert torch.equal(loss.negatives.keys(), queue)


def test_dense_cl_loss_of_one_position_is_the_info_nce_loss() -> None:
    torch.manual_seed(0)
    dense = DenseCLLoss(queue_size=8, num_features=6)
    pooled = InfoNCELoss(queue_size=8, num_features=6)
    pooled.load_state_dict(dense.state_dict())
    query, key, feature_map = random(4, 6), random(4, 6, seed=1), random(4, 5, 1, 1)
    found = dense(query[:, :, None, None], key[:, :, None, None], feature_map, feature_map)
    torch.testing.assert_close(found, pooled(query, key))
    torch.testing.assert_close(dense.negatives.keys(), pooled.negatives.keys())


def test_dense_cl_loss_finds_the_position_of_a_shifted_view() -> None:
    feature_map = torch.eye(4).reshape(1, 4, 2, 2)
    loss = DenseCLLoss(queue_size=4, num_features=4).eval()
    turned = feature_map.flip(2, 3)
    straight = loss(feature_map, feature_map, feature_map, feature_map)
    torch.testing.assert_close(loss(feature_map, turned, feature_map, turned), straight)


def test_self_emd_loss_is_the_function_with_its_solver() -> None:
    prediction, target = random(2, 8, 3, 3), random(2, 8, 3, 3, seed=1)
    expected = emd_loss(prediction, target, regularisation=0.1, num_iterations=7)
    assert torch.equal(SelfEMDLoss(regularisation=0.1, num_iterations=7)(prediction, target), expected)


@pytest.mark.parametrize("loss", [BYOLLoss(), SelfEMDLoss()])
def test_no_gradient_flows_into_the_target(loss: torch.nn.Module) -> None:
    shape = (2, 8) if isinstance(loss, BYOLLoss) else (2, 8, 3, 3)
    prediction, target = random(*shape).requires_grad_(), random(*shape, seed=1).requires_grad_()
    loss(prediction, target).backward()
    assert prediction.grad is not None
    assert target.grad is None
