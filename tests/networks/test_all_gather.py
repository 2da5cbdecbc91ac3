"""Rows gathered from two processes lie in the order of the batch, and gradients find their way back."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from tests.ports import free_port

from orl.networks.all_gather import all_gather, all_gather_with_gradient, local_rows, process_rank, random_permutation

BATCH = torch.arange(12, dtype=torch.float64).reshape(6, 2)
WEIGHTS = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(6, 2)


def one_of_two(rank: int, port: int, folder: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(rank)
    own = local_rows(BATCH).clone().requires_grad_()
    together = all_gather_with_gradient(own)
    # Each process has a loss of its own, and both reach the rows of both.
    ((1 + process_rank()) * together * WEIGHTS).square().sum().backward()
    found = {"gathered": all_gather(own), "together": together.detach(), "gradient": own.grad}
    torch.save(found | {"order": random_permutation(20, torch.device("cpu"))}, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_gather_their_batch_in_order(tmp_path: Path) -> None:
    multiprocessing.spawn(one_of_two, (free_port(), tmp_path), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for rank, part in enumerate(parts):
        assert torch.equal(part["gathered"], BATCH)
        assert torch.equal(part["together"], BATCH)
        # d/dx of (1 + 4) (x w)^2
        torch.testing.assert_close(part["gradient"], (10 * BATCH * WEIGHTS**2)[rank::2])
    assert torch.equal(parts[0]["order"], parts[1]["order"])
    assert torch.equal(parts[0]["order"].sort().values, torch.arange(20))


def test_one_process_has_the_complete_batch() -> None:
    values = BATCH.clone().requires_grad_()
    assert torch.equal(local_rows(BATCH), BATCH)
    assert not all_gather(values).requires_grad
    assert all_gather_with_gradient(values) is values
