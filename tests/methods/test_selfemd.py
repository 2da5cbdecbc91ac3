"""Self-EMD's loss against loops, POT and closed forms; what learns from what; two processes against one."""

import copy
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from hypothesis import given
from hypothesis import strategies as st
from tests.ports import free_port
from tests.reference.byol import regression_loss_by_loops
from tests.reference.transport import (
    cosine_costs_by_loops,
    cross_reference_weights_by_loops,
    emd_loss_by_loops,
    moved_cost_by_loops,
    sinkhorn_by_loops,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from orl.methods.byol import regression_loss
from orl.methods.selfemd import SelfEMD, cross_reference_weights, emd_loss
from orl.networks.backbones import Backbone, pool
from orl.networks.mlp import byol_mlp, conv1x1
from orl.networks.online_target import Encoder
from orl.networks.sync_bn import sync_batch_norm

SINKHORN: dict[str, Any] = {"regularisation": 0.1, "num_iterations": 5}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def positions(grid: Tensor) -> list[list[list[float]]]:
    """Images of positions of numbers."""
    return [[image[:, i, j].tolist() for i in range(image.shape[1]) for j in range(image.shape[2])] for image in grid]


def new_method(**others: Any) -> SelfEMD:
    torch.manual_seed(0)
    layers = OrderedDict(conv=nn.Conv2d(3, 6, 3, stride=3), bn=nn.BatchNorm2d(6), relu=nn.ReLU())
    method = SelfEMD(
        Encoder(Backbone(layers, "tiny", 6), byol_mlp(6, 8, 5)),
        conv1x1(byol_mlp(6, 8, 5)),
        byol_mlp(5, 8, 5),
        conv1x1(byol_mlp(5, 8, 5)),
        **{"dense_weight": 0.3, **SINKHORN, **others},
    )
    return method.double()


def batch(seed: int = 0, num_images: int = 4) -> dict[str, Tensor]:
    return {f"view_{view}": draw(num_images, 3, 9, 9, seed=10 * seed + view) for view in (1, 2)}


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1000))
def test_loss_equals_the_equation_as_loops(n: int, length: int, height: int, width: int, seed: int) -> None:
    prediction, target = draw(n, length, height, width, seed=seed), draw(n, length, width, 2, seed=seed + 1)
    expected = emd_loss_by_loops(positions(prediction), positions(target), 0.1, 5)
    torch.testing.assert_close(emd_loss(prediction, target, **SINKHORN).item(), expected)


def test_loss_is_the_cost_of_pots_plan() -> None:
    import ot  # here, so that the two processes start without it

    prediction, target = draw(3, 4, 2, 3), draw(3, 4, 2, 3, seed=1)
    expected, least = 0.0, 0.0
    for one, other in zip(positions(prediction), positions(target)):
        cost = np.array(cosine_costs_by_loops(one, other))
        rows = np.array(cross_reference_weights_by_loops(one, other))
        columns = np.array(cross_reference_weights_by_loops(other, one))
        with np.errstate(divide="ignore"):  # some positions have no weight
            plan = ot.sinkhorn(rows, columns, cost, 0.2, method="sinkhorn_log", numItermax=5000, stopThr=1e-12)
        expected += 2 * (plan * cost).sum() / 3
        least += 2 * ot.emd2(rows, columns, cost) / 3
    found = emd_loss(prediction, target, regularisation=0.2, num_iterations=1000).item()
    assert found == pytest.approx(expected, rel=1e-6)
    assert least < found
    assert emd_loss(prediction, target, regularisation=0.005, num_iterations=3000).item() == pytest.approx(
        least, abs=2 * 0.005 * np.log(36)
    )


def test_known_losses_of_equal_orthogonal_and_opposed_positions() -> None:
    axes = torch.eye(4, dtype=torch.float64)
    one = axes[0].reshape(1, 4, 1, 1).expand(2, 4, 2, 3)
    assert emd_loss(one, 3 * one, **SINKHORN).item() == pytest.approx(0, abs=1e-12)
    other = axes[1].reshape(1, 4, 1, 1).expand(2, 4, 2, 3)
    assert emd_loss(one, other, **SINKHORN).item() == pytest.approx(2)
    assert emd_loss(one, -one, **SINKHORN).item() == pytest.approx(4)


