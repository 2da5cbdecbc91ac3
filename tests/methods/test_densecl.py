"""DenseCL's matches and dense term against loops and lightly, its second queue, and two processes against one."""

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
from lightly.models.utils import most_similar_index, select_most_similar
from tests.ports import free_port
from tests.reference.densecl import dense_loss_by_loops, mean_key, most_similar_by_loops
from tests.reference.mocov2 import queue_loss_by_loops
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from orl.methods.densecl import DenseCL, features_at, flatten_positions, most_similar_positions
from orl.methods.mocov2 import MoCoV2
from orl.networks.backbones import Backbone
from orl.networks.mlp import byol_mlp, conv1x1, moco_mlp
from orl.networks.online_target import Encoder

TEMPERATURE = 0.2
LENGTH = 4


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True)


def small_encoder() -> Encoder:
    """One convolution with batch normalisation: 9 x 9 pixels become 4 x 4 positions."""
    torch.manual_seed(0)
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(3, 6, 3, stride=2, bias=False), bn=nn.BatchNorm2d(6), activation=nn.Tanh()
    )
    return Encoder(Backbone(parts, "small", 6), moco_mlp(6, 8, LENGTH))


def new_method(queue_size: int = 24, num_groups: int = 2, dense_weight: float = 0.5) -> DenseCL:
    encoder = small_encoder()
    # With batch normalisation, which the paper's has not, groups and order are seen there too.
    dense_projector = conv1x1(byol_mlp(6, 32, LENGTH))
    return DenseCL(
        encoder,
        dense_projector,
        queue_size=queue_size,
        temperature=TEMPERATURE,
        num_groups=num_groups,
        dense_weight=dense_weight,
    ).double()


def batch_of(step: int, count: int = 8) -> dict[str, Tensor]:
    return {name: random(count, 3, 9, 9, seed=10 * step + i) for i, name in enumerate(("view_1", "view_2"))}


def test_matches_are_known_when_the_key_map_is_the_query_map_turned() -> None:
    features = torch.eye(6, dtype=torch.float64).reshape(1, 6, 2, 3)
    # Position p of the query lies at 5 - p of the key, whatever its length.
    lengths = torch.tensor([1.0, 9.0, 0.1, 3.0, 2.0, 5.0], dtype=torch.float64).reshape(1, 1, 2, 3)
    turned = lengths * features.flip(2, 3)
    assert most_similar_positions(features, turned).tolist() == [[5, 4, 3, 2, 1, 0]]


@given(st.integers(1, 3), st.integers(2, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1000))
def test_matches_equal_the_rule_as_loops(num_images: int, length: int, height: int, width: int, seed: int) -> None:
    query_map = random(num_images, length, height, width, seed=seed)
    # The other view's map may have another form.
    key_map = random(num_images, length, width + 1, height, seed=seed + 1)
    expected = most_similar_by_loops(query_map.tolist(), key_map.tolist())
    assert most_similar_positions(query_map, key_map).tolist() == expected


def test_matched_keys_are_lightlys() -> None:
    query_map, key_map, keys = random(3, 5, 4, 4), random(3, 5, 4, 4, seed=1), random(3, 2, 4, 4, seed=2)
    lists = [values.flatten(2).transpose(1, 2) for values in (query_map, key_map, keys)]
    positions = most_similar_positions(query_map, key_map)
    assert torch.equal(positions, most_similar_index(lists[0], lists[1]))
    expected = select_most_similar(lists[0], lists[1], lists[2])
    assert torch.equal(features_at(keys, positions), expected.flatten(0, 1))


def test_flattened_positions_are_in_order() -> None:
    maps = random(2, 3, 2, 4)
    everywhere = torch.arange(8).expand(2, 8)
    assert torch.equal(flatten_positions(maps), features_at(maps, everywhere))
    assert torch.equal(flatten_positions(maps)[8 + 4 + 3], maps[1, :, 1, 3])


