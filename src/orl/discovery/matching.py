"""Which RoIs of an image look like which RoIs of its neighbours."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

Matches = tuple[Int[Tensor, "p 2"], Float[Tensor, "p"]]
"""Pairs of (RoI here, RoI there), the most similar first, and their cosines."""


def match_rois(
    embeddings: Float[Tensor, "b d"], neighbour_embeddings: Float[Tensor, "c d"], fraction: float = 0.1
) -> tuple[Int[Tensor, "p 2"], Float[Tensor, "p"]]:
    """The highest entries of the matrix of cosines: the correspondences of one pair of images.

    Args:
        embeddings: unit vectors of the image's RoIs.
        neighbour_embeddings: unit vectors of the neighbour's RoIs.
        share: correspondences over the image's number of RoIs.

    Returns:
        max(1, floor(share x b)) pairs (RoI here, RoI there), the most similar first, and their cosines; of equal
        cosines the pair of the lower rows comes first.

    Raises:
        ValueError: if an image has no RoI, which `filter_proposals` never leaves.

    Source:
        ORL (NeurIPS 2021), Section 3.2, 10% of the query's boxes.
    """
    return match_neighbours(embeddings, neighbour_embeddings, [len(neighbour_embeddings)], fraction)[0]


def match_neighbours(
    embeddings: Float[Tensor, "b d"],
    neighbour_embeddings: Float[Tensor, "c d"],
    neighbour_counts: Sequence[int],
    fraction: float = 0.1,
) -> list[Matches]:
    """`match_rois` of an image with each of its neighbours, by one product: twice as fast as one at a time.

    Args:
        embeddings: unit vectors of the image's RoIs.
        neighbour_embeddings: unit vectors of the RoIs of all neighbours, one after another.
        neighbour_counts: RoIs of each neighbour.
        share: correspondences of a pair of images over the image's number of RoIs.

    Returns:
        As `match_rois`, for each neighbour.

    Raises:
        ValueError: if an image has no RoI, or the counts are not those of the embeddings.
    """
    if len(embeddings) == 0 or 0 in neighbour_counts:
        others = ", ".join(map(str, neighbour_counts))
        raise ValueError(f"cannot match {len(embeddings)} RoIs with {others}; rebuild the RoIs")
    if sum(neighbour_counts) != len(neighbour_embeddings):
        raise ValueError(f"{len(neighbour_embeddings)} embeddings are not those of {sum(neighbour_counts)} RoIs")
    num_pairs = max(1, int(fraction * len(embeddings)))
    similarities = embeddings @ neighbour_embeddings.T
    return [_highest(part, num_pairs) for part in similarities.split(list(neighbour_counts), dim=1)]


def _highest(similarities: Float[Tensor, "b c"], num_pairs: int) -> Matches:
    """The highest entries; only those that reach the last of them are sorted, which is what takes time."""
    entries = similarities.flatten()
    lowest = entries.topk(num_pairs).values[-1]
    candidates = (entries >= lowest).nonzero().flatten()
    values, order = entries[candidates].sort(descending=True, stable=True)
    chosen = candidates[order[:num_pairs]]
    num_columns = similarities.shape[1]
    return torch.stack([chosen // num_columns, chosen % num_columns], dim=1), values[:num_pairs]
