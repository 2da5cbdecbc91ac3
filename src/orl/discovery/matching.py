"""Matching of RoIs: the correspondences between an image and its neighbours, by cosine or corrected for hubs.

A hub is an RoI that is similar to most others, such as a plain surface. The correction subtracts from each similarity
how similar the two RoIs are to their nearest RoIs elsewhere.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Matches = tuple[Int[Tensor, "p 2"], Float[Tensor, "p"]]
"""Pairs (row of the image's RoI, row of the neighbour's RoI), the highest score first, and their scores."""


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
    return select_pairs(embeddings @ neighbour_embeddings.T, neighbour_counts, fraction)


def corrected_similarities(
    similarities: Float[Tensor, "b c"], hubness: Float[Tensor, "b"], neighbour_hubness: Float[Tensor, "c"]
) -> Float[Tensor, "b c"]:
    """Subtract the mean hubness of the two RoIs from each similarity.

    Args:
        similarities: cosines of an image's RoIs with those of its neighbours.
        hubness: `hubness` of the image's RoIs.
        neighbour_hubness: `hubness` of the neighbours' RoIs.

    Returns:
        Half of the cross-domain similarity local scaling (CSLS), which has the same order and keeps the scale of
        cosines.

    Source:
        Conneau et al., Word translation without parallel data (ICLR 2018), Eq. 3.
    """
    return similarities - (hubness[:, None] + neighbour_hubness[None]) / 2


def hubness(
    units: Float[Tensor, "n d"],
    image_ids: Int[Tensor, "n"],
    bank: Float[Tensor, "m d"],
    bank_image_ids: Int[Tensor, "m"],
    num_nearest: int,
) -> Float[Tensor, "n"]:
    """Compute the mean similarity of each RoI to its nearest RoIs of other images in a bank.

    Args:
        units: unit vectors of RoIs.
        image_ids: image of each RoI.
        bank: unit vectors of a sample of the RoIs of all images.
        bank_image_ids: image of each RoI of the bank.
        num_nearest: number of nearest RoIs.

    Raises:
        ValueError: if the bank has fewer RoIs of other images.
    """
    found = []
    for part, own in zip(units.split(HUBNESS_ROWS), image_ids.split(HUBNESS_ROWS)):
        similarities = part @ bank.T
        similarities.masked_fill_(own[:, None] == bank_image_ids[None], -torch.inf)
        if similarities.shape[1] < num_nearest:
            raise _too_small_bank(similarities.shape[1], num_nearest)
        nearest = similarities.topk(num_nearest, dim=1).values
        if torch.isinf(nearest[:, -1]).any():
            fewest = int(torch.isfinite(similarities).sum(dim=1).min())
            raise _too_small_bank(fewest, num_nearest)
        found.append(nearest.mean(dim=1))
    return torch.cat(found) if found else units.new_zeros(0)


HUBNESS_ROWS = 2048
"""RoIs that are compared with the bank at a time."""


def _too_small_bank(num_others: int, num_nearest: int) -> ValueError:
    return ValueError(
        f"an RoI has {num_others} RoIs of other images to compare with, and {num_nearest} are needed; give more "
        "images, or fewer --discover.hubness-neighbours"
    )


def select_pairs(
    scores: Float[Tensor, "b c"], neighbour_counts: Sequence[int], fraction: float = 0.1, mutual: bool = False
) -> list[Matches]:
    """Select the pairs of the highest scores between an image and each of its neighbours.

    Args:
        scores: score of each RoI of the image with each RoI of all neighbours, concatenated; -inf for pairs that are
            left out.
        neighbour_counts: number of RoIs of each neighbour.
        fraction: number of pairs with one neighbour over the number of the image's RoIs.
        mutual: keep only pairs that are the best of both RoIs. There is one at least, and there may be fewer than
            `fraction` allows.

    Returns:
        Pairs and scores for each neighbour, the highest first; fewer where pairs are left out.

    Raises:
        ValueError: if an image has no RoI, or the counts do not sum to the number of columns.
    """
    if len(scores) == 0 or 0 in neighbour_counts:
        others = ", ".join(map(str, neighbour_counts))
        raise ValueError(f"matching needs at least one RoI an image, got {len(scores)} and {others}; rebuild the RoIs")
    if sum(neighbour_counts) != scores.shape[1]:
        raise ValueError(f"neighbour_counts sum to {sum(neighbour_counts)}, but there are {scores.shape[1]} embeddings")
    num_pairs = max(1, int(fraction * len(scores)))
    parts = scores.split(list(neighbour_counts), dim=1)
    if mutual:
        parts = tuple(part.masked_fill(~_is_mutual(part), -torch.inf) for part in parts)
    return [_highest(part, num_pairs) for part in parts]


def _is_mutual(scores: Float[Tensor, "b c"]) -> Bool[Tensor, "b c"]:
    """Mark the pairs that are the best of their row and of their column; of equal scores the first is the best."""
    rows, columns = torch.zeros_like(scores, dtype=torch.bool), torch.zeros_like(scores, dtype=torch.bool)
    rows.scatter_(1, scores.argmax(dim=1, keepdim=True), True)
    columns.scatter_(0, scores.argmax(dim=0, keepdim=True), True)
    return rows & columns


def _highest(scores: Float[Tensor, "b c"], num_pairs: int) -> Matches:
    """Return the highest entries above -inf; only candidates are sorted, because sorting takes most of the time."""
    entries = scores.flatten()
    highest = entries.topk(num_pairs).values
    if highest[-1] == -torch.inf:
        num_pairs = int((highest > -torch.inf).sum())
    lowest = highest[num_pairs - 1]
    candidates = (entries >= lowest).nonzero().flatten()
    values, order = entries[candidates].sort(descending=True, stable=True)
    chosen = candidates[order[:num_pairs]]
    num_columns = scores.shape[1]
    return torch.stack([chosen // num_columns, chosen % num_columns], dim=1), values[:num_pairs]
