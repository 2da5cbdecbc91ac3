"""Which RoIs of a photo look like which RoIs of its neighbour."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def match_rois(
    embeddings: Float[Tensor, "b d"], neighbour_embeddings: Float[Tensor, "c d"], share: float = 0.1
) -> tuple[Int[Tensor, "p 2"], Float[Tensor, "p"]]:
    """The highest entries of the matrix of cosines: the correspondences of one pair of photos.

    Args:
        embeddings: unit vectors of the photo's RoIs.
        neighbour_embeddings: unit vectors of the neighbour's RoIs.
        share: correspondences over the photo's number of RoIs.

    Returns:
        max(1, floor(share x b)) pairs (RoI here, RoI there), the most similar first, and their cosines; of equal
        cosines the pair of the lower rows comes first.

    Raises:
        ValueError: if a photo has no RoI, which `filter_proposals` never leaves.

    Source:
        ORL (NeurIPS 2021), Section 3.2, 10% of the query's boxes.
    """
    if len(embeddings) == 0 or len(neighbour_embeddings) == 0:
        raise ValueError(f"cannot match {len(embeddings)} RoIs with {len(neighbour_embeddings)}; rebuild the RoIs")
    similarities = (embeddings @ neighbour_embeddings.T).flatten()
    num_pairs = min(max(1, int(share * len(embeddings))), len(similarities))
    values, order = similarities.sort(descending=True, stable=True)
    chosen = order[:num_pairs]
    pairs = torch.stack([chosen // len(neighbour_embeddings), chosen % len(neighbour_embeddings)], dim=1)
    return pairs, values[:num_pairs]
