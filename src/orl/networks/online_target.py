"""The online network (backbone, pooling, projector) and its moving average, the target network."""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orl.networks.backbones import pool


class Encoder(nn.Module):
    """Backbone, average pooling and projector: from views to projections."""

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        # A `Backbone`, or a network from another library when stage 2 embeds with it.
        self.backbone: Any = backbone
        self.projector = projector

    def forward(self, views: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        return self.projector(pool(self.backbone(views)))


def make_target(online: Encoder) -> Encoder:
    """Return a copy of the online network without gradients."""
    return copy.deepcopy(online).requires_grad_(False)


@torch.no_grad()
def update_target(target: nn.Module, online: nn.Module, ema_momentum: float) -> None:
    """Update the moving average: target = ema_momentum * target + (1 - ema_momentum) * online.

    Buffers, the statistics of batch normalisation, stay unchanged: as in the published code the target runs in
    training mode and has its own.

    Args:
        target: changed in place.
        online: the network after a step of the optimiser.
        ema_momentum: in [0, 1].

    Source:
        BYOL (arXiv 2006.07733), Eq. 1.
    """
    targets: list[Tensor] = list(target.parameters())
    onlines: list[Tensor] = list(online.parameters())
    torch._foreach_lerp_(targets, onlines, 1 - ema_momentum)
