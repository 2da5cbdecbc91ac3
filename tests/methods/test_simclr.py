"""SimCLR's loss against loops, lightly and closed forms; two processes against one; a small run that learns."""

import math
import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from hypothesis import given
from hypothesis import strategies as st
from tests.ports import free_port
from tests.reference.simclr import nt_xent_by_loops
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from orl.methods.simclr import SimCLR, nt_xent
from orl.networks.backbones import Backbone
from orl.networks.mlp import simclr_mlp
from orl.networks.online_target import Encoder
from orl.networks.sync_bn import sync_batch_norm
from orl.training.lars import LARS, lars_groups


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def new_method(join_views: bool = True) -> SimCLR:
    torch.manual_seed(0)
    layers = OrderedDict(conv=nn.Conv2d(3, 6, 3, stride=2), bn=nn.BatchNorm2d(6), relu=nn.ReLU())
    encoder = Encoder(Backbone(layers, "tiny", 6), simclr_mlp(6, 8, 5))
    return SimCLR(encoder, temperature=0.2, join_views=join_views).double()


@given(st.integers(2, 5), st.integers(1, 6), st.floats(0.1, 2), st.integers(0, 1000))
def test_loss_equals_the_equation_as_loops(num_images: int, length: int, temperature: float, seed: int) -> None:
    one, other = draw(2, num_images, length, seed=seed)
    expected = nt_xent_by_loops(one.tolist(), other.tolist(), temperature)
    torch.testing.assert_close(nt_xent(one, other, temperature).item(), expected)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_and_gradient_are_lightlys(temperature: float) -> None:
    from lightly.loss import NTXentLoss  # here, so that the two processes start without it

    ours, theirs = (draw(2, 6, 8).requires_grad_() for _ in range(2))
    loss, expected = nt_xent(*ours, temperature), NTXentLoss(temperature)(*theirs)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_equal_images_give_the_loss_of_a_guess() -> None:
    same = torch.ones(4, 3, dtype=torch.float64)
    assert nt_xent(same, 2 * same, 0.1).item() == pytest.approx(math.log(7))


def test_known_losses_of_orthogonal_images() -> None:
    axes = torch.eye(6, dtype=torch.float64)
    # Both views of an image alike, all else orthogonal: cosine 1 against four of 0.
    alike = nt_xent(axes[:3], axes[:3], 0.5).item()
    assert alike == pytest.approx(-2 + math.log(math.exp(2) + 4))
    # No view like any other.
    assert nt_xent(axes[:3], axes[3:], 0.5).item() == pytest.approx(math.log(5))
    # The other view opposed: cosine -1.
    assert nt_xent(axes[:3], -axes[:3], 0.5).item() == pytest.approx(2 + math.log(math.exp(-2) + 4))


def test_loss_is_invariant_to_order_lengths_and_swapped_views() -> None:
    one, other = draw(2, 5, 4)
    loss = nt_xent(one, other, 0.2)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(nt_xent(one[order], other[order], 0.2), loss)
    torch.testing.assert_close(nt_xent(other, one, 0.2), loss)
    lengths = torch.linspace(0.1, 9, 5, dtype=torch.float64)[:, None]
    torch.testing.assert_close(nt_xent(one * lengths, other / lengths, 0.2), loss)
    assert abs((nt_xent(one[order], other, 0.2) - loss).item()) > 0.01


def test_gradient_of_the_loss_is_right_in_both_views() -> None:
    one, other = (values.requires_grad_() for values in draw(2, 3, 4).unbind())
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.3), (one, other))


