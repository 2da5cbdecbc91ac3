"""Baselines for proposals that ignore the image's content: a grid of boxes, and random boxes."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

GRID_SIDES = (1.0, 0.7, 0.5, 0.35, 0.25)
"""Sides of the square grid boxes over the short side of the image, the largest first."""
GRID_ASPECT_RATIOS = (1.0, 0.5, 2.0)
GRID_STEP = 0.5
"""Distance of two neighbouring grid boxes over their side."""
NUM_RANDOM = 1000
MIN_RANDOM_SIDE = 0.1


def grid_boxes(size_wh: tuple[int, int]) -> Float[ndarray, "n 4"]:
    """Return boxes of five sizes and three aspect ratios on a grid, half a side apart, from large to small.

    Args:
        size_wh: width and height of the image in pixels.

    Returns:
        Boxes inside the image, the first of them the complete image; boxes that do not fit are left out.
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
    """Sample boxes of random position and size; sides are log-uniform between 0.1 and 1 times the image's side.

    Args:
        size_wh: width and height of the image in pixels.
        generator: source of randomness.
    """
    limits = np.array(size_wh, dtype=np.float64)
    sides = limits * np.exp(generator.uniform(np.log(MIN_RANDOM_SIDE), 0, (NUM_RANDOM, 2)))
    starts = generator.uniform(0, 1, (NUM_RANDOM, 2)) * (limits - sides)
    boxes = np.concatenate([starts, starts + sides], axis=1).astype(np.float32)
    return boxes.clip(0, np.concatenate([limits, limits]).astype(np.float32))


def _starts(size: int, side: float) -> ndarray:
    """Return start positions of boxes that cover a length evenly; empty if they do not fit."""
    if side > size:
        return np.empty(0)
    return np.linspace(0, size - side, 1 + round((size - side) / (GRID_STEP * side)))
