"""Pairs of RoIs that are matched in size with given ones, so that a score does not reward large boxes.

A large box covers an object more often than a small one, and two large boxes objects of one class. A feature that pairs
large boxes with each other therefore beats random pairs of any size without knowing a class.
"""

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy import ndarray

from orl.datasets.labels import NO_OBJECT

SIZE_RATIO = 2.0
"""Largest ratio of the areas of two RoIs of about the same size."""
SIZE_GROUPS = ("boxes below 10%", "boxes of 10 to 30%", "boxes above 30%")
"""Groups of pairs by the fraction of their images that their boxes take, as their geometric mean."""
SIZE_LIMITS = (0.1, 0.3)


def area_fractions(boxes: Float[ndarray, "n 4"], sizes_wh: Shaped[ndarray, "n 2"]) -> Float[ndarray, "n"]:
    """Return the fraction of its image that each box takes.

    Args:
        boxes: boxes `xyxy` in pixels.
        sizes_wh: width and height of the image of each.
    """
    sides = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
    return sides.prod(axis=1) / sizes_wh.astype(np.float64).prod(axis=1)


def size_groups(fractions: Float[ndarray, "p"], neighbour_fractions: Float[ndarray, "p"]) -> Int[ndarray, "p"]:
    """Return the index in `SIZE_GROUPS` of each pair."""
    return np.searchsorted(SIZE_LIMITS, np.sqrt(fractions * neighbour_fractions), side="right")


def size_matched_outcomes(
    pairs: Int[ndarray, "p 2"],
    rois_of_pairs: Int[ndarray, "p 4"],
    classes: Int[ndarray, "r"],
    fractions: Float[ndarray, "r"],
) -> Float[ndarray, "p 3"]:
    """Compute what random pairs of RoIs of the same two images and of the same two sizes cover.

    The random pair has an RoI of the first image whose area is between half and twice that of the pair's first RoI, and
    one of the second image alike. The pair itself is among these pairs: where there is no choice, its lift is 1.

    Args:
        pairs: rows of the RoIs of each pair.
        rois_of_pairs: first and last row (exclusive) of the RoIs of the first image, and of the second.
        classes: class of the object that each RoI covers, or `NO_OBJECT`.
        fractions: fraction of its image that each RoI takes.

    Returns:
        For each pair 1, and the expected fractions of pairs that cover two objects, and two of one class.
    """
    outcomes = np.ones((len(pairs), 3))
    num_classes = int(classes.max(initial=0)) + 1
    frequencies: dict[tuple[int, int, int], ndarray] = {}

    def class_frequencies(roi: int, start: int, stop: int) -> ndarray:
        """Return the frequencies of the classes among the RoIs of about the size of one; objects alone are counted."""
        if (roi, start, stop) not in frequencies:
            ratios = fractions[start:stop] / fractions[roi]
            alike = classes[start:stop][(ratios >= 1 / SIZE_RATIO) & (ratios <= SIZE_RATIO)]
            frequencies[roi, start, stop] = np.bincount(alike[alike != NO_OBJECT], minlength=num_classes) / len(alike)
        return frequencies[roi, start, stop]

    for row, ((roi, neighbour_roi), (start, stop, neighbour_start, neighbour_stop)) in enumerate(
        zip(pairs.tolist(), rois_of_pairs.tolist())
    ):
        own = class_frequencies(roi, start, stop)
        others = class_frequencies(neighbour_roi, neighbour_start, neighbour_stop)
        outcomes[row, 1:] = own.sum() * others.sum(), own @ others
    return outcomes
