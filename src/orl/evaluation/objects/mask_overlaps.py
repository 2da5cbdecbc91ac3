"""Intersection and union of a predicted mask and the labels, by class: the sums behind mIoU."""

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from orl.datasets.semantic_masks import VOID


def mask_overlaps(
    prediction: UInt8[ndarray, "h w"], mask: UInt8[ndarray, "h w"], num_classes: int
) -> tuple[Int[ndarray, "c"], Int[ndarray, "c"]]:
    """Count the pixels of intersection and union of each class in one image; `VOID` pixels of the labels are left out.

    The mIoU of a set is the mean over classes of (sum over images of intersections / sum of unions). A class counts if
    it occurs in the labels or in the predictions: `ImageSums` leaves a union of zero out.

    Example:
        >>> import numpy as np
        >>> prediction = np.array([[0, 1, 1]], dtype=np.uint8)
        >>> intersections, unions = mask_overlaps(prediction, np.array([[0, 0, 255]], dtype=np.uint8), 2)
        >>> intersections.tolist(), unions.tolist()
        ([1, 0], [2, 1])
    """
    known = mask != VOID
    predicted, labels = prediction[known], mask[known]
    intersections = np.bincount(labels[predicted == labels], minlength=num_classes)
    areas = np.bincount(predicted, minlength=num_classes) + np.bincount(labels, minlength=num_classes)
    return intersections, areas - intersections


def class_pixels(mask: UInt8[ndarray, "*n h w"], num_classes: int) -> Int[ndarray, "c"]:
    """Count the labelled pixels of each class."""
    return np.bincount(mask[mask != VOID], minlength=num_classes)


def constant_miou(pixels: Float[ndarray, "c"] | Int[ndarray, "c"]) -> float:
    """Compute the mIoU of the most frequent class, predicted everywhere: the chance level of a segmentation.

    Args:
        pixels: labelled pixels of each class in all images.
    """
    return float(pixels.max() / pixels.sum() / (pixels > 0).sum())
