"""Reduction of embeddings to fewer numbers, so that the table of a large set stays small."""

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray


def fit_reduction(units: Float[ndarray, "n d"], num_dims: int) -> Float32[ndarray, "d k"]:
    """Fit the projection that keeps most of the inner products of a sample: PCA without centring.

    Args:
        units: unit vectors of a sample of RoIs.
        num_dims: dimensions to keep.

    Returns:
        Orthonormal columns; multiply a row of numbers by it.

    Raises:
        ValueError: if the embeddings do not have more dimensions.
    """
    if num_dims >= units.shape[1]:
        raise ValueError(
            f"embeddings have {units.shape[1]} numbers, which {num_dims} do not reduce; give fewer by "
            "--discover.roi-dims, or leave it out"
        )
    values = units.astype(np.float64)
    _, vectors = np.linalg.eigh(values.T @ values)
    return np.ascontiguousarray(vectors[:, ::-1][:, :num_dims]).astype(np.float32)
