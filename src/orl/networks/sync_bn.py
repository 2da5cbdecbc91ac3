"""Batch normalisation over the batch of all processes, on GPUs and, unlike torch's, on CPUs."""

import importlib

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from orl.networks.all_gather import sum_over_processes

TIMM_PARTS = ("drop", "act")
"""Parts of timm's normalisation layers, in the order in which they run after the normalisation."""


class ProcessBatchNorm(_BatchNorm):
    """Batch normalisation with the mean and variance of all processes together in training.

    The parts of a timm layer (`TIMM_PARTS`) follow the normalisation.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch normalisation needs an input (N, C, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise as `torch.nn.BatchNorm2d` does.

        Args:
            input: `(N, C)` or `(N, C, ...)`, the part of this process; N may differ between processes.
        """
        self._check_input_dim(input)
        output = self._normalise(input) if self.training else super().forward(input)
        for name in TIMM_PARTS:
            part = self._modules.get(name)
            output = output if part is None else part(output)
        return output

    def _normalise(self, input: Tensor) -> Tensor:
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        others = [dim for dim in range(values.dim()) if dim != 1]
        shape = [-1 if dim == 1 else 1 for dim in range(values.dim())]
        num_local = values.new_tensor([values.numel() / values.shape[1]])
        sums = sum_over_processes(torch.cat([values.sum(others), num_local]))
        mean, count = sums[:-1] / sums[-1], sums[-1].detach()
        centred = values - mean.view(shape)
        # A second pass, since the difference of two large sums would round small variances away.
        variance = sum_over_processes(centred.square().sum(others)) / count
        self._update_statistics(mean.detach(), variance.detach() * count / (count - 1))
        scale = torch.rsqrt(variance + self.eps)
        if not self.affine:
            return (centred * scale.view(shape)).to(input.dtype)
        return (centred * (self.weight * scale).view(shape) + self.bias.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _update_statistics(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)


def sync_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """Make every batch normalisation of a network use the batches of all processes.

    Args:
        network: its layers are replaced in place; weights stay the same objects under the same names.
        device: on a GPU torch's SyncBatchNorm is used.

    Returns:
        The network.

    Source:
        ORL (Xie et al., NeurIPS 2021): SyncBN in all training.
    """
    if device.type == "cuda":
        if any(type(part).__module__.startswith("timm.") for part in network.modules()):
            # timm's normalisation layers contain an activation, which only timm's own conversion keeps.
            return importlib.import_module("timm.layers").convert_sync_batchnorm(network)
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for name, part in network.named_children():
        if isinstance(part, _BatchNorm):
            setattr(network, name, _sync_layer(part))
        else:
            sync_batch_norm(part, device)
    return network


def _sync_layer(part: _BatchNorm) -> ProcessBatchNorm:
    if part.momentum is None or not part.track_running_stats:
        raise ValueError(f"{part} cannot be synchronised: it needs a momentum and running statistics")
    new = ProcessBatchNorm(part.num_features, part.eps, part.momentum, part.affine)
    new._parameters, new._buffers, new.training = part._parameters, part._buffers, part.training
    for name, after in part.named_children():
        if name not in TIMM_PARTS:
            raise ValueError(f"{part} cannot be synchronised: its part {name!r} is unknown")
        new.add_module(name, after)
    return new
