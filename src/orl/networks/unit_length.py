"""Vectors of length 1, in float32 or better."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def unit_length(vectors: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """Divide vectors by their lengths.

    Half precision is raised to float32 first: on a CPU autocast would keep two decimals of a cosine.

    Args:
        vectors: along the last dimension, of any length; a vector of zeros stays zero.
    """
    return F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)
