"""Object regions: the pixels of labelled images that show an object, from masks or from boxes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy import ndarray

from orl.datasets.coco import CocoContent, has_labels, read_coco_content
from orl.datasets.decode import ImageError, opened_image
from orl.datasets.labels import LabelledSplit
from orl.datasets.masks import decode_masks
from orl.datasets.sources import read_labels

BACKGROUND, OBJECT, UNKNOWN = 0, 1, 255
"""Values of a region's pixels; UNKNOWN are the borders between objects in VOC's masks, which scores ignore."""
MASKS = "SegmentationObject"
RegionKind = Literal["masks", "boxes"]
SizeWh = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ObjectRegions:
    """Object regions of the labelled images of a source."""

    kind: RegionKind
    """Source of the regions."""
    readers: Mapping[str, Callable[[SizeWh], UInt8[ndarray, "_ _"]]]
    """Function that reads the region of an image, by the name of each image with an object."""

    def __contains__(self, name: str) -> bool:
        return name in self.readers

    def region(self, name: str, size_wh: SizeWh) -> UInt8[ndarray, "h w"]:
        """Read the region of all objects of an image: `OBJECT` where any of them is.

        Args:
            name: name of the image in the source.
            size_wh: width and height of the image.

        Raises:
            KeyError: if the image has no labelled object.
            ValueError: if its masks are damaged or of another size.
        """
        region = self.readers[name](size_wh)
        if region.shape[::-1] != size_wh:
            raise ValueError(
                f"the masks of {name} must have the {size_wh[0]}x{size_wh[1]} px of the image, got "
                f"{region.shape[1]}x{region.shape[0]} px; score against its boxes, or repair the masks"
            )
        return region


def read_object_regions(source: Path, split: str | None = None, kind: RegionKind | None = None) -> ObjectRegions | None:
    """Read the object regions of a VOC devkit or a COCO JSON, difficult objects and crowds included.

    Args:
        source: path of the source; see `orl.datasets.sources.find_images`.
        split: split of a VOC devkit.
        kind: 'masks' or 'boxes'; None for masks if any image has them, else boxes. Images without masks (of a VOC
            devkit most) or without boxes are left out.

    Returns:
        The regions, or None for a source without labels or without any object of this kind.

    Raises:
        FileNotFoundError: if the source does not exist.
        ValueError: if the labels are damaged, or there is no such split.
    """
    if kind == "boxes":
        return _regions("boxes", _box_readers(read_labels(source, split)))
    found = _regions("masks", _mask_readers(source, split))
    return found if found or kind == "masks" else read_object_regions(source, split, "boxes")


def box_region(boxes: Shaped[ndarray, "b 4"], size_wh: SizeWh) -> UInt8[ndarray, "h w"]:
    """Return the region inside any of the boxes, which are rounded to integer pixels."""
    region = np.full(size_wh[::-1], BACKGROUND, dtype=np.uint8)
    for x0, y0, x1, y1 in np.round(boxes).astype(int).clip(min=0):
        region[y0:y1, x0:x1] = OBJECT
    return region


def _regions(kind: RegionKind, readers: Mapping[str, Callable[[SizeWh], ndarray]]) -> ObjectRegions | None:
    return ObjectRegions(kind=kind, readers=readers) if readers else None


def _box_readers(labels: LabelledSplit | None) -> dict[str, Callable[[SizeWh], ndarray]]:
    if labels is None:
        return {}
    return {name: partial(box_region, boxes) for name, boxes in zip(labels.names, labels.boxes) if len(boxes)}


def _mask_readers(source: Path, split: str | None) -> dict[str, Callable[[SizeWh], ndarray]]:
    if source.suffix.lower() == ".json":
        return _coco_readers(read_coco_content(source)) if has_labels(source) else {}
    labels = read_labels(source, split)
    if labels is None:
        return {}
    files = {name: labels.root / MASKS / f"{Path(name).stem}.png" for name in labels.names}
    return {name: partial(_numbered_region, file) for name, file in files.items() if file.is_file()}


def _coco_readers(content: CocoContent) -> dict[str, Callable[[SizeWh], ndarray]]:
    """Return readers for the images whose objects all have a mask; a box would be another kind of region."""
    return {
        name: partial(_coco_region, annotations)
        for name, annotations in zip(content.names, content.annotations)
        if annotations and all(annotation.get("segmentation") for annotation in annotations)
    }


def _coco_region(annotations: list[dict[str, Any]], size_wh: SizeWh) -> UInt8[ndarray, "h w"]:
    masks = decode_masks([annotation["segmentation"] for annotation in annotations], size_wh)
    return np.where(masks.any(axis=0), OBJECT, BACKGROUND).astype(np.uint8)


def _numbered_region(file: Path, _: SizeWh) -> UInt8[ndarray, "_ _"]:
    """Read a PNG with the number of the object at each pixel, and 255 for unknown pixels."""
    try:
        with opened_image(file) as image:
            numbers = np.asarray(image)
    except ImageError as error:
        raise ValueError(
            f"the mask {file} cannot be read: {error.reason}; delete it, or score against boxes"
        ) from error
    if numbers.ndim != 2 or numbers.dtype != np.uint8:
        raise ValueError(f"the mask {file} must have 8-bit object numbers, got mode {image.mode}; score against boxes")
    return np.where(numbers == UNKNOWN, UNKNOWN, np.where(numbers > 0, OBJECT, BACKGROUND)).astype(np.uint8)
