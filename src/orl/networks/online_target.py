"""The trained network and its moving average."""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orl.networks.backbones import pool


class Encoder(nn.Module):
    """Backbone, average pooling and projector: views to projections."""

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        # Of ours or, where stage 2 looks with it, from outside.
        self.backbone: Any = backbone
        self.projector = projector

    def forward(self, views: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        return self.projector(pool(self.backbone(views)))


def make_target(online: Encoder) -> Encoder:
    """A copy of the online network that no gradient reaches."""
    return copy.deepcopy(online).requires_grad_(False)


@torch.no_grad()
def update_target(target: nn.Module, online: nn.Module, ema_momentum: float) -> None:
    """Move every weight of the target a little towards the online network's.

    Buffers (the statistics of batch normalisation) are left alone: the target gathers its own, since it passes
    every view in training mode as the published code does.

    Args:
        target: changed in place.
        online: the network that was just stepped.
        ema_momentum: what the target keeps of itself, in [0, 1].

    Source:
        BYOL (arXiv 2006.07733), Eq. 1.
    """
    targets: list[Tensor] = list(target.parameters())
    onlines: list[Tensor] = list(online.parameters())
    torch._foreach_lerp_(targets, onlines, 1 - ema_momentum)
