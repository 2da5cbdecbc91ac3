"""Box filter of stage 2: from proposals to RoIs by minimum side, aspect ratio, overlap (NMS) and number."""

import numpy as np
import torch
from jaxtyping import Float, Int64
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
    """Select the RoIs of one image from its proposals.

    Proposals are tried in the order of their rank. A proposal is kept if its short side has at least `min_side_px` and
    its long side is at most `max_aspect_ratio` times the short side. Its IoU with each box kept before must be at most
    `max_iou`. The first `max_rois` boxes are kept.

    Args:
        proposals: boxes, best ranked first.
        size_wh: width and height of the image, used only if there is no proposal.
        min_side_px: smallest width and height of an RoI.
        max_aspect_ratio: largest ratio of long side to short side.
        max_iou: largest IoU of two RoIs.
        max_rois: largest number of RoIs.

    Returns:
        At least one box: the first proposal if none passes, the box of the complete image if there is no proposal.

    Source:
        ORL (NeurIPS 2021), Section 3.2; limits of the published configuration.
    """
    if len(proposals) == 0:
        return np.array([[0, 0, *size_wh]], dtype=np.float32)
    limits = {"min_side_px": min_side_px, "max_aspect_ratio": max_aspect_ratio, "max_iou": max_iou}
    return proposals[kept_proposals(proposals, **limits, max_rois=max_rois)]


def kept_proposals(
    proposals: Float[ndarray, "n 4"], *, min_side_px: float, max_aspect_ratio: float, max_iou: float, max_rois: int
) -> Int64[ndarray, "b"]:
    """Return the rows of the proposals that `filter_proposals` keeps; none only where there is no proposal."""
    sides = proposals[:, 2:] - proposals[:, :2]
    short, long = sides.min(axis=1), sides.max(axis=1)
    candidates = np.flatnonzero((short >= min_side_px) & (long <= max_aspect_ratio * short))
    if len(candidates) == 0:
        return np.arange(min(1, len(proposals)))
    # With falling scores, non-maximum suppression keeps boxes in the order of their rank.
    scores = torch.arange(len(candidates), 0, -1, dtype=torch.float32)
    kept = nms(torch.from_numpy(proposals[candidates]), scores, max_iou)
    return candidates[kept[:max_rois].numpy()]
