"""Is training healthy: how far features spread, how close the two views of an image are, and a warning at collapse.

Source:
    SimSiam (arXiv 2011.10566), Section 4.1, for the spread; Wang and Isola (arXiv 2005.10242) for alignment and
    uniformity.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

COLLAPSED_STD = 0.05
"""Features that spread less are all but equal; random ones spread by about 1."""
RECOVERED_STD = 0.1
KEPT_FRACTION = 0.95
"""What the running mean of the spread keeps of itself at a step."""


def feature_std(projections: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """How far the features spread: mean deviation per dimension of unit vectors, times the root of d.

    Returns:
        0 when all images have one feature (collapse), about 1 when they lie evenly on the sphere.
    """
    unit = _unit(projections)
    return unit.std(dim=0, correction=0).mean() * unit.shape[1] ** 0.5


def alignment(projections_1: Float[Tensor, "n d"], projections_2: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean squared distance between the two views of an image, as unit vectors.

    Returns:
        In [0, 4]: 0 when both views have one feature, about 2 when they have nothing in common.
    """
    return (_unit(projections_1) - _unit(projections_2)).square().sum(dim=1).mean()


def uniformity(projections: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Logarithm of the mean of exp(-2 distance^2) over all pairs of images, as unit vectors.

    Returns:
        In [-8, 0]: 0 when all images have one feature, about -4 when they lie evenly on the sphere.

    Raises:
        ValueError: if there are fewer than two images.
    """
    if len(projections) < 2:
        raise ValueError(f"uniformity needs two images or more, not {len(projections)}")
    return torch.pdist(_unit(projections)).square().mul(-2).exp().mean().log()


class CollapseWatch:
    """Warns once when the spread stays small, and again only after it has recovered."""

    def __init__(self, num_warmup_steps: int) -> None:
        """Start to watch.

        Args:
            num_warmup_steps: no warning before, since random weights make features much alike.
        """
        self.num_warmup_steps = num_warmup_steps
        self.mean_feature_std: float | None = None
        self.is_collapsed = False

    def look(self, step: int, spread: float) -> str | None:
        """Take the spread of a step; returns a warning if it is time for one."""
        mean = self.mean_feature_std
        self.mean_feature_std = mean = spread if mean is None else KEPT_FRACTION * mean + (1 - KEPT_FRACTION) * spread
        if mean > RECOVERED_STD:
            self.is_collapsed = False
        if self.is_collapsed or step <= self.num_warmup_steps or mean > COLLAPSED_STD:
            return None
        self.is_collapsed = True
        return (
            f"the features collapse: at step {step} their spread is {mean:.3f} (healthy: 0.5 to 1). Try a smaller "
            "learning rate (base-lr), a larger batch (batch-size), a longer warm-up (warmup-epochs) or a target that "
            "moves more slowly (ema-momentum nearer to 1)"
        )


def _unit(projections: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    return F.normalize(projections.to(torch.promote_types(projections.dtype, torch.float32)), dim=1)
