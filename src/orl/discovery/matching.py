"""Matching of RoIs: the correspondences between an image and its neighbours, by cosine similarity."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

Matches = tuple[Int[Tensor, "p 2"], Float[Tensor, "p"]]
"""Pairs (row of the image's RoI, row of the neighbour's RoI), the most similar first, and their cosines."""


def match_rois(
    embeddings: Float[Tensor, "b d"], neighbour_embeddings: Float[Tensor, "c d"], fraction: float = 0.1
) -> Matches:
    """Find the correspondences of an image and one neighbour: the highest entries of the matrix of cosines.

    Args:
        embeddings: unit vectors of the image's RoIs.
        neighbour_embeddings: unit vectors of the neighbour's RoIs.
        fraction: number of correspondences over the number of the image's RoIs.

    Returns:
        max(1, floor(fraction * b)) pairs and their cosines. Of equal cosines the pair with the lower rows comes first.

    Raises:
        ValueError: if an image has no RoI.

    Source:
        ORL (NeurIPS 2021), Section 3.2, 10% of the image's boxes.
    """
    return match_neighbours(embeddings, neighbour_embeddings, [len(neighbour_embeddings)], fraction)[0]


def match_neighbours(
    embeddings: Float[Tensor, "b d"],
    neighbour_embeddings: Float[Tensor, "c d"],
    neighbour_counts: Sequence[int],
    fraction: float = 0.1,
) -> list[Matches]:
    """Match an image with each of its neighbours by one matrix product, which is twice as fast as `match_rois`.

    Args:
        embeddings: unit vectors of the image's RoIs.
        neighbour_embeddings: unit vectors of the RoIs of all neighbours, concatenated.
        neighbour_counts: number of RoIs of each neighbour.
        fraction: number of correspondences with one neighbour over the number of the image's RoIs.

    Returns:
        Pairs and cosines for each neighbour, as `match_rois` returns them.

    Raises:
        ValueError: if an image has no RoI, or the counts do not sum to the number of neighbour embeddings.
    """
    if len(embeddings) == 0 or 0 in neighbour_counts:
        others = ", ".join(map(str, neighbour_counts))
        raise ValueError(
            f"matching needs at least one RoI an image, got {len(embeddings)} and {others}; rebuild the RoIs"
        )
    if sum(neighbour_counts) != len(neighbour_embeddings):
        raise ValueError(
            f"neighbour_counts sum to {sum(neighbour_counts)}, but there are {len(neighbour_embeddings)} embeddings"
        )
    num_pairs = max(1, int(fraction * len(embeddings)))
    similarities = embeddings @ neighbour_embeddings.T
    return [_highest(part, num_pairs) for part in similarities.split(list(neighbour_counts), dim=1)]


def _highest(similarities: Float[Tensor, "b c"], num_pairs: int) -> Matches:
    """Return the highest entries; only candidates are sorted, because sorting takes most of the time."""
    entries = similarities.flatten()
    lowest = entries.topk(num_pairs).values[-1]
    candidates = (entries >= lowest).nonzero().flatten()
    values, order = entries[candidates].sort(descending=True, stable=True)
    chosen = candidates[order[:num_pairs]]
    num_columns = similarities.shape[1]
    return torch.stack([chosen // num_columns, chosen % num_columns], dim=1), values[:num_pairs]
