"""Masks between COCO's three notations and bitmaps, by the library that also scores them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray

MIN_POLYGON_NUMBERS = 6
"""x and y of three corners."""


def encode_masks(masks: Bool[ndarray, "n h w"] | UInt8[ndarray, "n h w"]) -> list[dict[str, Any]]:
    """Compressed RLE of each bitmap: `{"size": [h, w], "counts": bytes}`."""
    from faster_coco_eval.core import mask as coco_mask

    if not len(masks):
        return []
    rles: list[dict[str, Any]] = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    return [as_bytes(rle) for rle in rles]


def decode_masks(segmentations: Sequence[object], size_wh: tuple[int, int]) -> Bool[ndarray, "n h w"]:
    """Bitmaps of objects given in any of the notations.

    Args:
        segmentations: a list of polygons, a compressed or an uncompressed RLE for each object.
        size_wh: width and height of the image.

    Raises:
        ValueError: as `compressed`.
    """
    from faster_coco_eval.core import mask as coco_mask

    rles = [compressed(segmentation, size_wh) for segmentation in segmentations]
    if not rles:
        return np.zeros((0, size_wh[1], size_wh[0]), dtype=bool)
    return np.ascontiguousarray(np.asarray(coco_mask.decode(rles)).transpose(2, 0, 1)).astype(bool)


def compressed(segmentation: object, size_wh: tuple[int, int]) -> dict[str, Any]:
    """An object's mask as compressed RLE; several polygons are one object.

    Args:
        segmentation: a list of polygons `[x, y, x, y, ...]`, or an RLE whose counts are a list, text or bytes.
        size_wh: width and height of the image.

    Raises:
        ValueError: if it is none of these, or an RLE of another size or with too few or too many pixels.
    """
    from faster_coco_eval.core import mask as coco_mask

    width, height = size_wh
    if isinstance(segmentation, dict):
        return _compressed_rle(segmentation, size_wh)
    if not isinstance(segmentation, list | tuple) or not segmentation:
        raise ValueError(f"a mask is neither polygons nor RLE: {repr(segmentation)[:80]}")
    for polygon in segmentation:
        if not isinstance(polygon, list | tuple) or len(polygon) < MIN_POLYGON_NUMBERS or len(polygon) % 2:
            raise ValueError(f"a polygon needs x and y of three corners or more, found {repr(polygon)[:80]}")
    try:
        parts = coco_mask.frPyObjects(
            [[float(number) for number in polygon] for polygon in segmentation], height, width
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"a polygon holds what is no number: {repr(segmentation)[:80]}") from error
    return as_bytes(coco_mask.merge(parts) if len(parts) > 1 else parts[0])


def as_bytes(rle: dict[str, Any]) -> dict[str, Any]:
    """The same RLE with its counts as bytes, which is how pycocotools writes them."""
    counts = rle["counts"]
    return {"size": list(rle["size"]), "counts": counts.encode() if isinstance(counts, str) else counts}


def _compressed_rle(rle: dict[str, Any], size_wh: tuple[int, int]) -> dict[str, Any]:
    from faster_coco_eval.core import mask as coco_mask

    width, height = size_wh
    counts, size = rle.get("counts"), rle.get("size")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise ValueError(f"a mask of size {size} is in an image of height and width {[height, width]}")
    if isinstance(counts, str | bytes):
        num_pixels = _num_pixels(counts)
        encoded = as_bytes(rle)
    elif isinstance(counts, list | tuple) and all(isinstance(run, int) and run >= 0 for run in counts):
        num_pixels = sum(counts)
        encoded = as_bytes(coco_mask.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width))
    else:
        raise ValueError(f"the counts of a mask are neither text nor a list of runs: {repr(counts)[:80]}")
    if num_pixels != width * height:
        raise ValueError(f"a mask of {num_pixels} pixels is in an image of {width * height}")
    return encoded


def _num_pixels(counts: str | bytes) -> int:
    """The sum of all runs of a compressed RLE: the library reads beyond the image where it is too large.

    Five bits a character from 48 on, the low ones first; bit 5 says that more follow. From the third run on the
    difference to the run before the last is written.

    Source:
        `rleFrString` of pycocotools' maskApi.c.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in counts.encode() if isinstance(counts, str) else counts:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value |= -1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value, shift = 0, 0
    return sum(runs)
