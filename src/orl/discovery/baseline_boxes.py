"""Boxes that do not look at the image: what selective search has to be better than."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

GRID_SIDES = (1.0, 0.7, 0.5, 0.35, 0.25)
"""Sides of a grid's square boxes over the image's short side, the largest first."""
GRID_ASPECT_RATIOS = (1.0, 0.5, 2.0)
GRID_STEP = 0.5
"""Distance of two boxes of a grid over their side."""
NUM_RANDOM = 1000
MIN_RANDOM_SIDE = 0.1


def grid_boxes(size_wh: tuple[int, int]) -> Float[ndarray, "n 4"]:
    """Boxes of five sizes and three aspect ratios, half a side apart, from large to small.

    Args:
        size_wh: width and height of the image in pixels.

    Returns:
        Boxes inside the image; those that do not fit are left out, the whole image is always there.
    """
    width, height = size_wh
    boxes = [(0.0, 0.0, float(width), float(height))]
    for side in GRID_SIDES:
        for aspect_ratio in GRID_ASPECT_RATIOS:
            box_width = side * min(size_wh) * aspect_ratio**0.5
            box_height = side * min(size_wh) / aspect_ratio**0.5
            boxes += [
                (x, y, x + box_width, y + box_height)
                for y in _starts(height, box_height)
                for x in _starts(width, box_width)
            ]
    return np.array(boxes, dtype=np.float32).clip(0, np.array([width, height] * 2, dtype=np.float32))


def random_boxes(size_wh: tuple[int, int], generator: np.random.Generator) -> Float[ndarray, "1000 4"]:
    """Boxes of random place and size: sides log-uniform between a tenth of the image's side and the whole of it.

    Args:
        size_wh: width and height of the image in pixels.
        generator: where the draws come from.
    """
    limits = np.array(size_wh, dtype=np.float64)
    sides = limits * np.exp(generator.uniform(np.log(MIN_RANDOM_SIDE), 0, (NUM_RANDOM, 2)))
    starts = generator.uniform(0, 1, (NUM_RANDOM, 2)) * (limits - sides)
    boxes = np.concatenate([starts, starts + sides], axis=1).astype(np.float32)
    return boxes.clip(0, np.concatenate([limits, limits]).astype(np.float32))


def _starts(size: int, side: float) -> ndarray:
    """Where boxes of a side begin so that they cover a length evenly; none when they do not fit."""
    if side > size:
        return np.empty(0)
    return np.linspace(0, size - side, 1 + round((size - side) / (GRID_STEP * side)))
