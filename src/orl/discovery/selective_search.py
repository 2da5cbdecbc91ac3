"""Selective search ('fast' mode): class-agnostic boxes that may contain an object."""

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
from orl.discovery.graph_segmentation import segment_image
from orl.discovery.grouping import group_regions
from orl.discovery.texture import Turns, texture_codes
from orl.memory import keep_freed_memory

logger = logging.getLogger(__name__)

SEGMENTATION_SCALES = (150.0, 300.0, 450.0)
"""k of the graph segmentations in 'fast' mode."""
MAX_SEARCHED_PIXELS = 2**24
"""Largest square of an image's mean side that is searched at full size; each pixel needs about 150 bytes."""
RAND_MAX = 2**31 - 1
COMPILE_NOTICE_S = 1.0
"""Seconds after which a log line announces the compilation."""


def selective_search(image: Image.Image | ndarray, seed: int = 0, scale: float = 1.0) -> Float[ndarray, "n 4"]:
    """Find the proposals of one image, best ranked first.

    At scale 1 they are OpenCV's boxes, up to the order in which equal edges and equal similarities are sorted. The
    first call compiles for about half a minute; the compiled code is cached on disk. The search releases the GIL, so
    threads can search in parallel.

    Args:
        image: PIL image of any mode, or RGB array `(height, width, 3)` of dtype uint8. Boxes are in its pixels.
        seed: seed of the random part of the ranks; equal to `srand(seed)` before OpenCV's search.
        scale: size of the searched image over the size of the image, in (0, 1]. Scale 0.5 takes a quarter of the time
            and finds no region of less than 400 pixels.

    Returns:
        Boxes `xyxy`, about 2,500 for a 640x480 image; the box of the complete image if the image has one colour.

    Raises:
        TypeError: if the image is neither a PIL image nor an array of dtype uint8.
        ValueError: if the array is not `(height, width, 3)`, the image is empty, or the scale is not in (0, 1].

    Source:
        Uijlings et al., IJCV 2013; HSV and Lab, k = 150, 300, 450, sigma 0.8, smallest component 100 px.

    Example:
        >>> import numpy as np
        >>> image = np.zeros((60, 80, 3), dtype=np.uint8)
        >>> image[10:50, 20:60] = (200, 30, 30)
        >>> boxes = selective_search(image)
        >>> [20.0, 10.0, 60.0, 50.0] in boxes.tolist()
        True
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale must be in (0, 1], got {scale}: selective search does not enlarge images")
    pixels = _rgb_array(image)
    compile_search()
    small = _resized(pixels, scale)
    regions, levels = [], []
    turns = Turns(small.shape[1], small.shape[0])
    for converted in (to_hsv(small), to_lab(small)):
        found = group_regions(
            converted, *texture_codes(converted, turns), segment_image(converted, SEGMENTATION_SCALES)
        )
        regions.append(found[0])
        levels.append(found[1])
    ranked = rank(np.concatenate(regions), np.concatenate(levels), seed)
    (height, width), (small_height, small_width) = pixels.shape[:2], small.shape[:2]
    # The product comes before the quotient: then a box at the image's edge ends exactly there.
    return (ranked * np.array([width, height] * 2) / np.array([small_width, small_height] * 2)).astype(np.float32)


def rank(regions: Int[ndarray, "n 4"], levels: Int[ndarray, "n"], seed: int) -> Int[ndarray, "m 4"]:
    """Sort boxes by a random fraction of their level, and drop duplicates.

    Small regions have low levels, so they tend to come first.

    Args:
        regions: boxes with corners below 2^16.
        levels: height of each region in its tree of merges, from 1.
        seed: seed of `c_random`.
    """
    ranks = c_random(seed, len(levels)) / float(RAND_MAX) * levels
    ordered = regions[np.argsort(ranks, kind="stable")]
    shifts = np.array([48, 32, 16, 0], dtype=np.uint64)
    _, firsts = np.unique((ordered.astype(np.uint64) << shifts).sum(axis=1), return_index=True)
    return ordered[np.sort(firsts)]


@cache
def compile_search() -> None:
    """Compile the search, or load the cached code; log a line if it takes more than a second."""
    message = "compiling selective search for this CPU: about half a minute, once"
    notice = threading.Timer(COMPILE_NOTICE_S, logger.info, [message])
    notice.start()
    keep_freed_memory()
    try:
        image = np.zeros((8, 9, 3), np.uint8)
        image[:, 4:] = 255
        for converted in (to_hsv(image), to_lab(image)):
            group_regions(converted, *texture_codes(converted), segment_image(converted, SEGMENTATION_SCALES))
        c_random(0, 1)
    finally:
        notice.cancel()


def _rgb_array(image: object) -> UInt8[ndarray, "h w 3"]:
    if isinstance(image, Image.Image):
        image = np.array(image.convert("RGB"))
    if not isinstance(image, ndarray):
        raise TypeError(
            f"selective_search needs a PIL image or an RGB array, got {type(image).__name__}; "
            "for a torch tensor (3, H, W) pass tensor.permute(1, 2, 0).numpy()"
        )
    if image.dtype != np.uint8:
        raise TypeError(
            f"selective_search needs an array of dtype uint8, got {image.dtype}; "
            "for values in [0, 1] pass (image * 255).round().astype(np.uint8)"
        )
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"selective_search needs an RGB array of shape (height, width, 3), got {image.shape}; "
            "for a gray array (height, width) pass np.stack([image] * 3, axis=-1)"
        )
    if image.size == 0:
        raise ValueError(f"selective_search needs at least one pixel, got an image of shape {image.shape}")
    return image


def _resized(image: UInt8[ndarray, "h w 3"], scale: float) -> UInt8[ndarray, "a b 3"]:
    height, width, _ = image.shape
    # The copy turned by 45 degrees has twice as many pixels as a square of the mean side, however narrow the image is.
    scale = min(scale, 2 * math.sqrt(MAX_SEARCHED_PIXELS) / (height + width))
    if scale >= 1:
        # The loops are compiled for a writable array; a read-only one would be compiled for again.
        return np.require(image, requirements=["C", "W"])
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    return np.array(Image.fromarray(image).resize(size_wh, Image.Resampling.BOX))


@compiled()
@no_type_check
def c_random(seed, count):
    """Return the first numbers that `rand()` of the GNU C library gives after `srand(seed)`; OpenCV ranks with them."""
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
