"""What a detector found, as flat columns that join and sort."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray


@dataclass(frozen=True, kw_only=True)
class Detections:
    """One entry a detected object."""

    photo_ids: Int64[ndarray, "n"]
    """Of `DetectionPhotos.photo_ids`."""
    boxes: Float32[ndarray, "n 4"]
    """In pixels of the photo as it is on disk, `xyxy`."""
    classes: Int64[ndarray, "n"]
    """Indices into `DetectionPhotos.classes`."""
    scores: Float32[ndarray, "n"]
    """Higher where the detector is surer."""
    masks: tuple[Any, ...] | None = None
    """COCO's compressed RLE of each, `{"size": [h, w], "counts": bytes}`; none from a detector without masks."""

    def __len__(self) -> int:
        return len(self.scores)

    @staticmethod
    def merge(shares: Sequence["Detections"]) -> "Detections":
        """The detections of several shares, photos in the order of their ids.

        Those of one photo keep their order, so that ties in score come out the same for any number of processes as
        long as a photo is in one share.

        Raises:
            ValueError: if some shares have masks and some do not.
        """
        with_masks = [share.masks is not None for share in shares if len(share)]
        if any(with_masks) and not all(with_masks):
            raise ValueError(f"{with_masks.count(False)} of {len(with_masks)} shares of detections lack masks")
        photo_ids = _joined([share.photo_ids for share in shares], np.zeros(0, np.int64))
        order = np.argsort(photo_ids, kind="stable")
        masks = [mask for share in shares for mask in share.masks or ()]
        return Detections(
            photo_ids=photo_ids[order],
            boxes=_joined([share.boxes for share in shares], np.zeros((0, 4), np.float32))[order],
            classes=_joined([share.classes for share in shares], np.zeros(0, np.int64))[order],
            scores=_joined([share.scores for share in shares], np.zeros(0, np.float32))[order],
            masks=tuple(masks[index] for index in order) if any(share.masks is not None for share in shares) else None,
        )


def require_of(detections: Detections, photo_ids: Sequence[int], num_classes: int) -> None:
    """Refuse detections that cannot be scored.

    Raises:
        ValueError: if one is of another photo or class, or its score is not finite.
    """
    unknown = ~np.isin(detections.photo_ids, photo_ids)
    if unknown.any():
        first = detections.photo_ids[unknown][0]
        raise ValueError(f"{unknown.sum()} of {len(detections)} detections are of unknown photos, such as id {first}")
    beyond = (detections.classes < 0) | (detections.classes >= num_classes)
    if beyond.any():
        raise ValueError(
            f"a detection is of class {detections.classes[beyond][0]}, and there are {num_classes} classes"
        )
    infinite = ~np.isfinite(detections.scores)
    if infinite.any():
        raise ValueError(f"{infinite.sum()} of {len(detections)} scores are not finite; check the detector")


def _joined(columns: list[ndarray], empty: ndarray) -> ndarray:
    return np.concatenate([empty, *columns])