def test_half_precision_is_compared_in_single_precision() -> None:
    one, other = draw(2, 16, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(one, other, 0.1)
        single = nt_xent(one.float(), other.float(), 0.1)
    assert loss.dtype == torch.float32
    expected = nt_xent_by_loops(one.double().tolist(), other.double().tolist(), 0.1)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert single.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("num_images", [0, 1])
def test_fewer_than_two_images_are_refused(num_images: int) -> None:
    with pytest.raises(ValueError, match=f"got a batch of {num_images}; is drop_last set"):
        nt_xent(torch.ones(num_images, 4), torch.ones(num_images, 4), 0.1)


@pytest.mark.parametrize("temperature", [0.0, -0.1])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature must be above 0, got {temperature}"):
        nt_xent(torch.ones(4, 4), torch.ones(4, 4), temperature)


def test_joined_views_have_common_batch_statistics_and_nothing_else() -> None:
    joined, apart = new_method(join_views=True), new_method(join_views=False)
    batch = {"view_1": draw(4, 3, 9, 9), "view_2": draw(4, 3, 9, 9, seed=1)}
    both = joined.online(torch.cat([batch["view_1"], batch["view_2"]])).detach()
    losses, projections = joined(batch)
    torch.testing.assert_close(torch.cat(projections), both)
    torch.testing.assert_close(losses["loss_global"].item(), nt_xent_by_loops(*_lists(projections), 0.2))
    losses_apart, projections_apart = apart(batch)
    torch.testing.assert_close(projections_apart[1], apart.online(batch["view_2"]).detach())
    assert abs((losses_apart["loss_global"] - losses["loss_global"]).item()) > 1e-4
    assert not any(projection.requires_grad for projection in projections + projections_apart)


def _lists(projections: tuple[Tensor, Tensor]) -> list[list[list[float]]]:
    return [projection.tolist() for projection in projections]


def test_every_weight_learns_and_update_target_does_nothing() -> None:
    method = new_method()
    losses, _ = method({"view_1": draw(4, 3, 9, 9), "view_2": draw(4, 3, 9, 9, seed=1)})
    assert list(losses) == ["loss_global"]
    losses["loss_global"].backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in method.online.projector.parameters())
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.update_target(0.5)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def trained(join_views: bool, rank: int = 0, num_processes: int = 1) -> dict[str, list[float] | dict[str, Tensor]]:
    """Losses and final state of three steps on this process's rows."""
    method = new_method(join_views)
    model: nn.Module = method
    if num_processes > 1:
        model = DistributedDataParallel(sync_batch_norm(method, torch.device("cpu")))
    optimiser = LARS(lars_groups(method), lr=0.5, trust_coefficient=0.1)
    losses = []
    for step in range(3):
        rows = slice(rank, None, num_processes)
        views = {f"view_{view}": draw(6, 3, 9, 9, seed=10 * step + view)[rows] for view in (1, 2)}
        optimiser.zero_grad()
        loss = model(views)[0]["loss_global"]
        loss.backward()
        optimiser.step()
        method.update_target(0.9)
        losses.append(loss.item())
    return {"losses": losses, "state": method.state_dict()}


def one_of_two(rank: int, port: int, folder: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.save([trained(join_views, rank, 2) for join_views in (True, False)], folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    multiprocessing.spawn(one_of_two, (free_port(), tmp_path), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for first, second, join_views in zip(*parts, (True, False)):
        alone = trained(join_views)
        mean = [(a + b) / 2 for a, b in zip(first["losses"], second["losses"])]
        torch.testing.assert_close(mean, alone["losses"])
        for name, expected in alone["state"].items():
            torch.testing.assert_close(first["state"][name], expected, msg=name)
            assert torch.equal(first["state"][name], second["state"][name]), name


def test_a_small_run_learns_to_distinguish_images() -> None:
    method, images = new_method(), draw(8, 3, 9, 9)
    optimiser = LARS(lars_groups(method), lr=1.0, trust_coefficient=0.02)
    losses = []
    for step in range(80):
        views = {f"view_{view}": images + 0.5 * draw(8, 3, 9, 9, seed=10 * step + view) for view in (1, 2)}
        optimiser.zero_grad()
        loss = method(views)[0]["loss_global"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    # A guess among fifteen views costs log 15 = 2.7.
    assert sum(losses[-5:]) / 5 < 1.2 < 2 < losses[0]
    views = {f"view_{view}": images + 0.5 * draw(8, 3, 9, 9, seed=5000 + view) for view in (1, 2)}
    one, other = (nn.functional.normalize(projection) for projection in method(views)[1])
    assert ((one @ other.T).argmax(dim=1) == torch.arange(8)).float().mean() > 0.7
