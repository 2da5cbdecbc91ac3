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
BLOCK_PAIRS = 4096
"""Pairs at once; with 50 RoIs an image and 80 classes a block takes some 20 MB."""


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
    for first in range(0, len(pairs), BLOCK_PAIRS):
        block = slice(first, first + BLOCK_PAIRS)
        own, others = (
            _class_frequencies(pairs[block, side], rois_of_pairs[block, columns], classes, fractions, num_classes)
            for side, columns in enumerate((slice(0, 2), slice(2, 4)))
        )
        outcomes[block, 1] = own.sum(axis=1) * others.sum(axis=1)
        outcomes[block, 2] = (own * others).sum(axis=1)
    return outcomes


def _class_frequencies(
    rois: Int[ndarray, "p"],
    rows: Int[ndarray, "p 2"],
    classes: Int[ndarray, "r"],
    fractions: Float[ndarray, "r"],
    num_classes: int,
) -> Float[ndarray, "p c"]:
    """Return how often each class occurs among the RoIs of one image that are about the size of one of them.

    Args:
        rois: row of the RoI whose size the others have.
        rows: first and last row (exclusive) of the RoIs of its image.
        classes: class of the object that each RoI covers, or `NO_OBJECT`; a row sums to 1 less the frequency of these.
        fractions: fraction of its image that each RoI takes.
        num_classes: number of classes.
    """
    counts = rows[:, 1] - rows[:, 0]
    position = np.repeat(np.arange(len(rois)), counts)
    others = np.arange(counts.sum()) + np.repeat(rows[:, 1] - np.cumsum(counts), counts)
    sizes, size = fractions[others], fractions[rois][position]
    alike = (sizes * SIZE_RATIO >= size) & (sizes <= size * SIZE_RATIO)
    position, found = position[alike], classes[others[alike]]
    num_alike = np.bincount(position, minlength=len(rois))
    covers = found != NO_OBJECT
    cells = np.bincount(position[covers] * num_classes + found[covers], minlength=len(rois) * num_classes)
    return cells.reshape(len(rois), num_classes) / num_alike[:, None]
