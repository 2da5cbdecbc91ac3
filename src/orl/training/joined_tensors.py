"""A batch with all its tensors joined to one, which takes one open file between processes instead of sixty."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

ALIGNMENT = 16
"""Bytes; a tensor of any dtype may begin at a multiple of it."""


class JoinedTensors(NamedTuple):
    """A nested batch and the bytes of all its tensors."""

    data: UInt8[Tensor, "n"]
    structure: Any
    """The batch with a slot in place of each tensor."""


class _Slot(NamedTuple):
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]


def join_tensors(batch: Any) -> JoinedTensors:
    """Copy all tensors of a batch into one; its dicts, lists and named tuples may be nested."""
    parts: list[tuple[int, Tensor]] = []
    length = 0

    def take(tensor: Tensor) -> _Slot:
        nonlocal length
        slot = _Slot(length, tensor.dtype, tuple(tensor.shape))
        parts.append((length, tensor))
        length += math.ceil(tensor.nbytes / ALIGNMENT) * ALIGNMENT
        return slot

    structure = _replace(batch, Tensor, take)
    data = torch.empty(length, dtype=torch.uint8)
    for start, tensor in parts:
        data[start : start + tensor.nbytes].view(tensor.dtype).copy_(tensor.reshape(-1))
    return JoinedTensors(data, structure)


def split_tensors(joined: JoinedTensors) -> Any:
    """Return the batch that was joined; its tensors are views of the joined one."""

    def restore(slot: _Slot) -> Tensor:
        num_bytes = slot.dtype.itemsize * math.prod(slot.shape)
        return joined.data[slot.start : slot.start + num_bytes].view(slot.dtype).view(slot.shape)

    return _replace(joined.structure, _Slot, restore)


def _replace(batch: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Apply a change to each object of a type in a nested batch."""
    if isinstance(batch, kind):
        return change(batch)
    if isinstance(batch, dict):
        return {key: _replace(part, kind, change) for key, part in batch.items()}
    if isinstance(batch, list | tuple):
        parts = [_replace(part, kind, change) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
