"""Selective search by OpenCV: the reference that our own is checked against, and a choice where it is installed."""

import ctypes
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from orl import boxes

BASE_K = 150
"""Graph segmentation at k = 150, 300 and 450 ('fast' mode)."""
INCREMENT_K = 150
SIGMA = 0.8


def new_opencv_search() -> Any:
    """OpenCV's search, without an image.

    Raises:
        ImportError: if OpenCV's contributed modules are missing.
    """
    try:
        import cv2

        return cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    except (ImportError, AttributeError) as error:
        raise ImportError(
            "OpenCV's selective search needs its contributed modules, and no other OpenCV beside it: "
            "pip install 'orl[opencv]', or take our own with --discover.proposals selective-search"
        ) from error


def opencv_selective_search(image: UInt8[ndarray, "h w 3"], seed: int) -> Float[ndarray, "n 4"]:
    """The proposals of one image in 'fast' mode, best ranked first.

    OpenCV ranks with C's `rand()` and never seeds it, so that its order depends on what the process did before; it is
    seeded here for every image. That state belongs to the whole process: search in one thread only.

    Args:
        image: RGB, at the resolution in which boxes are wanted.
        seed: decides the random part of the ranks.

    Returns:
        About 2,500 boxes for a 640x480 image; the whole image for one of one colour.

    Raises:
        ImportError: if OpenCV's contributed modules are missing.

    Source:
        Uijlings et al., IJCV 2013; HSV and Lab, k = 150, 300, 450, sigma 0.8, smallest component 100 px.
    """
    search = new_opencv_search()
    import cv2

    cv2.setNumThreads(1)
    ctypes.CDLL(None).srand(ctypes.c_uint(seed % 2**32))
    search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))
    search.switchToSelectiveSearchFast(BASE_K, INCREMENT_K, SIGMA)
    found = np.asarray(search.process(), dtype=np.float32).reshape(-1, 4)
    return boxes.clip(boxes.from_xywh(found), (image.shape[1], image.shape[0]))
