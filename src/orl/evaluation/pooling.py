"""Features for linear classifiers: averages of windows of a feature map (feat5), or of the complete map (pooled).

Source:
    Scaling and benchmarking self-supervised visual representation learning (arXiv 1905.01235), Section 6; windows as in
    `MultiPooling` of OpenSelfSup, which the published evaluation of ORL uses.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from orl.config import FeatureKind
from orl.networks.backbones import pool

logger = logging.getLogger(__name__)

NUM_POOLED = 9216
"""Approximate number of values that a feature map is pooled to."""
PUBLISHED_POOLS = {
    (112, 12): (10, 10, 4),
    (56, 6): (16, 8, 0),
    (28, 4): (13, 5, 0),
    (14, 3): (8, 3, 0),
    (7, 2): (6, 1, 0),
}
"""Published windows, strides and paddings of ResNet-50 at 224 px, by side of the map and pooled side."""


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


def pool_complete(feature_map: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c 1 1"]:
    """Pool the complete map by its average."""
    return pool(feature_map)[:, :, None, None]


POOLINGS: dict[FeatureKind, Callable[[Tensor], Tensor]] = {"feat5": pool_level, "pooled": pool_complete}
"""Function from the last feature map `(N, C, h, w)` to the features `(N, C, s, s)` of each kind."""


def pool_all_kinds(feature_map: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
    """Compute the features of all kinds, one after another in the order of `POOLINGS`."""
    return torch.cat([pooling(feature_map).flatten(1) for pooling in POOLINGS.values()], dim=1)


def feature_kind(result: Mapping[str, Any]) -> FeatureKind:
    """Return the kind of the features of a result; results of version 0.1 do not name it and are of pooled ones."""
    return result.get("features", "pooled")


def file_stem(name: str, features: FeatureKind) -> str:
    """Return the first part of the file name of a result: the name of the evaluation, and the features if not feat5."""
    return name if features == "feat5" else f"{name}-{features}"


def feature_deviations(features: FeatureKind) -> list[str]:
    """Return the deviation of the features from the published ones."""
    return [] if features == "feat5" else [f"{features} features, not feat5"]


def warn_if_one_position(features: str, side: int, size_px: int) -> None:
    """Log a warning if feat5 has one position, because the images are small.

    Args:
        features: kind of the features.
        side: side s of the features `(N, C, s, s)`.
        size_px: side of the images.
    """
    if features == "feat5" and side == 1:
        logger.warning(
            "the feature map of images of %d px has one position, so feat5 equals the pooled features; a larger "
            "--size-px gives more positions",
            size_px,
        )
