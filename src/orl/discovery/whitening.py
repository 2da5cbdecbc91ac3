"""Whitening of embeddings: centred, and scaled so that no few directions decide the similarities."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy import ndarray
from torch import Tensor

SHRINKAGE = 0.1
"""Weight of a multiple of the identity in the covariance, so that directions of little variance do not explode."""


@dataclass(frozen=True, kw_only=True)
class Whitening:
    """A linear map of embeddings."""

    mean: Float32[ndarray, "d"]
    matrix: Float32[ndarray, "d d"]
    """Symmetric inverse square root of the shrunk covariance."""

    def to(self, device: torch.device) -> "WhiteningOnDevice":
        """Return the map for tensors on a device."""
        return WhiteningOnDevice(torch.from_numpy(self.mean).to(device), torch.from_numpy(self.matrix).to(device))


class WhiteningOnDevice:
    """The map of embeddings on a device."""

    def __init__(self, mean: Float[Tensor, "d"], matrix: Float[Tensor, "d d"]) -> None:
        self.mean, self.matrix = mean, matrix

    def __call__(self, units: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Whiten unit vectors, and normalise the result to unit vectors."""
        return torch.nn.functional.normalize((units - self.mean) @ self.matrix, dim=1)


def fit_whitening(units: Float[ndarray, "n d"], shrinkage: float = SHRINKAGE) -> Whitening:
    """Fit the map to a sample of unit vectors.

    Args:
        units: unit vectors of a sample of RoIs.
        shrinkage: weight of the identity, times the mean variance, in the covariance; in (0, 1].

    Returns:
        The map of which the sample has mean 0 and, but for the shrinkage, unit covariance; zca, not pca, so that a
        shrinkage of 1 leaves centred vectors as they are, up to a factor.

    Raises:
        ValueError: if there are fewer than two vectors, or all are equal.
    """
    if len(units) < 2:
        raise ValueError(f"whitening needs at least 2 RoIs, got {len(units)}; give more images")
    values = units.astype(np.float64)
    mean = values.mean(axis=0)
    covariance = (values - mean).T @ (values - mean) / len(values)
    variance = float(np.trace(covariance)) / len(covariance)
    if variance <= 0:
        raise ValueError(
            f"the embeddings of all {len(units)} sampled RoIs are equal, so they cannot be whitened: the feature "
            "extractor has collapsed; train it again, or match by --discover.matching cosine"
        )
    shrunk = (1 - shrinkage) * covariance + shrinkage * variance * np.eye(len(covariance))
    values, vectors = np.linalg.eigh(shrunk)
    matrix = (vectors / np.sqrt(values)) @ vectors.T
    return Whitening(mean=mean.astype(np.float32), matrix=matrix.astype(np.float32))