def test_positions_match_equal_ones_elsewhere() -> None:
    prediction = torch.eye(6, dtype=torch.float64).reshape(1, 6, 2, 3)
    order = torch.tensor([4, 2, 5, 0, 1, 3])
    target = prediction.flatten(2)[:, :, order].reshape(1, 6, 2, 3)
    assert emd_loss(prediction, target, regularisation=0.02, num_iterations=50).item() == pytest.approx(0, abs=1e-12)
    # Were positions compared with those at the same position, all would be orthogonal.
    assert (prediction * target).sum() == 0


def test_loss_of_one_position_is_byols_loss_with_its_gradient() -> None:
    prediction, target = draw(3, 4), draw(3, 4, seed=1)
    found = emd_loss(prediction[:, :, None, None], target[:, :, None, None], **SINKHORN)
    torch.testing.assert_close(found, regression_loss(prediction, target))
    prediction = prediction[:, :, None, None].requires_grad_()
    assert torch.autograd.gradcheck(lambda p: emd_loss(p, target[:, :, None, None], **SINKHORN), prediction)


def test_loss_is_invariant_to_order_and_scale() -> None:
    prediction, target = draw(3, 4, 2, 3), draw(3, 4, 2, 3, seed=1)
    loss = emd_loss(prediction, target, **SINKHORN)
    images = torch.tensor([2, 0, 1])
    torch.testing.assert_close(emd_loss(prediction[images], target[images], **SINKHORN), loss)
    assert abs((emd_loss(prediction[images], target, **SINKHORN) - loss).item()) > 1e-3
    for order in ([4, 2, 5, 0, 1, 3], [1, 0, 2, 5, 4, 3]):
        moved = prediction.flatten(2)[:, :, order].reshape(3, 4, 3, 2)
        torch.testing.assert_close(emd_loss(moved, target, **SINKHORN), loss)
        moved = target.flatten(2)[:, :, order].reshape(3, 4, 3, 2)
        torch.testing.assert_close(emd_loss(prediction, moved, **SINKHORN), loss)
    scales = torch.tensor([0.01, 1, 30], dtype=torch.float64).reshape(3, 1, 1, 1)
    torch.testing.assert_close(emd_loss(prediction * scales, target / scales, **SINKHORN), loss)


def test_gradient_is_that_of_the_cost_under_a_constant_plan_and_none_reaches_the_target() -> None:
    prediction, target = draw(1, 3, 2, 2).requires_grad_(), draw(1, 3, 2, 2, seed=1).requires_grad_()
    emd_loss(prediction, target, **SINKHORN).backward()
    assert target.grad is None
    one, other = positions(prediction.detach())[0], positions(target.detach())[0]
    cost = cosine_costs_by_loops(one, other)
    rows, columns = cross_reference_weights_by_loops(one, other), cross_reference_weights_by_loops(other, one)
    plan = sinkhorn_by_loops(cost, rows, columns, 0.1, 5)

    def moved(shift: Tensor) -> float:
        return 2 * moved_cost_by_loops(plan, cosine_costs_by_loops(positions(prediction.detach() + shift)[0], other))

    for index in range(prediction.numel()):
        step = torch.zeros(prediction.numel(), dtype=torch.float64)
        step[index] = 1e-6
        step = step.reshape(prediction.shape)
        slope = (moved(step) - moved(-step)) / 2e-6
        assert prediction.grad.flatten()[index].item() == pytest.approx(slope, abs=1e-8)


def test_a_position_of_length_zero_has_no_gradient() -> None:
    prediction, target = draw(2, 3, 2, 2), draw(2, 3, 2, 2, seed=1)
    prediction[0, :, 0, 1], target[1, :, 1, 1] = 0, 0
    prediction.requires_grad_()
    loss = emd_loss(prediction, target, **SINKHORN)
    assert loss.item() == pytest.approx(emd_loss_by_loops(positions(prediction.detach()), positions(target), 0.1, 5))
    loss.backward()
    assert not prediction.grad[0, :, 0, 1].any()
    assert prediction.grad.abs().max() < 10


