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

    image_ids: Int64[ndarray, "n"]
    """Of `DetectionImages.image_ids`."""
    boxes: Float32[ndarray, "n 4"]
    """In pixels of the image as it is on disk, `xyxy`."""
    classes: Int64[ndarray, "n"]
    """Indices into `DetectionImages.classes`."""
    scores: Float32[ndarray, "n"]
    """Higher where the detector is surer."""
    masks: tuple[Any, ...] | None = None
    """COCO's compressed RLE of each, `{"size": [h, w], "counts": bytes}`; none from a detector without masks."""

    def __len__(self) -> int:
        return len(self.scores)

    @staticmethod
    def merge(fractions: Sequence["Detections"]) -> "Detections":
        """The detections of several shares, images in the order of their ids.

        Those of one image keep their order, so that ties in score come out the same for any number of processes as
        long as an image is in one share.

        Raises:
            ValueError: if some shares have masks and some do not.
        """
        with_masks = [fraction.masks is not None for fraction in fractions if len(fraction)]
        if any(with_masks) and not all(with_masks):
            raise ValueError(f"{with_masks.count(False)} of {len(with_masks)} shares of detections lack masks")
        image_ids = _joined([fraction.image_ids for fraction in fractions], np.zeros(0, np.int64))
        order = np.argsort(image_ids, kind="stable")
        masks = [mask for fraction in fractions for mask in fraction.masks or ()]
        return Detections(
            image_ids=image_ids[order],
            boxes=_joined([fraction.boxes for fraction in fractions], np.zeros((0, 4), np.float32))[order],
            classes=_joined([fraction.classes for fraction in fractions], np.zeros(0, np.int64))[order],
            scores=_joined([fraction.scores for fraction in fractions], np.zeros(0, np.float32))[order],
            masks=tuple(masks[index] for index in order)
            if any(fraction.masks is not None for fraction in fractions)
            else None,
        )


def require_of(detections: Detections, image_ids: Sequence[int], num_classes: int) -> None:
    """Refuse detections that cannot be scored.

    Raises:
        ValueError: if one is of another image or class, or its score is not finite.
    """
    unknown = ~np.isin(detections.image_ids, image_ids)
    if unknown.any():
        first = detections.image_ids[unknown][0]
        raise ValueError(f"{unknown.sum()} of {len(detections)} detections are of unknown images, such as id {first}")
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
