"""Semantic masks, the class of every pixel: of VOC devkits, synthetic scenes, COCO, or folders of class-index PNGs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from orl.datasets.class_lists import require_images
from orl.datasets.coco import read_coco_content
from orl.datasets.decode import ImageError, load_image, opened_image
from orl.datasets.image_names import is_image_name
from orl.datasets.labelled_fingerprint import labelled_fingerprint
from orl.datasets.masks import decode_masks
from orl.datasets.object_regions import MASKS
from orl.datasets.voc import read_voc, voc_folder
from orl.files import regular_file
from orl.progress import progress_bar

VOID = 255
"""Value of pixels without a label, which scores ignore."""
BACKGROUND_CLASS = "background"
MAX_CLASSES = 255
CLASS_MASKS = "SegmentationClass"
LIST_OF_CLASSES = "classes.txt"

MaskReader = Callable[[], UInt8[ndarray, "h w"]]


@dataclass(frozen=True, kw_only=True)
class SemanticMasks:
    """The images of one split, with the class of every pixel."""

    split: str
    root: Path
    """Folder that the names start from."""
    names: tuple[str, ...]
    """Path of each image below the root, with forward slashes; sorted, unique."""
    classes: tuple[str, ...]
    """Name of each class; the first is the background, where the data set has one."""
    readers: tuple[MaskReader, ...]
    """Function that reads the mask of each image; use `mask`, which checks it."""
    mask_files: tuple[Path, ...]
    """File of each mask, or the annotations that all masks come from."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file of each image."""
        return tuple(self.root / name for name in self.names)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the images and masks, by name and file size; see `labelled_fingerprint`."""
        sizes = np.array([path.stat().st_size for path in self.mask_files], dtype=np.int64)
        return labelled_fingerprint(self.root, self.names, self.classes, [sizes])

    def mask(self, row: int, size_wh: tuple[int, int]) -> UInt8[ndarray, "h w"]:
        """Read the class of each pixel: an index into `classes`, or `VOID`.

        Args:
            row: row of the image.
            size_wh: width and height of the image.

        Raises:
            ValueError: if the mask is damaged, of another size, or has a value that is no class.
        """
        mask = self.readers[row]()
        if mask.shape[::-1] != size_wh:
            raise ValueError(
                f"the mask of {self.names[row]} must have the {size_wh[0]}x{size_wh[1]} px of the image, got "
                f"{mask.shape[1]}x{mask.shape[0]} px; resize it by nearest neighbour, or leave the image out"
            )
        values = np.unique(mask)
        unknown = values[(values >= len(self.classes)) & (values != VOID)]
        if len(unknown):
            raise ValueError(
                f"the mask of {self.names[row]} has the value {unknown[0]}, but there are {len(self.classes)} classes "
                f"(0 to {len(self.classes) - 1}) and {VOID} for void; correct it, or name the void value with --void"
            )
        return mask

    def select(self, rows: Sequence[int]) -> "SemanticMasks":
        """Return the images of some rows."""
        return replace(
            self,
            names=tuple(self.names[row] for row in rows),
            readers=tuple(self.readers[row] for row in rows),
            mask_files=tuple(self.mask_files[row] for row in rows),
        )

    def check(self, quiet: bool = False) -> None:
        """Read every mask once, and the size of its image, before a long computation.

        Raises:
            ValueError: if a mask does not fit its image or has an unknown value, or no pixel has a label.
        """
        has_label = False
        rows = range(len(self))
        with progress_bar(
            rows, total=len(self), title=f"check masks of {self.split}", unit="images", quiet=quiet
        ) as bar:
            for row in bar:
                height, width = load_image(self.paths[row]).shape[:2]
                has_label |= bool((self.mask(row, (width, height)) != VOID).any())
        if not has_label:
            raise ValueError(f"no pixel of the {len(self)} masks of {self.split!r} has a label; give other masks")


def read_semantic_masks(
    source: Path, split: str | None, *, train: bool, void: int | None = None
) -> SemanticMasks | None:
    """Read the masks of one split; no image is opened.

    Args:
        source: VOC devkit with `SegmentationClass`, synthetic scenes, folder of COCO with
            `annotations/instances_<split>.json`, or a folder with `images/<split>/` and `masks/<split>/`: a PNG of
            class indices for each image, and class names in `classes.txt`, one a line, if they are known.
        split: name of the split; None for the layout's own of training or test.
        train: whether to take the split of training where none is given.
        void: value of class-index PNGs that is ignored, beside 255.

    Returns:
        The masks; None if the source has none.

    Raises:
        FileNotFoundError: if the source does not exist.
        ValueError: if the labels are damaged, or there is no such split.
    """
    if not source.exists():
        raise FileNotFoundError(f"no data set at {source}: there is no such folder")
    if (source / "masks").is_dir() and (source / "images").is_dir():
        return _read_index_folders(source, split, train, void)
    if void is not None:
        raise ValueError(f"--void is for folders with images/ and masks/, and {source} is none; leave it out")
    if (folder := voc_folder(source)) is not None:
        return _read_voc(folder, split, train)
    if (source / "annotations").is_dir():
        return _read_coco(source, split or ("train2017" if train else "val2017"))
    return None


def _read_voc(folder: Path, split: str | None, train: bool) -> SemanticMasks | None:
    """Read the masks of classes, or those of objects with the classes of the annotations, which scenes have."""
    if not (folder / CLASS_MASKS).is_dir():
        return _read_scenes(folder, split or ("trainval" if train else "test")) if (folder / MASKS).is_dir() else None
    split = split or ("train" if train else "val")
    path = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not path.is_file():
        raise ValueError(f"{folder} has no list {path.relative_to(folder)} of images with masks; give another split")
    names = [f"JPEGImages/{line.strip()}.jpg" for line in regular_file(path).read_text().splitlines() if line.strip()]
    masks = [folder / CLASS_MASKS / f"{Path(name).stem}.png" for name in names]
    classes = (BACKGROUND_CLASS, *VOC_CLASSES)
    return _masks(folder, split, names, classes, [partial(_read_index_mask, mask) for mask in masks], masks)


VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Classes of VOC in the order of the values of its masks."""


