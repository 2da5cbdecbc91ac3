"""Fuse batch normalisation into the convolutions of a trained network, for faster inference."""

import copy
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def fuse_batch_norm(network: Network) -> Network:
    """Return a copy for inference, with every 2-D batch normalisation fused into the convolution before it.

    Its outputs equal those of the network in evaluation mode, up to float rounding. Neither train nor save the copy:
    its weights and their names differ from those of the network.

    Args:
        network: stays unchanged. A module must list its parts in the order of computing, as torchvision's ResNets do.

    Returns:
        The copy, in evaluation mode.

    Raises:
        ValueError: if a normalisation does not follow a convolution with the same number of channels.
    """
    fused = copy.deepcopy(network).eval()
    for name, module in list(fused.named_modules()):
        _fuse_parts(module, name)
    return fused


def _fuse_parts(module: nn.Module, name: str) -> None:
    parts = [("", None), *module.named_children()]
    for (before_key, before), (key, part) in pairwise(parts):
        if not isinstance(part, nn.BatchNorm2d):
            continue
        if not isinstance(before, nn.Conv2d) or before.out_channels != part.num_features:
            path = f"{name}.{key}".lstrip(".")
            raise ValueError(
                f"cannot fuse {path} ({part}): it follows {before}; use the network without fuse_batch_norm"
            )
        setattr(module, before_key, fuse_conv_bn_eval(before, part))
        setattr(module, key, nn.Identity())
