import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from tests.ports import free_port
from torch import nn
from torch.testing import assert_close

from orl.evaluation.detection.precise_bn import update_batch_statistics
from orl.networks.sync_bn import sync_batch_norm


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)).double().train()


def batches(sizes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    # Far from 0, where the difference of two squares is hard.
    return [torch.randn(size, 3, 6, 7, generator=generator, dtype=torch.float64) * 3 + 50 * size for size in sizes]


def test_the_first_layer_gets_mean_and_variance_of_all_values_at_once() -> None:
    net, inputs = network(), batches((4, 1, 7))
    assert update_batch_statistics(net, net, inputs) == 3
    values = torch.cat(inputs).transpose(0, 1).flatten(1)
    assert_close(net[0].running_mean, values.mean(1))
    assert_close(net[0].running_var, values.var(1, correction=0))


def test_empty_batches_are_ignored_and_no_value_at_all_is_refused() -> None:
    net, (first, *others) = network(), batches((4, 1, 7))
    empty = first[:0]
    assert update_batch_statistics(net[:1], net[:1], [empty, first, empty, *others]) == 5
    values = torch.cat([first, *others]).transpose(0, 1).flatten(1)
    assert_close(net[0].running_mean, values.mean(1))
    assert_close(net[0].running_var, values.var(1, correction=0))
    with pytest.raises(ValueError, match="a batch normalisation got 0 values"):
        update_batch_statistics(net[:1], net[:1], [empty])


def test_a_deeper_layer_gets_the_statistics_of_its_own_inputs() -> None:
    net, inputs = network(), batches((4, 6))
    reference = copy.deepcopy(net)
    update_batch_statistics(net, net, inputs)
    seen = torch.cat([reference[1](reference[0](batch)) for batch in inputs]).transpose(0, 1).flatten(1)
    assert_close(net[2].running_mean, seen.mean(1))
    assert_close(net[2].running_var, seen.var(1, correction=0))


def test_weights_modes_and_layers_in_evaluation_mode_are_unchanged() -> None:
    net = network()
    net[2].eval()
    net[2].running_mean.fill_(0.25)
    before = copy.deepcopy(net.state_dict())
    update_batch_statistics(net, net, batches((4, 6)))
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0.running_mean", "0.running_var", "0.num_batches_tracked"}
    assert [part.training for part in net] == [True, True, False]
    assert all(weight.grad is None for weight in net.parameters())


def test_hooks_are_removed() -> None:
    net = network()
    with pytest.raises(RuntimeError, match="4"):
        update_batch_statistics(net, net, [torch.zeros(2, 4, 6, 7, dtype=torch.float64)])
    assert not any(part._forward_pre_hooks for part in net)


def test_no_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch, got 0"):
        update_batch_statistics(network(), network(), [])


def one_of_two(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    net = sync_batch_norm(network(), torch.device("cpu"))
    update_batch_statistics(net, net, [batch[rank::2] for batch in batches((4, 7))])
    torch.save(net.state_dict(), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_compute_the_statistics_of_one(tmp_path: Path) -> None:
    net = network()
    update_batch_statistics(net, net, batches((4, 7)))
    multiprocessing.spawn(one_of_two, (free_port(), tmp_path), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, value in net.state_dict().items():
            assert_close(found[name], value)
