"""Collapse metrics: the std of the features, the distance between two views of an image, and warnings at collapse.

Source:
    SimSiam (arXiv 2011.10566), Section 4.1, for the feature std; Wang and Isola (arXiv 2005.10242) for alignment and
    uniformity.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from orl.networks.unit_length import unit_length

MEAN_MOMENTUM = 0.95
"""Momentum of the running mean of a metric."""


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


@dataclass(frozen=True, kw_only=True)
class CollapseLimit:
    """Values of a collapse metric that count as collapsed."""

    metric: str
    """Key in metrics.jsonl."""
    name: str
    """Name in messages."""
    collapsed: float
    """Running mean below which features count as collapsed."""
    recovered: float
    """Running mean above which features count as recovered."""
    healthy: str
    """Usual values, for the message."""


COLLAPSE_LIMITS = (
    CollapseLimit(metric="feature_std", name="std", collapsed=0.05, recovered=0.1, healthy="0.5 to 1"),
    CollapseLimit(
        metric="effective_rank", name="effective rank", collapsed=2.0, recovered=3.0, healthy="5 or more of a batch"
    ),
)
"""Limits that training watches: all features equal, or all on one line."""


class CollapseWatch:
    """A running mean of a collapse metric that warns once of a collapse, and again only after a recovery."""

    def __init__(self, num_warmup_steps: int, limit: CollapseLimit = COLLAPSE_LIMITS[0]) -> None:
        """Start without a running mean.

        Args:
            num_warmup_steps: steps without a warning, since random weights give similar features.
            limit: the metric and its limits.
        """
        self.num_warmup_steps, self.limit = num_warmup_steps, limit
        self.mean: float | None = None
        self.is_collapsed = False

    def update(self, step: int, value: float) -> str | None:
        """Add the value of a step; return a warning if the features have just collapsed."""
        mean = value
        if self.mean is not None:
            mean = MEAN_MOMENTUM * self.mean + (1 - MEAN_MOMENTUM) * value
        self.mean = mean
        if mean > self.limit.recovered:
            self.is_collapsed = False
        if self.is_collapsed or step <= self.num_warmup_steps or mean > self.limit.collapsed:
            return None
        self.is_collapsed = True
        return (
            f"the features collapse: at step {step} their {self.limit.name} is {mean:.3f} (healthy: "
            f"{self.limit.healthy}). Try a smaller learning rate (base-lr), a larger batch (batch-size), a longer "
            "warm-up (warmup-epochs) or a slower target network (ema-momentum nearer to 1)"
        )
