"""Collapse metrics: the std of the features, the distance between two views of an image, and a warning at collapse.

Source:
    SimSiam (arXiv 2011.10566), Section 4.1, for the feature std; Wang and Isola (arXiv 2005.10242) for alignment and
    uniformity.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from orl.networks.unit_length import unit_length

COLLAPSED_STD = 0.05
"""Feature std below which features count as collapsed; random features have about 1."""
RECOVERED_STD = 0.1
"""Feature std above which features count as recovered."""
MEAN_MOMENTUM = 0.95
"""Momentum of the running mean of the feature std."""


def feature_std(projections: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Compute the mean std per dimension of unit vectors, times the square root of the number of dimensions.

    Returns:
        0 when all images have one feature (collapse), about 1 when features are uniform on the sphere.
    """
    unit = unit_length(projections)
    return unit.std(dim=0, correction=0).mean() * unit.shape[1] ** 0.5


def alignment(projections_1: Float[Tensor, "n d"], projections_2: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Compute the mean squared distance between the two views of an image, as unit vectors.

    Returns:
        In [0, 4]: 0 when both views have one feature, about 2 when they are unrelated.
    """
    return (unit_length(projections_1) - unit_length(projections_2)).square().sum(dim=1).mean()


def uniformity(projections: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Compute the logarithm of the mean of exp(-2 distance^2) over all pairs of images, as unit vectors.

    Returns:
        In [-8, 0]: 0 when all images have one feature, about -4 when features are uniform on the sphere.

    Raises:
        ValueError: if there are fewer than two images.
    """
    if len(projections) < 2:
        raise ValueError(f"uniformity needs at least two images, got {len(projections)}")
    return torch.pdist(unit_length(projections)).square().mul(-2).exp().mean().log()


class CollapseWatch:
    """A running mean of the feature std that warns once of a collapse, and again only after a recovery."""

    def __init__(self, num_warmup_steps: int) -> None:
        """Start without a running mean.

        Args:
            num_warmup_steps: steps without a warning, since random weights give similar features.
        """
        self.num_warmup_steps = num_warmup_steps
        self.mean_feature_std: float | None = None
        self.is_collapsed = False

    def update(self, step: int, feature_std: float) -> str | None:
        """Add the feature std of a step; return a warning if the features have just collapsed."""
        mean = feature_std
        if self.mean_feature_std is not None:
            mean = MEAN_MOMENTUM * self.mean_feature_std + (1 - MEAN_MOMENTUM) * feature_std
        self.mean_feature_std = mean
        if mean > RECOVERED_STD:
            self.is_collapsed = False
        if self.is_collapsed or step <= self.num_warmup_steps or mean > COLLAPSED_STD:
            return None
        self.is_collapsed = True
        return (
            f"the features collapse: at step {step} their std is {mean:.3f} (healthy: 0.5 to 1). Try a smaller "
            "learning rate (base-lr), a larger batch (batch-size), a longer warm-up (warmup-epochs) or a slower target "
            "network (ema-momentum nearer to 1)"
        )
