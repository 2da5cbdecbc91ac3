"""Conversion of masks between COCO's three formats (polygons, RLE, compressed RLE) and bitmaps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from numpy import ndarray

from orl import boxes
from orl.boxes import LARGEST_COORDINATE_PX

MIN_POLYGON_NUMBERS = 6
"""Length of the smallest polygon: x and y of three corners."""


def encode_masks(masks: Bool[ndarray, "n h w"] | UInt8[ndarray, "n h w"]) -> list[dict[str, Any]]:
    """Encode each bitmap as compressed RLE: `{"size": [h, w], "counts": bytes}`."""
    from faster_coco_eval.core import mask as coco_mask

    if not len(masks):
        return []
    rles: list[dict[str, Any]] = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    return [rle_with_bytes(rle) for rle in rles]


def decode_masks(segmentations: Sequence[object], size_wh: tuple[int, int]) -> Bool[ndarray, "n h w"]:
    """Decode the masks of objects to bitmaps.

    Args:
        segmentations: a list of polygons, an uncompressed RLE or a compressed RLE for each object.
        size_wh: width and height of the image.

    Raises:
        ValueError: if a mask has another format or size.
    """
    from faster_coco_eval.core import mask as coco_mask

    rles = [compress_mask(segmentation, size_wh) for segmentation in segmentations]
    if not rles:
        return np.zeros((0, size_wh[1], size_wh[0]), dtype=bool)
    return np.ascontiguousarray(np.asarray(coco_mask.decode(rles)).transpose(2, 0, 1)).astype(bool)


def compress_mask(segmentation: object, size_wh: tuple[int, int]) -> dict[str, Any]:
    """Convert the mask of an object to compressed RLE; several polygons form one object.

    Args:
        segmentation: a list of polygons `[x, y, x, y, ...]`, or an RLE whose counts are a list, text or bytes.
        size_wh: width and height of the image.

    Raises:
        ValueError: if the mask has another format, or an RLE has another size or number of pixels than the image.
    """
    from faster_coco_eval.core import mask as coco_mask

    width, height = size_wh
    if isinstance(segmentation, dict):
        return _compressed_rle(segmentation, size_wh)
    if not isinstance(segmentation, list | tuple) or not segmentation:
        raise ValueError(f"a mask must be a list of polygons or an RLE, got {repr(segmentation)[:80]}")
    for polygon in segmentation:
        if not isinstance(polygon, list | tuple) or len(polygon) < MIN_POLYGON_NUMBERS or len(polygon) % 2:
            raise ValueError(f"a polygon needs x and y of at least three corners, got {repr(polygon)[:80]}")
    try:
        polygons = [[float(number) for number in polygon] for polygon in segmentation]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"a polygon must contain numbers only, got {repr(segmentation)[:80]}") from error
    # The library reserves memory along the outline, and converts NaN to any integer.
    if not all(abs(number) <= LARGEST_COORDINATE_PX for polygon in polygons for number in polygon):
        raise ValueError(f"a polygon must be near its image, got {repr(segmentation)[:80]}")
    parts = coco_mask.frPyObjects(polygons, height, width)
    return rle_with_bytes(coco_mask.merge(parts) if len(parts) > 1 else parts[0])


def box_of_mask(rle: dict[str, Any]) -> Float32[ndarray, "4"]:
    """Return the smallest box `xyxy` around the pixels of a compressed RLE; empty at the origin if there are none."""
    from faster_coco_eval.core import mask as coco_mask

    return boxes.from_xywh(np.asarray(coco_mask.toBbox([rle]))[0])


def rle_with_bytes(rle: dict[str, Any]) -> dict[str, Any]:
    """Return the RLE with its counts as bytes, the format of pycocotools."""
    counts = rle["counts"]
    return {"size": list(rle["size"]), "counts": counts.encode() if isinstance(counts, str) else counts}


def _compressed_rle(rle: dict[str, Any], size_wh: tuple[int, int]) -> dict[str, Any]:
    from faster_coco_eval.core import mask as coco_mask

    width, height = size_wh
    counts, size = rle.get("counts"), rle.get("size")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise ValueError(f"a mask must have the height and width {[height, width]} of its image, got {size}")
    if isinstance(counts, str | bytes):
        num_pixels = _num_pixels(counts)
        encoded = rle_with_bytes(rle)
    elif isinstance(counts, list | tuple) and all(isinstance(run, int) and run >= 0 for run in counts):
        num_pixels = sum(counts)
        uncompressed = {"size": [height, width], "counts": list(counts)}
        encoded = rle_with_bytes(coco_mask.frPyObjects(uncompressed, height, width))
    else:
        raise ValueError(f"the counts of a mask must be text or a list of runs, got {repr(counts)[:80]}")
    if num_pixels != width * height:
        raise ValueError(f"a mask must have the {width * height} pixels of its image, got {num_pixels}")
    return encoded


def _num_pixels(counts: str | bytes) -> int:
    """Sum the runs of a compressed RLE; the library would read beyond the image if the sum is too large.

    Each character minus 48 has five bits, the low ones first; bit 5 is set if more follow. From the third run on, the
    difference to the run before the previous one is stored.

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
