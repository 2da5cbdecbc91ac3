"""Precise batch statistics: recomputed from many batches with the final weights.

The moving averages of training lag behind the weights and depend on the last few batches.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from orl.networks.all_gather import sum_over_processes, world_size


class _ChannelSums:
    """Number, sum and sum of squares of the input values of one layer, for each channel."""

    def __init__(self, layer: _BatchNorm) -> None:
        # In float64, because the square of the mean is subtracted at the end.
        self.sums = torch.zeros(3, layer.num_features, dtype=torch.float64, device=layer.weight.device)

    def add(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Add a batch; a forward pre-hook of the layer."""
        values = inputs[0].detach()
        if not values.numel():
            return
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        others = [dim for dim in range(values.dim()) if dim != 1]
        variance, mean = torch.var_mean(values, others, correction=0)
        variance, mean, count = variance.double(), mean.double(), values.numel() // values.shape[1]
        self.sums += count * torch.stack([torch.ones_like(mean), mean, variance + mean.square()])

    def write(self, layer: _BatchNorm) -> None:
        """Set mean and variance of the layer to those over the batches of all processes."""
        count, values, squares = sum_over_processes(self.sums) if world_size() > 1 else self.sums
        assert layer.running_mean is not None
        assert layer.running_var is not None
        if not count.all():
            raise ValueError("a batch normalisation got 0 values; give more --precise-bn-iterations, or 0")
        mean = values / count
        layer.running_mean.copy_(mean)
        layer.running_var.copy_((squares / count - mean.square()).clamp_min(0))


@torch.no_grad()
def update_batch_statistics(network: nn.Module, forward: Callable[[Any], Any], batches: Iterable[Any]) -> int:
    """Replace running means and variances by those over all values of some batches.

    Args:
        network: its batch normalisations in training mode get new statistics; no weight changes.
        forward: function that passes a batch through the network.
        batches: the batches of this process; all processes have the same number.

    Returns:
        The number of batches.

    Raises:
        ValueError: if there is no batch, or a layer got no value.

    Source:
        fvcore's `update_bn_stats`, which Detectron2's TEST.PRECISE_BN calls: population variance, and batches weighted
        by their size.
    """
    layers = [part for part in network.modules() if isinstance(part, _BatchNorm) and part.training]
    sums, num_batches = [_ChannelSums(layer) for layer in layers], 0
    with ExitStack() as hooks:
        for layer, own in zip(layers, sums):
            hooks.callback(layer.register_forward_pre_hook(own.add).remove)
        for batch in batches:
            forward(batch)
            num_batches += 1
    if not num_batches:
        raise ValueError("batch statistics need at least one batch, got 0; give --precise-bn-iterations")
    for layer, own in zip(layers, sums):
        own.write(layer)
    return num_batches
