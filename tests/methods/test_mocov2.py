"""MoCo v2's loss against loops, its queue, its groups, and two processes against one."""

import copy
import math
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from hypothesis import given
from hypothesis import strategies as st
from lightly.loss import NTXentLoss
from tests.ports import free_port
from tests.reference.mocov2 import normalised_in_groups, queue_after, queue_loss_by_loops
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from orl.methods.mocov2 import (
    KeyQueue,
    MoCoV2,
    forward_in_groups,
    groups_per_process,
    num_outputs,
    queue_loss,
    shuffle,
    unshuffle,
)
from orl.networks.backbones import Backbone, build_backbone
from orl.networks.mlp import byol_mlp, moco_mlp
from orl.networks.online_target import Encoder

TEMPERATURE = 0.2


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True)


def small_encoder() -> Encoder:
    """One convolution with batch normalisation, and one in the projector too."""
    torch.manual_seed(0)
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(3, 6, 3, stride=2, bias=False), bn=nn.BatchNorm2d(6), relu=nn.ReLU()
    )
    return Encoder(Backbone(parts, "small", 6), byol_mlp(6, 8, 4))


def new_method(queue_size: int = 24, num_groups: int = 2) -> MoCoV2:
    return MoCoV2(small_encoder(), queue_size=queue_size, temperature=TEMPERATURE, num_groups=num_groups).double()


def batch_of(step: int, count: int = 8) -> dict[str, Tensor]:
    return {name: random(count, 3, 9, 9, seed=10 * step + i) for i, name in enumerate(("view_1", "view_2"))}


def test_loss_of_equal_keys_is_that_of_a_guess() -> None:
    same = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    loss = queue_loss(5 * same.expand(3, 2), same.expand(3, 2), same.expand(7, 2), TEMPERATURE)
    assert loss.item() == pytest.approx(math.log(8))


def test_loss_is_known_when_negatives_are_orthogonal() -> None:
    query = torch.eye(4, dtype=torch.float64)[:1]
    queue = torch.eye(4, dtype=torch.float64)[[1, 2, 3, 1, 2]]
    expected = math.log(1 + 5 * math.exp(-1 / TEMPERATURE))
    assert queue_loss(query, query, queue, TEMPERATURE).item() == pytest.approx(expected)
    # The key is opposed to the query.
    expected = math.log(1 + 5 * math.exp(1 / TEMPERATURE))
    assert queue_loss(query, -query, queue, TEMPERATURE).item() == pytest.approx(expected)


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.floats(0.05, 2), st.integers(0, 1000))
def test_loss_equals_the_equation_as_loops(
    num_images: int, queue_size: int, length: int, temperature: float, seed: int
) -> None:
    query, key = random(num_images, length, seed=seed), random(num_images, length, seed=seed + 1)
    queue = unit(random(queue_size, length, seed=seed + 2))
    expected = queue_loss_by_loops(query.tolist(), key.tolist(), queue.tolist(), temperature)
    torch.testing.assert_close(queue_loss(query, key, queue, temperature).item(), expected)


@given(st.permutations(range(5)), st.permutations(range(7)), st.floats(0.01, 100), st.floats(0.01, 100))
def test_loss_is_invariant_to_order_and_lengths(
    images: list[int], negatives: list[int], query_scale: float, key_scale: float
) -> None:
    query, key, queue = random(5, 4), random(5, 4, seed=1), unit(random(7, 4, seed=2))
    expected = queue_loss(query, key, queue, TEMPERATURE)
    changed = queue_loss(query_scale * query[images], key_scale * key[images], queue[negatives], TEMPERATURE)
    torch.testing.assert_close(changed, expected)


def test_gradient_of_the_loss_is_right_and_none_reaches_a_key() -> None:
    query, key, queue = random(3, 4), random(3, 4, seed=1), unit(random(5, 4, seed=2))
    query.requires_grad_()
    assert torch.autograd.gradcheck(lambda q: queue_loss(q, key, queue, TEMPERATURE), query)
    key.requires_grad_()
    queue.requires_grad_()
    queue_loss(query, key, queue, TEMPERATURE).backward()
    assert key.grad is None
    assert queue.grad is None
    assert query.grad is not None


