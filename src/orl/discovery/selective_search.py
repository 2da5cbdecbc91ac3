"""Selective search: boxes that may hold an object, in the 'fast' mode of the method."""

import logging
import math
import threading
from functools import cache
from typing import no_type_check

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from PIL import Image

from orl.compiled import compiled
from orl.discovery.colour_spaces import to_hsv, to_lab
from orl.discovery.graph_segmentation import segment
from orl.discovery.grouping import group_regions
from orl.discovery.texture import Turns, texture_codes
from orl.memory import keep_freed_memory

logger = logging.getLogger(__name__)

SEGMENTATION_SCALES = (150.0, 300.0, 450.0)
"""k of the graph segmentations ('fast' mode)."""
MAX_SEARCHED_PIXELS = 2**24
"""An image is searched at a reduced size if a square of its mean side has more: about 150 bytes are needed for each."""
RAND_MAX = 2**31 - 1
COMPILE_NOTICE_S = 1.0


def selective_search(image: UInt8[ndarray, "h w 3"], seed: int, scale: float = 1.0) -> Float[ndarray, "n 4"]:
    """The proposals of one image in 'fast' mode, best ranked first.

    At scale 1 they are OpenCV's boxes, apart from those that depend on how equal edges or similarities are sorted.
    The first call compiles, which takes about half a minute; what was compiled is kept on disk. Python's global lock
    is free while it searches, so that threads search side by side.

    Args:
        image: RGB, at the resolution in which boxes are wanted.
        seed: decides the random part of the ranks, as `srand(seed)` does for OpenCV's.
        scale: size of the image that is searched over its size, in (0, 1]; half size takes a quarter of the time and
            finds no regions of less than 400 pixels.

    Returns:
        About 2,500 boxes for a 640x480 image; the whole image for one of one colour.

    Raises:
        ValueError: if the scale is not in (0, 1].

    Source:
        Uijlings et al., IJCV 2013; HSV and Lab, k = 150, 300, 450, sigma 0.8, smallest component 100 px.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale must be in (0, 1], not {scale}: an image is not enlarged for the search")
    compile_search()
    small = _reduced(image, scale)
    regions, levels = [], []
    turns = Turns(small.shape[1], small.shape[0])
    for converted in (to_hsv(small), to_lab(small)):
        found = group_regions(converted, *texture_codes(converted, turns), segment(converted, SEGMENTATION_SCALES))
        regions.append(found[0])
        levels.append(found[1])
    ranked = rank(np.concatenate(regions), np.concatenate(levels), seed)
    (height, width), (small_height, small_width) = image.shape[:2], small.shape[:2]
    # Multiplied before it is divided: so the image's edge stays the image's edge, to the last bit.
    return (ranked * np.array([width, height] * 2) / np.array([small_width, small_height] * 2)).astype(np.float32)


def rank(regions: Int[ndarray, "n 4"], levels: Int[ndarray, "n"], seed: int) -> Int[ndarray, "m 4"]:
    """Each box once, by a random share of its level: small regions, of low levels, tend to come first.

    Args:
        regions: boxes with corners below 2^16.
        levels: height of each region in its tree of merges, from 1.
        seed: of `c_random`.
    """
    ranks = c_random(seed, len(levels)) / float(RAND_MAX) * levels
    ordered = regions[np.argsort(ranks, kind="stable")]
    shifts = np.array([48, 32, 16, 0], dtype=np.uint64)
    _, firsts = np.unique((ordered.astype(np.uint64) << shifts).sum(axis=1), return_index=True)
    return ordered[np.sort(firsts)]


@cache
def compile_search() -> None:
    """Make ready to search: compile, or load what was compiled before; said when it takes long."""
    message = "compiling selective search for this processor: about half a minute, once"
    notice = threading.Timer(COMPILE_NOTICE_S, logger.info, [message])
    notice.start()
    keep_freed_memory()
    try:
        image = np.zeros((8, 9, 3), np.uint8)
        image[:, 4:] = 255
        for converted in (to_hsv(image), to_lab(image)):
            group_regions(converted, *texture_codes(converted), segment(converted, SEGMENTATION_SCALES))
        c_random(0, 1)
    finally:
        notice.cancel()


def _reduced(image: UInt8[ndarray, "h w 3"], scale: float) -> UInt8[ndarray, "a b 3"]:
    height, width, _ = image.shape
    # The copy that is turned by 45 degrees has the pixels of two squares of the mean side, however narrow the image is.
    scale = min(scale, 2 * math.sqrt(MAX_SEARCHED_PIXELS) / (height + width))
    if scale >= 1:
        # The loops are compiled for an array that can be written, and would be compiled again for another.
        return np.require(image, requirements=["C", "W"])
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    return np.array(Image.fromarray(image).resize(size_wh, Image.Resampling.BOX))


@compiled()
@no_type_check
def c_random(seed, count):
    """What `srand(seed)` and so many calls of `rand()` give in the GNU C library, which OpenCV draws its ranks from."""
    state = np.empty(344 + count, np.uint32)
    # The library takes the last 32 bits of a seed, as a signed number, and 1 for 0.
    word = np.int64(np.int32(np.uint32(seed)))
    if word == 0:
        word = np.int64(1)
    state[0] = word
    for at in range(1, 31):
        word = (16807 * word) % RAND_MAX
        state[at] = word
    for at in range(31, 34):
        state[at] = state[at - 31]
    for at in range(34, len(state)):
        state[at] = state[at - 31] + state[at - 3]
    return state[344:] >> np.uint32(1)