def _read_scenes(folder: Path, split: str) -> SemanticMasks | None:
    labels = read_voc(folder, split)
    masks = [folder / MASKS / f"{Path(name).stem}.png" for name in labels.names]
    found = [row for row, mask in enumerate(masks) if mask.is_file()]
    if not found:
        return None
    if len(found) < len(masks):
        missing = next(mask for mask in masks if not mask.is_file())
        raise ValueError(f"{len(masks) - len(found)} of {len(masks)} masks of {split!r} are missing, such as {missing}")
    readers = [
        partial(_read_object_mask, mask, tuple((own + 1).tolist())) for mask, own in zip(masks, labels.box_classes)
    ]
    return _masks(folder, split, labels.names, (BACKGROUND_CLASS, *labels.classes), readers, masks)


def _read_coco(source: Path, split: str) -> SemanticMasks:
    path = source / "annotations" / f"instances_{split}.json"
    if not path.is_file():
        raise ValueError(f"{source} has no {path.relative_to(source)}; give another split")
    content = read_coco_content(path)
    columns = content.columns
    readers = [partial(_draw_coco_mask, image, own, columns) for image, own in zip(content.images, content.annotations)]
    classes = (BACKGROUND_CLASS, *content.classes)
    return _masks(content.root, split, content.names, classes, readers, [path] * len(readers))