def test_loss_and_queue_are_lightlys_over_many_batches() -> None:
    torch.manual_seed(0)
    ours = KeyQueue(12, 5).double()
    lightlys = NTXentLoss(temperature=TEMPERATURE, memory_bank_size=(12, 5))
    lightlys.memory_bank.bank = ours.queue.clone()
    for step in range(5):
        query, key = random(4, 5, seed=2 * step).requires_grad_(), random(4, 5, seed=2 * step + 1)
        expected = lightlys(query, key)
        loss = queue_loss(query, key, ours.keys(), TEMPERATURE)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss, query), torch.autograd.grad(expected, query))
        ours.enqueue(key)
        torch.testing.assert_close(ours.queue, lightlys.memory_bank.bank)


def test_half_precision_projections_are_compared_in_single_precision() -> None:
    query, key = torch.randn(2, 8, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    queue = unit(random(32, 64)).float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = queue_loss(query, key, queue, TEMPERATURE)
    assert loss.dtype == torch.float32
    expected = queue_loss_by_loops(query.double().tolist(), key.double().tolist(), queue.double().tolist(), TEMPERATURE)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_an_empty_batch_and_a_useless_temperature_are_refused() -> None:
    with pytest.raises(ValueError, match="empty batch"):
        queue_loss(torch.zeros(0, 4), torch.zeros(0, 4), torch.ones(2, 4), TEMPERATURE)
    with pytest.raises(ValueError, match=r"temperature must be above 0, got 0\.0"):
        queue_loss(torch.ones(1, 4), torch.ones(1, 4), torch.ones(2, 4), 0.0)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 7), st.integers(0, 1000))
def test_new_keys_replace_the_oldest(batch_size: int, num_fit: int, num_batches: int, seed: int) -> None:
    queue = KeyQueue(batch_size * num_fit, 3).double()
    before = queue.queue.tolist()
    batches = random(num_batches, batch_size, 3, seed=seed)
    for batch in batches:
        queue.enqueue(batch)
    expected = torch.tensor(queue_after(before, batches.tolist()), dtype=torch.float64)
    torch.testing.assert_close(queue.queue, expected)
    assert queue.queue_position.item() == num_batches % num_fit * batch_size


def test_a_queue_starts_with_random_directions_of_the_global_generator() -> None:
    queues = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        queues.append(KeyQueue(1000, 16).queue)
    assert torch.equal(queues[0], queues[1])
    assert not torch.allclose(queues[0], queues[2])
    torch.testing.assert_close(queues[0].norm(dim=1), torch.ones(1000))
    # In all directions alike: the mean of n unit vectors has a length of about n ** -0.5.
    assert queues[0].mean(dim=0).norm() < 3 * 1000**-0.5


def test_keys_of_half_precision_are_kept_in_single_precision() -> None:
    queue = KeyQueue(4, 8)
    queue.enqueue(random(4, 8).bfloat16())
    torch.testing.assert_close(queue.queue, unit(random(4, 8).bfloat16().float()))


@pytest.mark.parametrize("batch_size", [0, 5, 12])
def test_a_queue_that_is_no_multiple_of_the_batch_is_refused(batch_size: int) -> None:
    queue = KeyQueue(6, 3)
    with pytest.raises(ValueError, match=f"queue of 6 keys is not a multiple of a batch of {batch_size} images"):
        queue.enqueue(torch.ones(batch_size, 3))
    assert queue.queue_position.item() == 0


def test_an_empty_queue_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one key, got 0"):
        KeyQueue(0, 3)


@pytest.mark.parametrize("num_groups", [1, 2, 3])
def test_each_group_has_batch_statistics_of_its_own(num_groups: int) -> None:
    values = random(6, 1)
    norm = nn.BatchNorm1d(1).double()
    expected = normalised_in_groups(values[:, 0].tolist(), num_groups, norm.eps)
    torch.testing.assert_close(forward_in_groups(norm, values, num_groups)[:, 0].tolist(), expected)


def test_groups_keep_the_rows_of_maps_in_order() -> None:
    maps = random(6, 2, 3, 4)
    assert torch.equal(forward_in_groups(nn.Identity(), maps, 3), maps)


@pytest.mark.parametrize(("num_images", "num_groups"), [(8, 3), (8, 8), (0, 1), (8, 16)])
def test_groups_that_a_batch_does_not_make_are_refused(num_images: int, num_groups: int) -> None:
    with pytest.raises(
        ValueError, match=f"a batch of {num_images} images cannot be split into {num_groups} equal groups"
    ):
        groups_per_process(num_images, num_groups)


