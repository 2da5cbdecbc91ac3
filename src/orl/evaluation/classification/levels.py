"""The five feature levels of a ResNet, conv1 to res5.

Source:
    Scaling and benchmarking self-supervised visual representation learning (arXiv 1905.01235), Section 6.
"""

from jaxtyping import Float
from torch import Tensor

from orl.networks.backbones import Backbone

FEATURE_LEVELS = {"conv1": "relu", "res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}
"""Part of the network whose output each level is."""


def feature_levels(backbone: Backbone, images: Float[Tensor, "n 3 h w"]) -> dict[str, Tensor]:
    """Return the feature map of each level, by name."""
    maps, names = {}, {part: level for level, part in FEATURE_LEVELS.items()}
    x = images
    for part, module in backbone.named_children():
        x = module(x)
        if part in names:
            maps[names[part]] = x
    return maps
