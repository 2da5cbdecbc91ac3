"""Collective operations on a batch that is split over processes: process r has the rows `r::world_size`."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor
from torch.autograd.function import once_differentiable


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """Return the rank of this process."""
    return dist.get_rank() if world_size() > 1 else 0


@torch.no_grad()
def all_gather(values: Tensor) -> Tensor:
    """Collect the rows of all processes, in the order of the batch, without gradient.

    Args:
        values: `(n, ...)`, with the same number of rows in every process.

    Returns:
        `(n * world_size, ...)`; with one process the values themselves, detached.
    """
    if world_size() == 1:
        return values.detach()
    parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, values.detach().contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)


def all_gather_with_gradient(values: Tensor) -> Tensor:
    """Collect the rows as `all_gather` does; gradients flow back to the process that each row came from."""
    if world_size() == 1:
        return values
    padded = values.new_zeros(world_size(), *values.shape)
    padded[process_rank()] = values
    return sum_over_processes(padded).transpose(0, 1).flatten(0, 1)


def local_rows(values: Tensor) -> Tensor:
    """Return this process's rows of the result of `all_gather`."""
    return values[process_rank() :: world_size()]


def random_permutation(count: int, device: torch.device) -> Int[Tensor, "n"]:
    """Sample a permutation from torch's generator of the first process and send it to all processes."""
    order = torch.randperm(count).to(device)
    if world_size() > 1:
        dist.broadcast(order, src=0)
    return order


def sum_over_processes(values: Tensor) -> Tensor:
    """Sum a tensor over all processes; in the backward pass the gradients are summed as well."""
    return _SumOverProcesses.apply(values)


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
