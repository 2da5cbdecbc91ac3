"""Crops by Pillow, one box at a time, as torchvision's transforms on Pillow images."""

import numpy as np
from PIL import Image


def cut(image: np.ndarray, box: np.ndarray, size_px: int) -> np.ndarray:
    """Crop a box, clipped to the image and rounded to pixels, and resize it to a square `(s, s, 3)`."""
    height, width = image.shape[:2]
    left, top = (min(max(round(float(edge)), 0), end - 1) for edge, end in zip(box[:2], (width, height)))
    right = min(max(round(float(box[2])), left + 1), width)
    bottom = min(max(round(float(box[3])), top + 1), height)
    crop = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
    return np.asarray(crop.resize((size_px, size_px), Image.Resampling.BILINEAR))
