"""The batch of all processes: each has the rows `rank::count` of it."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor
from torch.autograd.function import once_differentiable


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


@torch.no_grad()
def all_gather(values: Tensor) -> Tensor:
    """The rows of all processes, in the order of the batch, without gradient.

    Args:
        values: `(n, ...)`, as many rows in every process.

    Returns:
        `(n * processes, ...)`; in one process the values themselves, detached.
    """
    if world_size() == 1:
        return values.detach()
    parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, values.detach().contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)


def all_gather_with_gradient(values: Tensor) -> Tensor:
    """As `all_gather`; a gradient of any process that reaches a row goes back to the process that the row came from."""
    if world_size() == 1:
        return values
    spread = values.new_zeros(world_size(), *values.shape)
    spread[process_rank()] = values
    return sum_over_processes(spread).transpose(0, 1).flatten(0, 1)


def local_rows(values: Tensor) -> Tensor:
    """The part of this process of what `all_gather` gave."""
    return values[process_rank() :: world_size()]


def random_permutation(count: int, device: torch.device) -> Int[Tensor, "n"]:
    """An order drawn from torch's generator of the first process, the same in all of them."""
    order = torch.randperm(count).to(device)
    if world_size() > 1:
        dist.broadcast(order, src=0)
    return order


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes; so is its gradient."""
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
