"""Batch normalisation over two processes is that of one process on the complete batch, in values and gradients."""

import copy
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from tests.ports import free_port
from torch import nn

from orl.networks import sync_bn as synchronised
from orl.networks.sync_bn import ProcessBatchNorm, sync_batch_norm

CPU = torch.device("cpu")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(45, 6))
    return nn.Sequential(layers, nn.BatchNorm1d(6)).double()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    # A mean far from 0: the variance must not be found as a difference of two large numbers.
    inputs = 100 + torch.randn(8, 3, 5, 5, generator=generator, dtype=torch.float64)
    return inputs, torch.randn(8, 6, generator=generator, dtype=torch.float64)


def learnt(net: nn.Sequential, inputs: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    inputs = inputs.clone().requires_grad_()
    output = net(inputs)
    (output * weights).square().sum().backward()
    gradients = {f"gradient of {name}": weight.grad for name, weight in net.named_parameters()}
    return {"output": output.detach(), "inputs": inputs.grad, **gradients, **dict(net.named_buffers())}


def one_of_two(rank: int, port: int, folder: Path, uneven: bool) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    cut = 3 if uneven else 4
    own = slice(0, cut) if rank == 0 else slice(cut, 8)
    found = learnt(sync_batch_norm(network(), CPU).train(), *(part[own] for part in batch()))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("uneven", [False, True])
def test_two_processes_normalise_as_one(tmp_path: Path, uneven: bool) -> None:
    multiprocessing.spawn(one_of_two, (free_port(), tmp_path, uneven), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    alone = learnt(network().train(), *batch())
    torch.testing.assert_close(torch.cat([part["output"] for part in parts]), alone["output"])
    torch.testing.assert_close(torch.cat([part["inputs"] for part in parts]), alone["inputs"])
    for name in alone:
        if name.startswith("gradient"):
            torch.testing.assert_close(parts[0][name] + parts[1][name], alone[name], msg=name)
        elif "." in name:
            assert torch.equal(parts[0][name], parts[1][name])
            torch.testing.assert_close(parts[0][name], alone[name], msg=name)


def test_evaluation_uses_the_running_statistics_and_needs_no_other_process() -> None:
    plain, inputs = network().train(), batch()[0]
    plain(inputs)
    expected = plain.eval()(inputs)
    assert torch.equal(sync_batch_norm(plain, CPU).eval()(inputs), expected)


def test_weights_keep_their_names_and_stay_the_same_objects() -> None:
    plain = network()
    before, names = dict(plain.named_parameters()), list(plain.state_dict())
    changed = sync_batch_norm(plain, CPU)
    assert list(changed.state_dict()) == names
    assert all(weight is before[name] for name, weight in changed.named_parameters())
    assert sum(isinstance(part, ProcessBatchNorm) for part in changed.modules()) == 2


def test_a_gpu_uses_torchs_sync_batch_norm() -> None:
    changed = sync_batch_norm(network(), torch.device("cuda"))
    assert sum(isinstance(part, nn.SyncBatchNorm) for part in changed.modules()) == 2


def test_a_layer_without_running_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match=r"BatchNorm1d\(6.*cannot be synchronised"):
        sync_batch_norm(nn.Sequential(nn.BatchNorm1d(6, track_running_stats=False)), CPU)


def test_a_layer_without_scale_and_shift_is_that_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synchronised, "sum_over_processes", lambda values: values)
    plain, inputs = nn.Sequential(nn.BatchNorm2d(6, affine=False)).train(), torch.randn(4, 6, 5, 5)
    changed = sync_batch_norm(copy.deepcopy(plain), CPU)
    assert isinstance(changed[0], ProcessBatchNorm)
    assert list(changed.parameters()) == []
    for is_training in (True, False):
        torch.testing.assert_close(*(each.train(is_training)(inputs) for each in (changed, plain)))
    torch.testing.assert_close(changed.state_dict(), plain.state_dict())


def test_a_normalisation_of_timm_keeps_its_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synchronised, "sum_over_processes", lambda values: values)
    layers = pytest.importorskip("timm.layers")
    plain, inputs = nn.Sequential(layers.BatchNormAct2d(6, act_layer=nn.ReLU)).train(), torch.randn(4, 6, 5, 5)
    changed = sync_batch_norm(copy.deepcopy(plain), CPU)
    assert list(changed.state_dict()) == list(plain.state_dict())
    for is_training in (True, False):
        expected, found = (each.train(is_training)(inputs) for each in (plain, changed))
        assert expected.min() == 0, "cut by the activation"
        torch.testing.assert_close(found, expected)
    on_gpu = sync_batch_norm(copy.deepcopy(plain), torch.device("cuda"))
    assert isinstance(on_gpu[0].act, nn.ReLU)


def test_a_normalisation_with_unknown_parts_is_refused() -> None:
    strange = nn.BatchNorm2d(6)
    strange.other = nn.ReLU()
    with pytest.raises(ValueError, match="its part 'other' is unknown"):
        sync_batch_norm(nn.Sequential(strange), CPU)
