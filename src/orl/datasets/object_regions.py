"""Where the objects of labelled images lie, pixel by pixel: by masks where these are known, else by boxes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy import ndarray
from PIL import Image

from orl.datasets.coco import CocoContent, has_labels, read_coco_content
from orl.datasets.labels import LabelledSplit
from orl.datasets.masks import decode_masks
from orl.datasets.sources import read_labels

BACKGROUND, OBJECT, UNKNOWN = 0, 1, 255
"""The value of a pixel; unknown are the borders between objects in VOC's masks, which no score counts."""
MASKS = "SegmentationObject"
RegionKind = Literal["masks", "boxes"]
SizeWh = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ObjectRegions:
    """The images of a source whose objects are known."""

    kind: RegionKind
    """What the regions are made from."""
    readers: Mapping[str, Callable[[SizeWh], UInt8[ndarray, "_ _"]]]
    """Name of each image with an object -> what makes its region."""

    def __contains__(self, name: str) -> bool:
        return name in self.readers

    def region(self, name: str, size_wh: SizeWh) -> UInt8[ndarray, "h w"]:
        """All objects of an image together: `OBJECT` where any of them is.

        Args:
            name: the image's, as in the source.
            size_wh: width and height of its pixels.

        Raises:
            KeyError: if no object of the image is known.
            ValueError: if its masks are of another size, or damaged.
        """
        region = self.readers[name](size_wh)
        if region.shape[::-1] != size_wh:
            raise ValueError(
                f"the masks of {name} are of {region.shape[1]}x{region.shape[0]} pixels, and the image has "
                f"{size_wh[0]}x{size_wh[1]}; score against its boxes, or repair them"
            )
        return region


def read_object_regions(source: Path, split: str | None = None, kind: RegionKind | None = None) -> ObjectRegions | None:
    """The objects of a VOC devkit, a drawn set or a COCO JSON; all of them count, also difficult ones and crowds.

    Args:
        source: as `orl.datasets.sources.find_images` takes it.
        split: of a VOC devkit.
        kind: what the regions are made from; masks if not given, where any image has them, else boxes. Images without
            what they are made from are left out: of a VOC devkit few have masks.

    Returns:
        None for a source without labels, or where no object of this kind is known.

    Raises:
        FileNotFoundError: if the source is not there.
        ValueError: if its labels are damaged, or it has no such split.
    """
    if kind == "boxes":
        return _regions("boxes", _box_readers(read_labels(source, split)))
    found = _regions("masks", _mask_readers(source, split))
    return found if found or kind == "masks" else read_object_regions(source, split, "boxes")


def box_region(boxes: Shaped[ndarray, "b 4"], size_wh: SizeWh) -> UInt8[ndarray, "h w"]:
    """The pixels inside any of some boxes, which are rounded to whole pixels."""
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
    """Of the images with objects that all have a mask; a box in the place of one would be another kind of region."""
    return {
        name: partial(_coco_region, annotations)
        for name, annotations in zip(content.names, content.annotations)
        if annotations and all(annotation.get("segmentation") for annotation in annotations)
    }


def _coco_region(annotations: list[dict[str, Any]], size_wh: SizeWh) -> UInt8[ndarray, "h w"]:
    masks = decode_masks([annotation["segmentation"] for annotation in annotations], size_wh)
    return np.where(masks.any(axis=0), OBJECT, BACKGROUND).astype(np.uint8)


def _numbered_region(file: Path, _: SizeWh) -> UInt8[ndarray, "_ _"]:
    """Of a file with the number of the object at each pixel, and 255 where VOC does not say."""
    try:
        with Image.open(file) as image:
            numbers = np.asarray(image)
    except OSError as error:
        raise ValueError(f"the mask {file} cannot be read: {error}; delete it, or score against boxes") from error
    if numbers.ndim != 2 or numbers.dtype != np.uint8:
        raise ValueError(f"the mask {file} has {image.mode} pixels, not one number of 8 bits each; score against boxes")
    return np.where(numbers == UNKNOWN, UNKNOWN, np.where(numbers > 0, OBJECT, BACKGROUND)).astype(np.uint8)
