"""Faster inference: the normalisation of a trained network, folded into its convolutions."""

import copy
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def fuse_batch_norm(network: Network) -> Network:
    """A copy for inference with every 2-D batch normalisation multiplied into the convolution before it.

    Gives what the network gives in evaluation mode, up to float rounding. It is a copy to compute with: it has
    other weights and other weight names than the network, so neither train nor save it.

    Args:
        network: left as it is. 'Before' goes by the order in which a module lists its parts; this is the order
            of computing in torchvision's ResNets.

    Returns:
        The copy, in evaluation mode.

    Raises:
        ValueError: if a normalisation does not follow a convolution with as many channels.
    """
    folded = copy.deepcopy(network).eval()
    for name, module in list(folded.named_modules()):
        _fold_parts(module, name)
    return folded


def _fold_parts(module: nn.Module, name: str) -> None:
    parts = [("", None), *module.named_children()]
    for (before_key, before), (key, part) in pairwise(parts):
        if not isinstance(part, nn.BatchNorm2d):
            continue
        if not isinstance(before, nn.Conv2d) or before.out_channels != part.num_features:
            place = f"{name}.{key}".lstrip(".")
            raise ValueError(f"cannot fold {place} ({part}): it follows {before}; use the network as it is")
        setattr(module, before_key, fuse_conv_bn_eval(before, part))
        setattr(module, key, nn.Identity())
