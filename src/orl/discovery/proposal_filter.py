"""The filter between proposals and RoIs: large enough, not too long, not too alike, not too many."""

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torchvision.ops import nms


def filter_proposals(
    proposals: Float[ndarray, "n 4"],
    size_wh: tuple[int, int],
    *,
    min_side_px: float = 96,
    max_aspect_ratio: float = 3,
    max_iou: float = 0.5,
    max_rois: int = 100,
) -> Float[ndarray, "b 4"]:
    """The RoIs of one image: proposals in their order, each kept when it passes.

    Args:
        proposals: best ranked first.
        size_wh: width and height of the image, for one that has no proposal at all.
        min_side_px: smallest width and height.
        max_aspect_ratio: largest long side over short side.
        max_iou: largest overlap with a box already kept.
        max_rois: the first so many are kept.

    Returns:
        At least one box: the first proposal when none passes, the whole image when there is no proposal.

    Source:
        ORL (NeurIPS 2021), Section 3.2; limits of the published configuration.
    """
    if len(proposals) == 0:
        return np.array([[0, 0, *size_wh]], dtype=np.float32)
    sides = proposals[:, 2:] - proposals[:, :2]
    short, long = sides.min(axis=1), sides.max(axis=1)
    candidates = proposals[(short >= min_side_px) & (long <= max_aspect_ratio * short)]
    if len(candidates) == 0:
        return proposals[:1]
    # Suppression in the order of the scores is the greedy filter when the scores are the order itself.
    order = torch.arange(len(candidates), 0, -1, dtype=torch.float32)
    kept = nms(torch.from_numpy(candidates), order, max_iou)
    return candidates[kept[:max_rois].numpy()]
