"""Detections as flat columns, which merge and sort."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray


@dataclass(frozen=True, kw_only=True)
class Detections:
    """The detected objects of some images."""

    image_ids: Int64[ndarray, "n"]
    """Values of `DetectionDataset.image_ids`."""
    boxes: Float32[ndarray, "n 4"]
    """Boxes as `xyxy`, in pixels of the image file."""
    classes: Int64[ndarray, "n"]
    """Indices into `DetectionDataset.classes`."""
    scores: Float32[ndarray, "n"]
    """Confidence of the detector, in [0, 1]."""
    masks: tuple[Any, ...] | None = None
    """COCO's compressed RLE of each mask, `{"size": [h, w], "counts": bytes}`; None from a detector without masks."""

    def __len__(self) -> int:
        return len(self.scores)

    @staticmethod
    def merge(parts: Sequence["Detections"]) -> "Detections":
        """Merge the detections of several parts, sorted by image id.

        Detections of one image keep their order. Ties in score are therefore resolved equally for any number of
        processes, as long as an image is in one part.

        Raises:
            ValueError: if some parts have masks and some do not.
        """
        with_masks = [part.masks is not None for part in parts if len(part)]
        if any(with_masks) and not all(with_masks):
            raise ValueError(f"{with_masks.count(False)} of {len(with_masks)} parts of detections lack masks")
        image_ids = _concatenate([part.image_ids for part in parts], np.zeros(0, np.int64))
        order = np.argsort(image_ids, kind="stable")
        masks = [mask for part in parts for mask in part.masks or ()]
        return Detections(
            image_ids=image_ids[order],
            boxes=_concatenate([part.boxes for part in parts], np.zeros((0, 4), np.float32))[order],
            classes=_concatenate([part.classes for part in parts], np.zeros(0, np.int64))[order],
            scores=_concatenate([part.scores for part in parts], np.zeros(0, np.float32))[order],
            masks=tuple(masks[index] for index in order) if any(part.masks is not None for part in parts) else None,
        )


def check_detections(detections: Detections, image_ids: Sequence[int], num_classes: int) -> None:
    """Check that detections can be scored.

    Raises:
        ValueError: if one has an unknown image or class, or a score that is not finite.
    """
    unknown = ~np.isin(detections.image_ids, image_ids)
    if unknown.any():
        first = detections.image_ids[unknown][0]
        raise ValueError(f"{unknown.sum()} of {len(detections)} detections have unknown images, such as id {first}")
    beyond = (detections.classes < 0) | (detections.classes >= num_classes)
    if beyond.any():
        raise ValueError(f"a detection has class {detections.classes[beyond][0]}, but there are {num_classes} classes")
    infinite = ~np.isfinite(detections.scores)
    if infinite.any():
        raise ValueError(f"{infinite.sum()} of {len(detections)} scores are not finite; check the detector")


def _concatenate(columns: list[ndarray], empty: ndarray) -> ndarray:
    return np.concatenate([empty, *columns])
