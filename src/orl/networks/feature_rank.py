"""Effective rank: how many dimensions features use."""

import torch
from jaxtyping import Float
from torch import Tensor


def effective_rank(features: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Compute the exponential of the entropy of the singular values, normalised to a sum of 1 (RankMe).

    Args:
        features: one row per image or RoI; they are not centred, as published.

    Returns:
        From 1, all rows are multiples of one vector, to min(n, d), all directions are used alike; NaN if a feature is
        not finite.

    Raises:
        ValueError: if there are no features.

    Source:
        RankMe (arXiv 2210.02885), Eq. 1.

    Example:
        >>> float(effective_rank(torch.eye(4)))
        4.0
    """
    if features.numel() == 0:
        raise ValueError(f"the effective rank needs features, got the shape {tuple(features.shape)}")
    rows = features.double()
    # The smaller Gram matrix: its eigenvalues are the squared singular values, at a fraction of the time.
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    if not torch.isfinite(gram).all():
        return features.new_tensor(torch.nan)
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    fractions = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    # 0 log 0 = 0; the published epsilon of 1e-7 beside each fraction changes nothing that is shown.
    return torch.exp(torch.special.entr(fractions).sum()).to(features.dtype)