def test_no_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="0 groups cannot be split evenly over 1 processes"):
        groups_per_process(8, 0)


def test_unshuffle_undoes_shuffle() -> None:
    torch.manual_seed(0)
    views = random(8, 3, 2, 2)
    shuffled, order = shuffle(views)
    assert torch.equal(shuffled, views[order])
    assert not torch.equal(shuffled, views)
    assert torch.equal(unshuffle(shuffled, order), views)


def test_the_loss_of_a_batch_is_that_of_its_parts_by_hand() -> None:
    method = new_method()
    # Else a network mixed up with the other would not be seen.
    method.target.backbone.conv.weight.data.mul_(random(6, 3, 3, 3, seed=7))
    by_hand, views, queue = copy.deepcopy(method), batch_of(0), method.negatives.queue.clone()
    torch.manual_seed(5)
    order = torch.randperm(8)
    torch.manual_seed(5)
    losses, (query, key) = method(views)
    expected_query, expected_key = torch.zeros(8, 4).double(), torch.zeros(8, 4).double()
    for group in range(2):
        members = torch.arange(8)[group::2]
        expected_query[members] = by_hand.online(views["view_1"][members]).detach()
        expected_key[order[members]] = by_hand.target(views["view_2"][order[members]])
    torch.testing.assert_close(query, expected_query)
    torch.testing.assert_close(key, expected_key)
    expected = queue_loss_by_loops(expected_query.tolist(), expected_key.tolist(), queue.tolist(), TEMPERATURE)
    assert losses["loss_global"].item() == pytest.approx(expected)
    queue[:8] = unit(expected_key)
    torch.testing.assert_close(method.negatives.queue, queue)


def test_gradients_go_to_the_online_network_only() -> None:
    torch.manual_seed(0)
    encoder = Encoder(build_backbone("resnet10"), moco_mlp(512, 16, 8))
    method = MoCoV2(encoder, queue_size=8, temperature=TEMPERATURE, num_groups=2)
    views = {name: value.float() for name, value in batch_of(0, count=4).items()}
    losses, projections = method(views)
    losses["loss_global"].backward()
    assert list(losses) == ["loss_global"]
    assert all(weight.grad is not None for weight in method.online.parameters())
    assert all(weight.grad is None for weight in method.target.parameters())
    assert [projection.shape for projection in projections] == [(4, 8), (4, 8)]
    assert not any(projection.requires_grad for projection in projections)


def test_a_batch_under_autocast_has_a_loss_in_single_precision() -> None:
    method = new_method().float()
    views = {name: value.float() for name, value in batch_of(0).items()}
    full = copy.deepcopy(method)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(0)
        loss = method(views)[0]["loss_global"]
    torch.manual_seed(0)
    assert loss.dtype == torch.float32
    # bf16 has 8 bits, and statistics over four images of noise make much of little.
    assert loss.item() == pytest.approx(full(views)[0]["loss_global"].item(), abs=0.3)
    loss.backward()


def test_the_target_is_the_moving_average_and_moves_only_in_update_target() -> None:
    method = new_method()
    before = copy.deepcopy(method.target)
    method.online.projector[0].weight.data.add_(1)
    method(batch_of(0))
    for weight, old in zip(method.target.parameters(), before.parameters()):
        assert torch.equal(weight, old)
    method.update_target(0.9)
    for weight, old, online in zip(method.target.parameters(), before.parameters(), method.online.parameters()):
        torch.testing.assert_close(weight, 0.9 * old + 0.1 * online)


def test_in_evaluation_mode_the_queue_stays_unchanged() -> None:
    method = new_method().eval()
    before = method.negatives.queue.clone()
    method(batch_of(0))
    assert torch.equal(method.negatives.queue, before)
    assert method.negatives.queue_position.item() == 0


def test_the_queue_is_part_of_the_state() -> None:
    one, other = new_method(), new_method()
    for step in range(2):
        one(batch_of(step))
    other.load_state_dict(one.state_dict())
    assert other.negatives.queue_position.item() == 16
    for method in (one, other):
        torch.manual_seed(3)
        method(batch_of(2))
    assert torch.equal(one.negatives.queue, other.negatives.queue)
    assert one.negatives.queue_position.item() == other.negatives.queue_position.item() == 0


