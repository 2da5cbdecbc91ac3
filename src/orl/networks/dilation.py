"""Dilation: feature maps of ResNets at twice the resolution, for segmentation and localisation."""

import copy
from typing import TypeVar

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

Network = TypeVar("Network", bound=nn.Module)


def dilate_last_stage(network: Network) -> Network | None:
    """Return a copy of a ResNet whose last stage has a dilation of 2 in place of its stride; None for other networks.

    Weights stay the same, and the feature map has a stride of 16. The first 3x3 convolution of the stage keeps a
    dilation of 1, as in torchvision.

    Args:
        network: a network with ResNet's `layer4`, at any depth.

    Source:
        torchvision's `replace_stride_with_dilation=[False, False, True]`.
    """
    dilated = copy.deepcopy(network)
    stages = [module for name, module in dilated.named_modules() if name.rpartition(".")[2] == "layer4"]
    if len(stages) != 1 or not all(isinstance(block, BasicBlock | Bottleneck) for block in stages[0].children()):
        return None
    convolutions = [part for part in stages[0].modules() if isinstance(part, nn.Conv2d)]
    is_first = True
    for part in convolutions:
        part.stride = (1, 1)
        if part.kernel_size == (3, 3):
            dilation = 1 if is_first else 2
            part.dilation = part.padding = (dilation, dilation)
            is_first = False
    return dilated
