"""The five feature levels of a ResNet, conv1 to res5, pooled to about 9,000 numbers each, and their classifiers.

Source:
    Scaling and benchmarking self-supervised visual representation learning (arXiv 1905.01235), Section 6.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from orl.networks.backbones import Backbone

FEATURE_LEVELS = {"conv1": "relu", "res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}
"""Part of the network whose output each level is."""
NUM_POOLED = 9216
"""Approximate number of values that a level is pooled to."""
PUBLISHED_POOLS = {
    (112, 12): (10, 10, 4),
    (56, 6): (16, 8, 0),
    (28, 4): (13, 5, 0),
    (14, 3): (8, 3, 0),
    (7, 2): (6, 1, 0),
}
"""Published windows, strides and paddings of ResNet-50 at 224 px, by side of the map and pooled side."""


def feature_levels(backbone: Backbone, images: Float[Tensor, "n 3 h w"]) -> dict[str, Tensor]:
    """Return the feature map of each level, by name."""
    maps, names = {}, {part: level for level, part in FEATURE_LEVELS.items()}
    x = images
    for part, module in backbone.named_children():
        x = module(x)
        if part in names:
            maps[names[part]] = x
    return maps


def level_channels(backbone: Backbone, size_px: int) -> dict[str, tuple[int, int]]:
    """Return channels and side of the map of each level, for square images of this size."""
    parameter = next(backbone.parameters())
    was_training = backbone.training
    with torch.no_grad():
        maps = feature_levels(backbone.eval(), parameter.new_zeros(1, 3, size_px, size_px))
    backbone.train(was_training)
    return {name: (found.shape[1], found.shape[2]) for name, found in maps.items()}


def pooled_side(num_channels: int, map_side: int) -> int:
    """Return the side of the square pooled map with about 9,216 values, at most the side of the map."""
    return max(1, min(map_side, round((NUM_POOLED / num_channels) ** 0.5)))


def pool_level(feature_map: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c s s"]:
    """Pool by averages, with the published windows where they are known, otherwise with windows of similar size."""
    num_channels, side = feature_map.shape[1], feature_map.shape[2]
    pooled = pooled_side(num_channels, side)
    if (side, pooled) not in PUBLISHED_POOLS:
        return F.adaptive_avg_pool2d(feature_map, pooled)
    window, stride, padding = PUBLISHED_POOLS[side, pooled]
    return F.avg_pool2d(feature_map, window, stride, padding)


class LevelHead(nn.Module):
    """A head of pooling, batch normalisation and a linear layer, as OpenSelfSup's `MultiClsHead`."""

    def __init__(self, num_channels: int, map_side: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(num_channels)
        self.linear = nn.Linear(num_channels * pooled_side(num_channels, map_side) ** 2, num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, feature_map: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        return self.linear(self.norm(pool_level(feature_map)).flatten(1))