def test_matching_under_autocast_is_in_single_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    query_map = torch.randn(2, 16, 7, 7, generator=generator)
    # Positions so alike that half precision does not tell them apart.
    key_map = torch.randn(2, 16, 1, 1, generator=generator) + 1e-3 * torch.randn(2, 16, 7, 7, generator=generator)
    expected = most_similar_positions(query_map.double(), key_map.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = most_similar_positions(query_map, key_map)
    assert (found == expected).double().mean() > 0.95


@torch.no_grad()
def parts_by_hand(method: DenseCL, views: dict[str, Tensor], order: Tensor) -> dict[str, Tensor]:
    """Feature maps and projections of both views, group after group."""
    found = {}
    online = (method.online, method.dense_projector)
    target = (method.target, method.target_dense_projector)
    in_place = torch.arange(len(order))
    for side, (encoder, dense), view, positions in (
        ("query", online, views["view_1"], in_place),
        ("key", target, views["view_2"], order),
    ):
        maps = torch.zeros(len(view), 6, 4, 4).double()
        projections, denses = torch.zeros(len(view), LENGTH).double(), torch.zeros(len(view), LENGTH, 4, 4).double()
        for group in range(method.num_groups):
            members = positions[group :: method.num_groups]
            maps[members] = encoder.backbone(view[members])
            projections[members] = encoder.projector(maps[members].mean(dim=(2, 3)))
            denses[members] = dense(maps[members])
        found |= {f"{side}_map": maps, side: projections, f"dense_{side}": denses}
    return found


def unlike(method: DenseCL) -> DenseCL:
    """The method with another target than its online network, so that one taken for the other is seen."""
    for seed, weight in enumerate([*method.target.parameters(), *method.target_dense_projector.parameters()]):
        weight.data.add_(0.3 * random(*weight.shape, seed=seed))
    return method


@pytest.mark.parametrize("num_groups", [1, 2, 4])
def test_losses_of_a_batch_are_those_of_its_parts_as_loops(num_groups: int) -> None:
    method = unlike(new_method(num_groups=num_groups, dense_weight=0.3))
    by_hand, views = copy.deepcopy(method), batch_of(0)
    torch.manual_seed(5)
    order = torch.randperm(8)
    torch.manual_seed(5)
    losses, (query, key) = method(views)
    parts = parts_by_hand(by_hand, views, order)
    torch.testing.assert_close(query, parts["query"])
    torch.testing.assert_close(key, parts["key"])
    lists = {name: value.tolist() for name, value in parts.items()}
    queues = [queue.queue.tolist() for queue in (by_hand.negatives, by_hand.dense_negatives)]
    expected_global = queue_loss_by_loops(lists["query"], lists["key"], queues[0], TEMPERATURE)
    maps = (lists["dense_query"], lists["dense_key"], lists["query_map"], lists["key_map"])
    expected_dense = dense_loss_by_loops(*maps, queues[1], TEMPERATURE)
    assert list(losses) == ["loss_global", "loss_dense"]
    assert losses["loss_global"].item() == pytest.approx(0.7 * expected_global)
    assert losses["loss_dense"].item() == pytest.approx(0.3 * expected_dense)
    means = torch.tensor([mean_key(grid) for grid in lists["dense_key"]], dtype=torch.float64)
    torch.testing.assert_close(method.negatives.queue[:8], unit(parts["key"]))
    torch.testing.assert_close(method.dense_negatives.queue[:8], means)
    torch.testing.assert_close(method.dense_negatives.queue[8:], by_hand.dense_negatives.queue[8:])


class Same(nn.Module):
    """A dense projector that gives every position of every image one direction."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, feature_map: Tensor) -> Tensor:
        return torch.ones_like(feature_map[:, :LENGTH]) * self.scale


def test_dense_loss_of_equal_keys_is_that_of_a_guess() -> None:
    method = DenseCL(
        small_encoder(), Same(2.0), queue_size=16, temperature=TEMPERATURE, num_groups=2, dense_weight=1.0
    ).double()
    method(batch_of(0))
    losses, _ = method(batch_of(1))
    assert method.dense_negatives.queue_position.item() == 0
    # By now the queue holds 16 keys, all of the positive's direction.
    assert method(batch_of(2))[0]["loss_dense"].item() == pytest.approx(math.log(1 + 16))
    assert losses["loss_global"].item() == 0


def test_without_the_dense_term_it_is_moco_v2() -> None:
    method = new_method(dense_weight=0.0)
    moco = MoCoV2(small_encoder(), queue_size=24, temperature=TEMPERATURE, num_groups=2).double()
    moco.load_state_dict({name: value for name, value in method.state_dict().items() if "dense" not in name})
    for step in range(2):
        torch.manual_seed(step)
        losses, projections = method(batch_of(step))
        torch.manual_seed(step)
        expected, expected_projections = moco(batch_of(step))
        torch.testing.assert_close(sum(losses.values()), expected["loss_global"])
        torch.testing.assert_close(projections, expected_projections)
    torch.testing.assert_close(method.negatives.queue, moco.negatives.queue)


def test_gradients_of_the_dense_term_are_right() -> None:
    # In evaluation the queue stays, and small steps leave the matches as they are.
    method = unlike(new_method(dense_weight=1.0)).eval()
    views = batch_of(0, count=4)
    kept = method.online.backbone.conv.weight

    def loss(weight: Tensor) -> Tensor:
        torch.manual_seed(0)
        inputs = {"online.backbone.conv.weight": weight}
        return torch.func.functional_call(method, inputs, (views,))[0]["loss_dense"]

    assert torch.autograd.gradcheck(loss, kept.detach().clone().requires_grad_())


def test_gradients_go_to_the_online_network_and_its_dense_projector_only() -> None:
    method = new_method()
    losses, projections = method(batch_of(0))
    torch.stack(list(losses.values())).sum().backward()
    assert all(weight.grad is not None for weight in method.online.parameters())
    assert all(weight.grad is not None for weight in method.dense_projector.parameters())
    assert all(weight.grad is None for weight in method.target.parameters())
    assert all(weight.grad is None for weight in method.target_dense_projector.parameters())
    assert [projection.shape for projection in projections] == [(8, LENGTH), (8, LENGTH)]
    assert not any(projection.requires_grad for projection in projections)


def test_both_targets_are_moving_averages() -> None:
    method = unlike(new_method())
    before = copy.deepcopy(method)
    method.update_target(0.9)
    for name in ("target", "target_dense_projector"):
        online = {"target": method.online, "target_dense_projector": method.dense_projector}[name]
        triples = zip(getattr(method, name).parameters(), getattr(before, name).parameters(), online.parameters())
        for weight, old, new in triples:
            torch.testing.assert_close(weight, 0.9 * old + 0.1 * new)


def test_in_evaluation_mode_both_queues_stay_unchanged() -> None:
    method = new_method().eval()
    before = method.negatives.queue.clone(), method.dense_negatives.queue.clone()
    method(batch_of(0))
    assert torch.equal(method.negatives.queue, before[0])
    assert torch.equal(method.dense_negatives.queue, before[1])


def test_both_queues_are_part_of_the_state() -> None:
    one, other = new_method(), new_method()
    one(batch_of(0))
    other.load_state_dict(one.state_dict())
    found = []
    for method in (one, other):
        torch.manual_seed(3)
        found.append(method(batch_of(1))[0])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    assert torch.equal(one.dense_negatives.queue, other.dense_negatives.queue)
    assert other.dense_negatives.queue_position.item() == 16


def test_a_batch_under_autocast_has_losses_in_single_precision() -> None:
    method = new_method().float()
    views = {name: value.float() for name, value in batch_of(0).items()}
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = method(views)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert method.dense_negatives.queue.dtype == torch.float32
    torch.stack(list(losses.values())).sum().backward()


@pytest.mark.parametrize("weight", [-0.1, 1.5])
def test_a_dense_weight_outside_zero_to_one_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=rf"dense_weight must be in \[0, 1\], got {weight}"):
        new_method(dense_weight=weight)


def test_a_batch_that_fits_neither_groups_nor_queue_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 6 images cannot be split into 4 equal groups"):
        new_method(num_groups=4)(batch_of(0, count=6))
    with pytest.raises(ValueError, match="a queue of 20 keys is not a multiple of a batch of 8 images"):
        new_method(queue_size=20)(batch_of(0))


def steps(method: DenseCL, model: nn.Module, rank: int, count: int) -> list[dict[str, Any]]:
    """Four steps of a method as process `rank` of `count`; the queues wrap in the last."""
    optimiser = torch.optim.SGD([weight for weight in method.parameters() if weight.requires_grad], lr=0.1)
    found = []
    for step in range(4):
        torch.manual_seed(10 * step + rank)
        terms, _ = model({name: value[rank::count] for name, value in batch_of(step).items()})
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
        method.update_target(0.9)
        gradients = [weight.grad.clone() for weight in method.parameters() if weight.grad is not None]
        weights = [weight.detach().clone() for weight in method.parameters()]
        queues = [
            value.clone()
            for queue in (method.negatives, method.dense_negatives)
            for value in (queue.queue, queue.queue_position)
        ]
        losses = torch.stack([terms["loss_global"], terms["loss_dense"]]).detach()
        found.append({"losses": losses, "exact": [*gradients, *weights, *queues]})
    return found


def one_of_two(rank: int, port: int, folder: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    method = unlike(new_method(num_groups=4))
    torch.save(steps(method, DistributedDataParallel(method), rank, 2), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_losses_gradients_and_queues_of_one(tmp_path: Path) -> None:
    multiprocessing.spawn(one_of_two, (free_port(), tmp_path), nprocs=2)
    method = unlike(new_method(num_groups=4))
    alone = steps(method, method, 0, 1)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for first, second, expected in zip(*parts, alone, strict=True):
        torch.testing.assert_close((first["losses"] + second["losses"]) / 2, expected["losses"])
        torch.testing.assert_close(first["exact"], expected["exact"])
        torch.testing.assert_close(second["exact"], expected["exact"])
