"""Conversion of a user's features and labels to numpy arrays: from numpy, torch or lists, with checks."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy import ndarray
from torch import Tensor

Array = Shaped[ndarray, "..."] | Shaped[Tensor, "..."]
"""Input of the public functions: a numpy array or a torch tensor on any device."""


def unit_rows(features: Shaped[ndarray, "n d"], epsilon: float) -> Float[ndarray, "n d"]:
    """Divide each row by its L2 norm plus epsilon, in float64; a row of zeros stays a row of zeros.

    Raises:
        ValueError: if a feature is not finite.
    """
    num_bad = (~np.isfinite(features).all(axis=1)).sum()
    if num_bad:
        raise ValueError(f"features of {num_bad} of {len(features)} images are not finite; check the backbone")
    features = features.astype(np.float64)
    lengths = np.linalg.norm(features, axis=1, keepdims=True) + epsilon
    return np.divide(features, lengths, out=np.zeros_like(features), where=lengths > 0)


def feature_matrix(X: Array, name: str = "X") -> Shaped[ndarray, "n d"]:
    """Return features as a numpy array with one row per image.

    Raises:
        ValueError: if they are not two-dimensional, or there are none.
    """
    features = _numpy(X)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{name} must have the shape (images, features), got {features.shape}")
    return features


def label_columns(*labels: Array) -> tuple[tuple[Int[ndarray, "_ c"], ...], tuple[str, ...]]:
    """Return labels as one column per class: 1 positive, -1 negative, 0 ignored.

    All arrays are read in the same way, so give the labels of training and test together:

    - two dimensions (images, classes) of -1, 0 and 1; where no -1 occurs at all, 0 is negative;
    - one dimension of -1, 0 and 1: one class, read in the same way;
    - one dimension of class ids from 0 with more than the ids 0 and 1: one class per id, one against the rest.

    Returns:
        The columns of each array, and the name of each class.

    Raises:
        ValueError: if shapes or values fit none of the three.
    """
    arrays = [_integers(_numpy(each)) for each in labels]
    num_dims = {each.ndim for each in arrays}
    if num_dims not in ({1}, {2}) or len({each.shape[1:] for each in arrays}) > 1:
        shapes = ", ".join(str(each.shape) for each in arrays)
        raise ValueError(f"labels must have the shape (images,) or (images, classes), the same in all; got {shapes}")
    values = np.unique(np.concatenate([each.ravel() for each in arrays]))
    if num_dims == {1} and len(values) and values[0] >= 0 and values[-1] > 1:
        columns = [np.where(each[:, None] == values, 1, -1) for each in arrays]
        return tuple(columns), tuple(str(value) for value in values.tolist())
    if not np.isin(values, (-1, 0, 1)).all():
        raise ValueError(f"labels must be -1, 0 and 1, or class ids from 0 in one dimension; got {values[:5].tolist()}")
    if -1 not in values:
        arrays = [np.where(each == 1, 1, -1) for each in arrays]
    matrices = tuple(each.reshape(len(each), -1) for each in arrays)
    return matrices, tuple(map(str, range(matrices[0].shape[1])))


def check_same_length(X: Shaped[ndarray, "_ _"], y: Int[ndarray, "_ _"], name: str = "") -> None:
    """Check that there is one row of labels per row of features.

    Raises:
        ValueError: if there is not.
    """
    if len(X) != len(y):
        raise ValueError(f"X{name} has {len(X)} images and y{name} has {len(y)}; give one row of labels per image")


def _integers(labels: ndarray) -> Int[ndarray, "..."]:
    if not np.issubdtype(labels.dtype, np.number) and labels.dtype != bool:
        raise ValueError(f"labels must be numbers, got {labels.dtype}")
    integers = labels.astype(np.int64)
    if not np.array_equal(integers, labels):
        raise ValueError(f"labels must be integers, got {labels.dtype} values such as {labels.ravel()[:3].tolist()}")
    return integers


def _numpy(array: Any) -> ndarray:
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        # numpy has no bfloat16.
        return (array.float() if array.is_floating_point() and array.itemsize < 4 else array).numpy()
    return np.asarray(array)
