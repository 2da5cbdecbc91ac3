"""`orl data crops`: the labelled objects of a VOC devkit as images in class folders."""

import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray
from PIL import Image

from orl import files, provenance
from orl.datasets.class_lists import require_images
from orl.datasets.decode import ImageError, load_image
from orl.datasets.labelled_fingerprint import labelled_fingerprint
from orl.datasets.labels import LabelledSplit
from orl.datasets.voc import read_voc
from orl.progress import progress_bar
from orl.views.crops import round_to_pixels

logger = logging.getLogger(__name__)

SUMMARY = "crops.json"


@dataclass(frozen=True)
class _Crop:
    name: str
    """Path below the split's folder: `<class>/<image>_<number of the object>.png`."""
    box: Float32[ndarray, "4"]


def cut_objects(
    data: Path,
    out: Path,
    *,
    train_split: str = "trainval",
    val_split: str = "test",
    min_side_px: int = 24,
    margin: float = 0.0,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, int]:
    """Cut every object that is not difficult into folders that `read_classified(out, "folder", ...)` reads.

    A killed run resumes: finished crops are not cut again. A class without objects in one of the two splits is left out
    of both.

    Args:
        data: a VOC devkit, or synthetic scenes in its layout.
        out: new folder: `train/<class>/`, `val/<class>/` with PNG files, and `crops.json` with counts and unreadable
            images.
        train_split: the devkit's split that becomes 'train'.
        val_split: the devkit's split that becomes 'val'.
        min_side_px: smallest side of an object that is cut.
        margin: fraction of width and of height that is added on each side.
        overwrite: replace crops of other data or options.
        quiet: show no progress bar.

    Returns:
        Counts: `train`, `val`, `classes`, `unreadable`.

    Raises:
        ValueError: if the devkit is damaged or images are missing, fewer than two classes are left, an option is out of
            range, or the folder holds other files.
        StaleResultError: if the folder holds crops of other data or options.
    """
    if min_side_px < 1 or margin < 0:
        raise ValueError(f"min_side_px is {min_side_px} and margin {margin:g}; at least 1 and at least 0 are needed")
    if train_split == val_split:
        raise ValueError(f"train and val are both {train_split!r}; give two splits")
    splits = {"train": read_voc(data, train_split), "val": read_voc(data, val_split)}
    classes = _shared_classes(splits, min_side_px, data)
    inputs = {
        "images": [_fingerprint(split, labelled) for split, labelled in splits.items()],
        "splits": [train_split, val_split],
        "classes": classes,
    }
    provenance.claim(out, {**inputs, "min_side_px": min_side_px, "margin": margin}, overwrite)
    unreadable: dict[str, str] = {}
    counts = {"train": 0, "val": 0}
    with progress_bar(total=sum(map(len, splits.values())), title="cut objects", unit="images", quiet=quiet) as bar:
        for split, labelled in splits.items():
            for row, name in enumerate(labelled.names):
                try:
                    crops = _crops_of(labelled, row, min_side_px, classes)
                    counts[split] += _cut(labelled.root / name, crops, out / split, margin)
                except ImageError as error:
                    unreadable[name] = error.reason
                bar.update()
    summary = {**counts, "classes": len(classes), "unreadable": len(unreadable)}
    files.write_atomically(out / SUMMARY, json.dumps({**summary, "unreadable_images": unreadable}, indent=1))
    if unreadable:
        logger.warning("%d images cannot be read, their objects are left out: see %s", len(unreadable), out / SUMMARY)
    return summary


def _fingerprint(split: str, labelled: LabelledSplit) -> str:
    require_images(labelled.root, labelled.names, f"the split for {split!r} of {labelled.root}")
    annotations = (*labelled.boxes, *labelled.box_classes, *labelled.box_difficult)
    return labelled_fingerprint(labelled.root, labelled.names, labelled.classes, annotations)


def _shared_classes(splits: dict[str, LabelledSplit], min_side_px: int, data: Path) -> list[str]:
    present = [_present_classes(labelled, min_side_px) for labelled in splits.values()]
    shared, all_classes = sorted(present[0] & present[1]), sorted(present[0] | present[1])
    if len(shared) < 2:
        raise ValueError(
            f"{data} has objects of at least {min_side_px} px in both splits of {len(shared)} classes only {shared}; "
            "two are needed"
        )
    if shared != all_classes:
        logger.warning("left out, without an object in one of the splits: %s", sorted(set(all_classes) - set(shared)))
    return shared


def _present_classes(labelled: LabelledSplit, min_side_px: int) -> set[str]:
    rows = range(len(labelled))
    return {labelled.classes[c] for row in rows for c in labelled.box_classes[row][_is_cut(labelled, row, min_side_px)]}


def _is_cut(labelled: LabelledSplit, row: int, min_side_px: int) -> Bool[ndarray, "_"]:
    boxes = labelled.boxes[row]
    return ((boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= min_side_px) & ~labelled.box_difficult[row]


def _crops_of(labelled: LabelledSplit, row: int, min_side_px: int, classes: Sequence[str]) -> list[_Crop]:
    crops = []
    for number in np.flatnonzero(_is_cut(labelled, row, min_side_px)).tolist():
        class_name = labelled.classes[labelled.box_classes[row][number]]
        if class_name in classes:
            name = f"{class_name}/{Path(labelled.names[row]).stem}_{number}.png"
            crops.append(_Crop(name, labelled.boxes[row][number]))
    return crops


def _cut(path: Path, crops: Sequence[_Crop], folder: Path, margin: float) -> int:
    if all((folder / crop.name).exists() for crop in crops):
        return len(crops)
    image = load_image(path)
    # All crops are cut before one is written: an object outside its image rejects all crops of that image.
    pngs = [_png(_pixels(path, image, widen(crop.box, margin))) for crop in crops]
    for crop, png in zip(crops, pngs):
        files.write_atomically(folder / crop.name, png)
    return len(crops)


def widen(box: Float[ndarray, "4"], margin: float) -> Float[ndarray, "4"]:
    """Add a fraction of its width and height to each side of a box."""
    sides = np.tile(box[2:] - box[:2], 2)
    return (box + sides * np.array([-margin, -margin, margin, margin])).astype(np.float32)


def _pixels(path: Path, image: UInt8[ndarray, "h w 3"], box: Float[ndarray, "4"]) -> UInt8[ndarray, "_ _ 3"]:
    try:
        left, top, right, bottom = round_to_pixels(box, (image.shape[1], image.shape[0]))
    except ValueError as error:
        raise ImageError(path, str(error)) from error
    return image[top:bottom, left:right]


def _png(pixels: UInt8[ndarray, "h w 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()