def test_buffers_stay_the_same_tensors() -> None:
    # A failed training step restores these buffers from copies.
    method = new_method()
    before = [buffer.data_ptr() for buffer in method.buffers()]
    method(batch_of(0))
    assert [buffer.data_ptr() for buffer in method.buffers()] == before


def test_counting_a_projectors_outputs_changes_nothing() -> None:
    projector = byol_mlp(6, 8, 4)
    before = copy.deepcopy(projector.state_dict())
    assert num_outputs(projector, 6) == 4
    assert projector.training
    for name, value in projector.state_dict().items():
        assert torch.equal(value, before[name])


def two_views(count: int, seed: int) -> dict[str, Tensor]:
    """Images that are known by their first channel only: the other two, which are larger, differ between views."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.randn(count, 1, 1, 1, generator=generator)

    def view() -> Tensor:
        other = 2 * torch.randn(count, 2, 1, 1, generator=generator)
        return torch.cat([kept, other], dim=1) + 0.1 * torch.randn(count, 3, 9, 9, generator=generator)

    return {"view_1": view(), "view_2": view()}


@torch.no_grad()
def advantage(method: MoCoV2) -> float:
    """Compute the mean cosine of two views of one image, minus that of two images."""
    one, other = (nn.functional.normalize(method.online(view)) for view in two_views(64, 1000).values())
    return ((one * other).sum(dim=1).mean() - (one @ other.T).mean()).item()


def test_a_short_training_brings_the_views_of_an_image_together() -> None:
    method = new_method(queue_size=64).float()
    before = advantage(copy.deepcopy(method))
    optimiser = torch.optim.SGD(method.online.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for step in range(100):
        torch.manual_seed(step)
        terms, (query, _) = method(two_views(16, step))
        optimiser.zero_grad()
        terms["loss_global"].backward()
        optimiser.step()
        method.update_target(0.9)
        losses.append(terms["loss_global"].item())
    assert sum(losses[-10:]) / 10 < math.log(1 + 64) - 0.3
    assert advantage(method) > before + 0.2
    # No collapse: features that are uniform on the sphere have std 1.
    assert nn.functional.normalize(query).std(dim=0).mean() * 4**0.5 > 0.3


def steps(method: MoCoV2, model: nn.Module, rank: int, count: int) -> list[dict[str, Any]]:
    """Four steps of a method as process `rank` of `count`; the queue wraps in the last."""
    optimiser = torch.optim.SGD(method.online.parameters(), lr=0.1, momentum=0.9)
    found = []
    for step in range(4):
        torch.manual_seed(10 * step + rank)
        terms, projections = model({name: value[rank::count] for name, value in batch_of(step).items()})
        optimiser.zero_grad()
        terms["loss_global"].backward()
        optimiser.step()
        method.update_target(0.9)
        gradients = [weight.grad.clone() for weight in method.online.parameters() if weight.grad is not None]
        weights = [weight.detach().clone() for weight in method.parameters()]
        queue = method.negatives.queue.clone(), method.negatives.queue_position.clone()
        found.append(
            {
                "loss": terms["loss_global"].item(),
                "projections": projections,
                "exact": [*gradients, *weights, *queue],
            }
        )
    return found


def one_of_two(rank: int, port: int, folder: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for num_groups in (2, 4):
        method = new_method(num_groups=num_groups)
        found = steps(method, DistributedDataParallel(method), rank, 2)
        torch.save(found, folder / f"{num_groups}_{rank}.pt")
    with pytest.raises(ValueError, match="3 groups cannot be split evenly over 2 processes"):
        groups_per_process(6, 3)
    dist.destroy_process_group()


def test_two_processes_give_the_losses_gradients_and_queue_of_one(tmp_path: Path) -> None:
    multiprocessing.spawn(one_of_two, (free_port(), tmp_path), nprocs=2)
    for num_groups in (2, 4):
        method = new_method(num_groups=num_groups)
        alone = steps(method, method, 0, 1)
        parts = [torch.load(tmp_path / f"{num_groups}_{rank}.pt") for rank in range(2)]
        for step, expected in enumerate(alone):
            both = [part[step] for part in parts]
            assert (both[0]["loss"] + both[1]["loss"]) / 2 == pytest.approx(expected["loss"], abs=1e-9)
            for rank in range(2):
                for own, alone in zip(both[rank]["projections"], expected["projections"], strict=True):
                    torch.testing.assert_close(own, alone[rank::2])
                torch.testing.assert_close(both[rank]["exact"], expected["exact"])