def _read_index_folders(source: Path, split: str | None, train: bool, void: int | None) -> SemanticMasks:
    split = split or ("train" if train else "test" if (source / "images" / "test").is_dir() else "val")
    images, folder = source / "images" / split, source / "masks" / split
    for each in (images, folder):
        if not each.is_dir():
            raise ValueError(f"{source} has no split {split!r}: there is no folder {each}; give another split")
    names = sorted(path.relative_to(images).as_posix() for path in images.rglob("*") if is_image_name(path.name))
    masks = [folder / Path(name).with_suffix(".png") for name in names]
    missing = [mask for mask in masks if not mask.is_file()]
    if missing or not names:
        raise ValueError(
            f"{len(missing)} of {len(names)} images of {images} have no mask in {folder}, such as "
            f"{missing[0].name if missing else 'any'}; add them, or remove the images"
        )
    listed = source / LIST_OF_CLASSES
    if listed.is_file():
        classes = tuple(line.strip() for line in regular_file(listed).read_text().splitlines() if line.strip())
    else:
        classes = tuple(str(value) for value in range(_num_values(masks, void)))
    readers = [partial(_read_index_mask, mask, void) for mask in masks]
    return _masks(images, split, names, classes, readers, masks)


def _num_values(masks: Sequence[Path], void: int | None) -> int:
    """Return one more than the highest class index of all masks."""
    return 1 + max(int(each[each != VOID].max(initial=0)) for each in (_read_index_mask(m, void) for m in masks))


def _masks(
    root: Path,
    split: str,
    names: Sequence[str],
    classes: tuple[str, ...],
    readers: Sequence[MaskReader],
    files: Sequence[Path],
) -> SemanticMasks:
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise ValueError(f"masks need 2 to {MAX_CLASSES} classes, got {len(classes)} in {root}")
    require_images(root, tuple(names), f"split {split!r} of {root}")
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ValueError(f"{len(missing)} masks of split {split!r} are missing, such as {missing[0]}")
    order = sorted(range(len(names)), key=lambda row: names[row])
    return SemanticMasks(
        split=split,
        root=root,
        names=tuple(names[row] for row in order),
        classes=classes,
        readers=tuple(readers[row] for row in order),
        mask_files=tuple(files[row] for row in order),
    )


def _read_index_mask(file: Path, void: int | None = None) -> UInt8[ndarray, "_ _"]:
    """Read a PNG of class indices, with or without a palette."""
    try:
        with opened_image(file) as image:
            mode, mask = image.mode, np.asarray(image)
    except ImageError as error:
        raise ValueError(
            f"the mask {file} cannot be read: {error.reason}; repair it, or leave its image out"
        ) from error
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError(f"the mask {file} must be a PNG of 8-bit class indices, got mode {mode}; convert it")
    return mask if void is None else np.where(mask == void, np.uint8(VOID), mask)


def _read_object_mask(file: Path, classes: tuple[int, ...]) -> UInt8[ndarray, "_ _"]:
    """Replace the number of each object by its class; numbers are in the order of the annotation."""
    numbers = _read_index_mask(file)
    found = [value for value in np.unique(numbers).tolist() if value not in (0, VOID)]
    if len(found) != len(classes):
        raise ValueError(
            f"the mask {file} has {len(found)} objects, but its annotation has {len(classes)}; draw the scenes again"
        )
    lookup = np.full(256, VOID, dtype=np.uint8)
    lookup[0] = 0
    lookup[found] = classes
    return lookup[numbers]


def _draw_coco_mask(image: dict[str, Any], annotations: list[dict[str, Any]], columns: dict[Any, int]) -> ndarray:
    """Draw all instances, the smaller ones over the larger ones; crowds are void where no instance is."""
    size_wh = (int(image["width"]), int(image["height"]))
    drawn = np.zeros(size_wh[::-1], dtype=np.uint8)
    order = sorted(annotations, key=lambda each: (not each.get("iscrowd", 0), -float(each.get("area", 0))))
    masks = decode_masks([each["segmentation"] for each in order], size_wh)
    for each, mask in zip(order, masks):
        drawn[mask] = VOID if each.get("iscrowd", 0) else columns[each["category_id"]] + 1
    return drawn
