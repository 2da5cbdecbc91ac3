"""Texture of RoIs: how much the grey values inside a box vary, to find boxes of sky, snow or a bare wall."""

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray

GREY_WEIGHTS = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""
MIN_CONTRAST = 0.03
"""Standard deviation of grey values in [0, 1] below which an RoI has no texture."""
MIN_EDGES = 0.008
"""Mean difference of neighbouring grey values in [0, 1] below which an RoI has no texture."""


def roi_textures(image: UInt8[ndarray, "h w 3"], boxes: Float[ndarray, "b 4"]) -> Float32[ndarray, "b 2"]:
    """Measure the contrast and the edges of each box, in one pass over the image.

    Args:
        image: an image.
        boxes: boxes `xyxy` in pixels, rounded to the pixels that they touch.

    Returns:
        For each box the standard deviation of its grey values, and the mean absolute difference of horizontal and
        vertical neighbours; grey values are in [0, 1].
    """
    grey = image.astype(np.float64) @ np.array(GREY_WEIGHTS) / 255
    edges = np.zeros_like(grey)
    edges[:, 1:] += np.abs(np.diff(grey, axis=1)) / 2
    edges[1:] += np.abs(np.diff(grey, axis=0)) / 2
    integrals = [_integral(values) for values in (grey, grey**2, edges)]
    height, width = grey.shape
    left, top = np.floor(boxes[:, 0]).clip(0, width - 1), np.floor(boxes[:, 1]).clip(0, height - 1)
    right, bottom = np.ceil(boxes[:, 2]).clip(left + 1, width), np.ceil(boxes[:, 3]).clip(top + 1, height)
    corners = [each.astype(np.int64) for each in (left, top, right, bottom)]
    area = (right - left) * (bottom - top)
    mean, mean_square, mean_edges = (_sums(integral, *corners) / area for integral in integrals)
    contrast = np.sqrt(np.maximum(mean_square - mean**2, 0))
    return np.stack([contrast, mean_edges], axis=1).astype(np.float32)


def has_texture(textures: Float[ndarray, "b 2"]) -> ndarray:
    """Return for each RoI whether its contrast or its edges reach the least values."""
    return (textures[:, 0] >= MIN_CONTRAST) & (textures[:, 1] >= MIN_EDGES)


def _integral(values: Float[ndarray, "h w"]) -> Float[ndarray, "_ _"]:
    """Return sums over all rectangles that start at the upper left corner."""
    return np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))


def _sums(integral: ndarray, left: ndarray, top: ndarray, right: ndarray, bottom: ndarray) -> ndarray:
    return integral[bottom, right] - integral[top, right] - integral[bottom, left] + integral[top, left]
