"""A small encoder and random views."""

import torch

from orl.networks.backbones import build_backbone
from orl.networks.mlp import byol_mlp
from orl.networks.online_target import Encoder


def small_encoder() -> Encoder:
    return Encoder(build_backbone("resnet10"), byol_mlp(512, 16, 8))


def views(*names: str, side: int = 32, count: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(count, 3, side, side, generator=generator) for name in names}