def test_half_precision_is_compared_in_single_precision() -> None:
    prediction, target = draw(4, 32, 3, 3).bfloat16(), draw(4, 32, 3, 3, seed=1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        losses = [emd_loss(prediction, target, **SINKHORN), emd_loss(prediction.float(), target.float(), **SINKHORN)]
    expected = emd_loss_by_loops(positions(prediction.double()), positions(target.double()), 0.1, 5)
    for loss in losses:
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="empty batch"):
        emd_loss(torch.zeros(0, 4, 2, 2), torch.zeros(0, 4, 2, 2), **SINKHORN)


def test_weights_by_hand() -> None:
    grid = torch.tensor([[[2.0, 5.0], [1.0, -7.0], [-3.0, 0.0], [0.0, 1.0]]], requires_grad=True)
    other = torch.tensor([[[3.0, 1.0], [1.0, -1.0]]])
    # The other's mean is (2, 0): scalar products 4, 2, -6 and 0.
    weights = cross_reference_weights(grid, other)
    torch.testing.assert_close(weights, torch.tensor([[4 / 6, 2 / 6, 0, 0]]))
    assert not weights.requires_grad


def test_unrelated_feature_maps_have_equal_weights() -> None:
    grid = torch.tensor([[[1.0, 2.0], [3.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    other = torch.tensor([[[-1.0, -1.0]], [[1.0, 0.0]]])
    torch.testing.assert_close(cross_reference_weights(grid, other), torch.tensor([[0.5, 0.5], [1.0, 0.0]]))


@pytest.mark.parametrize("join_views", [False, True])
def test_losses_are_those_of_the_parts_each_view_against_the_target_of_the_other(join_views: bool) -> None:
    method = new_method(join_views=join_views)
    for weight in [*method.target.parameters(), *method.target_dense_projector.parameters()]:
        weight.data += 0.1 * draw(*weight.shape, seed=weight.numel())
    parts, views = copy.deepcopy(method), batch()

    def passed(network: nn.Module, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if join_views:
            first, second = network(torch.cat(pair)).chunk(2)
            return first, second
        return network(pair[0]), network(pair[1])

    pair = (views["view_1"], views["view_2"])
    with torch.no_grad():
        online_maps, target_maps = passed(parts.online.backbone, pair), passed(parts.target.backbone, pair)
        projections = passed(parts.online.projector, (pool(online_maps[0]), pool(online_maps[1])))
        predictions = passed(parts.predictor, projections)
        targets = passed(parts.target.projector, (pool(target_maps[0]), pool(target_maps[1])))
        grids = passed(parts.dense_predictor, passed(parts.dense_projector, online_maps))
        target_grids = passed(parts.target_dense_projector, target_maps)
    in_order = [(0, 1), (1, 0)]
    byol = sum(regression_loss_by_loops(predictions[i].tolist(), targets[j].tolist()) for i, j in in_order)
    emd = sum(emd_loss_by_loops(positions(grids[i]), positions(target_grids[j]), 0.1, 5) for i, j in in_order)
    losses, watched = method(views)
    assert losses["loss_global"].item() == pytest.approx(0.7 * byol)
    assert losses["loss_dense"].item() == pytest.approx(0.3 * emd)
    for ours, expected in zip(watched, projections):
        torch.testing.assert_close(ours, expected)
        assert not ours.requires_grad


def test_each_backbone_passes_each_view_once() -> None:
    method = new_method()
    passes = []
    for network in (method.online, method.target):
        network.backbone.register_forward_hook(lambda network, views, maps: passes.append((network, views[0])))
    views = batch()
    method(views)
    expected = [(network.backbone, views[name]) for network in (method.online, method.target) for name in views]
    assert len(passes) == 4
    assert all(one[0] is other[0] and one[1] is other[1] for one, other in zip(passes, expected))


def test_each_loss_trains_its_own_path_and_the_backbone_and_never_the_target() -> None:
    of_both = {"online.backbone"}
    taught = {
        "loss_global": of_both | {"online.projector", "predictor"},
        "loss_dense": of_both | {"dense_projector", "dense_predictor"},
    }
    for term, expected in taught.items():
        method = new_method()
        method(batch())[0][term].backward()
        found = {name for name, weight in method.named_parameters() if weight.grad is not None}
        trained = {name for name, _ in method.named_parameters() if name.startswith(tuple(expected))}
        assert found == trained


def test_all_parts_of_the_target_begin_equal_and_follow() -> None:
    method = new_method()
    pairs = [(method.target, method.online), (method.target_dense_projector, method.dense_projector)]
    for target, online in pairs:
        for weight, expected in zip(target.parameters(), online.parameters(), strict=True):
            assert torch.equal(weight, expected)
            assert not weight.requires_grad
            expected.data += 1
    method.update_target(0.75)
    for target, online in pairs:
        for weight, moved in zip(target.parameters(), online.parameters(), strict=True):
            torch.testing.assert_close(weight.data, moved.data - 0.75)


@pytest.mark.parametrize("dense_weight", [0.0, -0.1, 1.1])
def test_dense_weights_out_of_range_are_refused(dense_weight: float) -> None:
    with pytest.raises(ValueError, match=rf"must lie in \(0, 1\], got {dense_weight}"):
        new_method(dense_weight=dense_weight)


def test_with_a_dense_weight_of_one_only_the_dense_path_learns() -> None:
    method = new_method(dense_weight=1.0)
    losses, _ = method(batch())
    assert losses["loss_global"].item() == 0
    sum(losses.values()).backward()
    assert not any(weight.grad.any() for weight in method.predictor.parameters())
    assert all(weight.grad.any() for weight in (method.online.backbone.conv.weight, method.dense_projector[0].weight))


def trained(rank: int = 0, num_processes: int = 1) -> dict[str, Any]:
    """Losses and final state of three steps on this process's rows."""
    method = new_method()
    model: nn.Module = method
    if num_processes > 1:
        model = DistributedDataParallel(sync_batch_norm(method, torch.device("cpu")))
    optimiser = torch.optim.SGD([w for w in method.parameters() if w.requires_grad], lr=0.05, momentum=0.9)
    losses = []
    for step in range(3):
        views = {name: view[rank::num_processes] for name, view in batch(step, 6).items()}
        optimiser.zero_grad()
        terms = model(views)[0]
        sum(terms.values()).backward()
        optimiser.step()
        method.update_target(0.9)
        losses.append([term.item() for term in terms.values()])
    return {"losses": torch.tensor(losses), "state": method.state_dict()}


def one_of_two(rank: int, port: int, folder: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.save(trained(rank, 2), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    multiprocessing.spawn(one_of_two, (free_port(), tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone = trained()
    torch.testing.assert_close((first["losses"] + second["losses"]) / 2, alone["losses"])
    for name, expected in alone["state"].items():
        torch.testing.assert_close(first["state"][name], expected, msg=name)
        assert torch.equal(first["state"][name], second["state"][name]), name


def test_a_small_run_learns_both_losses_and_does_not_collapse() -> None:
    method, images = new_method(dense_weight=0.5), draw(8, 3, 9, 9)
    optimiser = torch.optim.SGD([w for w in method.parameters() if w.requires_grad], lr=0.1, momentum=0.9)
    losses = []
    for step in range(60):
        views = {f"view_{view}": images + 0.3 * draw(8, 3, 9, 9, seed=10 * step + view) for view in (1, 2)}
        optimiser.zero_grad()
        terms, projections = method(views)
        sum(terms.values()).backward()
        optimiser.step()
        method.update_target(0.95)
        losses.append([term.item() for term in terms.values()])
    first, last = torch.tensor(losses[:5]).mean(dim=0), torch.tensor(losses[-5:]).mean(dim=0)
    assert (last < 0.5 * first).all()
    units = nn.functional.normalize(projections[0])
    # Equal features would have std 0, uniform ones 1 / sqrt(5) = 0.45.
    assert units.std(dim=0).mean() > 0.15
