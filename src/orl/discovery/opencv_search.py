"""Selective search by OpenCV: the reference for our own, and an option where OpenCV is installed."""

import ctypes
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from orl import boxes
from orl.discovery.graph_segmentation import SIGMA


def new_opencv_search() -> Any:
    """Create OpenCV's search object, without an image.

    Raises:
        ImportError: if OpenCV's contributed modules are not installed.
    """
    try:
        import cv2

        return cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    except (ImportError, AttributeError) as error:
        raise ImportError(
            "OpenCV's selective search needs its contributed modules, and no other OpenCV beside it: "
            "pip install 'orl[opencv]', or use our own with --discover.proposals selective-search"
        ) from error


def opencv_selective_search(image: UInt8[ndarray, "h w 3"], seed: int) -> Float[ndarray, "n 4"]:
    """Find the proposals of one image in 'fast' mode, best ranked first.

    OpenCV ranks with C's `rand()` and never seeds it. This function seeds it for every image. The state of `rand()`
    belongs to the process, so search in one thread only.

    Args:
        image: RGB image; boxes are in its pixels.
        seed: seed of the random part of the ranks.

    Returns:
        About 2,500 boxes for a 640x480 image; the box of the complete image if it has one colour.

    Raises:
        ImportError: if OpenCV's contributed modules are not installed.

    Source:
        Uijlings et al., IJCV 2013; HSV and Lab, k = 150, 300, 450, sigma 0.8, smallest component 100 px.
    """
    search = new_opencv_search()
    import cv2

    cv2.setNumThreads(1)
    ctypes.CDLL(None).srand(ctypes.c_uint(seed % 2**32))
    search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))
    # Base and step of k: 150, 300, 450.
    search.switchToSelectiveSearchFast(150, 150, SIGMA)
    found = np.asarray(search.process(), dtype=np.float32).reshape(-1, 4)
    return boxes.clip(boxes.from_xywh(found), (image.shape[1], image.shape[0]))
