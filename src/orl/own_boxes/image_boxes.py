"""Boxes of single images, in the form that every source of own boxes gives: best ranked first, with their masks."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray

from orl import boxes


@dataclass(frozen=True)
class ImageBoxes:
    """Boxes of one image, best ranked first."""

    xyxy: Float32[ndarray, "n 4"]
    rles: tuple[str, ...] | None = None
    """Counts of the compressed RLE of each box's mask, empty for a box without one; None if the source has none."""

    def select(self, rows: Int64[ndarray, "m"]) -> "ImageBoxes":
        """Return some of the boxes, in the order of the rows."""
        rles = None if self.rles is None else tuple(self.rles[row] for row in rows.tolist())
        return ImageBoxes(self.xyxy[rows], rles)

    def clipped(self, size_wh: tuple[int, int]) -> "ImageBoxes":
        """Return the boxes, clipped to an image of this width and height; those without an area are left out."""
        inside = ImageBoxes(boxes.clip(self.xyxy, size_wh), self.rles)
        return inside.select(np.flatnonzero(boxes.area(inside.xyxy) > 0))
