"""Reader of PASCAL VOC devkits: lists of images, lists of labels and XML annotations."""

import difflib
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int8
from numpy import ndarray

from orl import boxes
from orl.datasets.image_names import is_image_name
from orl.datasets.labels import ABSENT, IGNORED, PRESENT, LabelledSplit, without_odd_boxes
from orl.files import regular_file

IMAGES_FOLDER = "JPEGImages"
LISTS_FOLDER = Path("ImageSets") / "Main"
LABEL = re.compile(r"(.*\S)\s+(-1|0|1)")
"""Line 'image_id label' of a class list; an id may have blanks."""
NOT_HIDDEN = "[!.]*"
"""Pattern of file names without the `._` files that macOS writes."""


@dataclass(frozen=True)
class VocObject:
    """One object of an annotation; its box is xyxy, counted from 0, right and bottom exclusive."""

    class_name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class VocAnnotation:
    """One XML file: the objects of an image, and its size, None if it is missing or no size."""

    objects: tuple[VocObject, ...]
    size_wh: tuple[int, int] | None


def voc_folder(path: Path) -> Path | None:
    """Find the folder with JPEGImages and ImageSets/Main.

    Args:
        path: the folder itself, a VOCdevkit with one VOC20xx, or the folder above a VOCdevkit.

    Returns:
        The folder, or None if there is no devkit.

    Raises:
        ValueError: if there are several VOC20xx folders.
    """
    years = [path, *sorted(path.glob("VOC20??")), *sorted(path.glob("VOCdevkit/VOC20??"))]
    found = [folder for folder in years if (folder / IMAGES_FOLDER).is_dir() and (folder / LISTS_FOLDER).is_dir()]
    if len(found) > 1 and found[0] != path:
        names = ", ".join(folder.name for folder in found)
        raise ValueError(f"{path} has {len(found)} VOC folders ({names}); give the path of one, such as {found[0]}")
    return found[0] if found else None


def voc_image_names(root: Path, split: str) -> list[str]:
    """List the images of a split as paths below the devkit's folder (`voc_folder`), sorted.

    An image that is listed but missing gets the extension .jpg. Of several images with one id the .jpg is taken.

    Raises:
        ValueError: if there is no devkit, no such split, or no image in the split.
    """
    folder = _require_folder(root)
    files = _image_files(folder)
    return [_image_name(image_id, files) for image_id in _image_ids(folder, split, files)]


def read_voc(root: Path, split: str) -> LabelledSplit:
    """Read the labels and boxes of a split.

    The labels of a class come from its list `ImageSets/Main/<class>_<split>.txt`, or without a list from the objects of
    the annotations. The XML counts pixels from 1 and includes the last one; a box becomes
    (xmin - 1, ymin - 1, xmax, ymax).

    Args:
        root: a path that `voc_folder` accepts.
        split: name of the split, such as 'trainval' or 'test'.

    Raises:
        ValueError: if there is no devkit or no such split, or a list or an annotation is damaged.
    """
    folder = _require_folder(root)
    files = _image_files(folder)
    image_ids = _image_ids(folder, split, files)
    annotations = [_read_annotation(folder, image_id) for image_id in image_ids]
    objects = [None if each is None else each.objects for each in annotations]
    listed = _class_lists(folder, files)[split]
    classes = _class_names(folder, listed, objects)
    labels = np.full((len(image_ids), len(classes)), ABSENT, dtype=np.int8)
    for column, class_name in enumerate(classes):
        if class_name in listed:
            labels[:, column] = _listed_labels(listed[class_name], image_ids)
        else:
            labels[:, column] = _derived_labels(class_name, image_ids, objects)
    found = LabelledSplit(
        root=folder,
        names=tuple(_image_name(image_id, files) for image_id in image_ids),
        classes=tuple(classes),
        labels=labels,
        boxes=tuple(np.array([o.box for o in each or []], dtype=np.float32).reshape(-1, 4) for each in objects),
        box_classes=tuple(
            np.array([classes.index(o.class_name) for o in each or []], dtype=np.int64) for each in objects
        ),
        box_difficult=tuple(np.array([o.difficult for o in each or []], dtype=bool) for each in objects),
    )
    sizes_wh = [None if each is None else each.size_wh for each in annotations]
    return without_odd_boxes(found, sizes_wh, f"split {split!r} of {folder}")


def read_voc_sizes(split: LabelledSplit) -> list[tuple[int, int]]:
    """Read the width and height of each image of a split from its annotation.

    Raises:
        ValueError: if an image has no annotation, or the annotation has no size.
    """
    return [_read_size(split.root / "Annotations" / f"{Path(name).stem}.xml") for name in split.names]


def _read_size(path: Path) -> tuple[int, int]:
    try:
        root = _parse(path)
        width, height = (int(_text(root, f"size/{side}")) for side in ("width", "height"))
        if min(width, height) < 1:
            raise ValueError(f"its size is {width}x{height} px")
        return width, height
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: a detector needs the boxes of every image; use another split") from error
    except (ET.ParseError, ValueError) as error:
        raise ValueError(f"{path} has no valid image size: {error}; repair or delete it") from error


def _require_folder(root: Path) -> Path:
    folder = voc_folder(root)
    if folder is None:
        raise ValueError(f"{root} is not a VOC devkit: it lacks {IMAGES_FOLDER} or {LISTS_FOLDER.as_posix()}")
    return folder


def _image_ids(folder: Path, split: str, files: Mapping[str, str]) -> list[str]:
    path = folder / LISTS_FOLDER / f"{split}.txt"
    splits = sorted(_class_lists(folder, files))
    if split not in splits:
        near = difflib.get_close_matches(split, splits, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{folder} has no split {split!r}, only {', '.join(splits) or 'none'}{hint}")
    image_ids = sorted({_image_id(line, files) for line in _read_lines(path)})
    if not image_ids:
        raise ValueError(f"{path} lists no image; choose another split")
    return image_ids


def _image_id(line: str, files: Mapping[str, str]) -> str:
    """Return the image id of a line of a split, which may end in a label."""
    labelled = None if line in files else LABEL.fullmatch(line)
    return labelled[1] if labelled and labelled[1] in files else line


def _class_lists(folder: Path, files: Mapping[str, str]) -> dict[str, dict[str, Path]]:
    """Return the lists of labels by class, for each split: 'train_trainval' is class 'train' of split 'trainval'.

    A list whose lines are image ids without labels is a split, whatever its name: 'my_trainval' beside 'trainval'.
    """
    paths = {path.stem: path for path in sorted((folder / LISTS_FOLDER).glob(f"{NOT_HIDDEN}.txt"))}
    lists: dict[str, dict[str, Path]] = {
        name: {}
        for name, path in paths.items()
        if not any(name.endswith(f"_{other}") for other in paths) or _first_line(path) in files
    }
    for name, path in paths.items():
        splits = [split for split in lists if name not in lists and name.endswith(f"_{split}")]
        if splits:
            split = max(splits, key=len)
            lists[split][name.removesuffix(f"_{split}")] = path
    return lists


def _first_line(path: Path) -> str:
    with open(regular_file(path), encoding="utf-8-sig", errors="replace") as lines:
        return next((line.strip() for line in lines if line.strip()), "")


def _image_files(folder: Path) -> dict[str, str]:
    """Return the file of each image id; of several a JPEG, as the devkit has."""
    names = [path.name for path in (folder / IMAGES_FOLDER).iterdir() if is_image_name(path.name)]
    return {Path(name).stem: name for name in sorted(names, key=lambda name: (name.lower().endswith(".jpg"), name))}


def _image_name(image_id: str, files: Mapping[str, str]) -> str:
    return f"{IMAGES_FOLDER}/{files.get(image_id, f'{image_id}.jpg')}"


def _class_names(folder: Path, listed: Mapping[str, Path], objects: Sequence[Sequence[VocObject] | None]) -> list[str]:
    """Return the classes of all lists, and of all annotations if lists are incomplete; equal for every split."""
    seen = {o.class_name for each in objects for o in each or []}
    if listed and seen <= set(listed):
        return sorted(listed)
    image_ids = [path.stem for path in (folder / "Annotations").glob(f"{NOT_HIDDEN}.xml")]
    annotations = [_read_annotation(folder, image_id) for image_id in image_ids]
    everywhere = {o.class_name for each in annotations if each for o in each.objects}
    if not listed and not everywhere:
        raise ValueError(
            f"{folder} has no labels: no class lists in {LISTS_FOLDER.as_posix()} and no objects in Annotations"
        )
    return sorted({*listed, *everywhere})


def _listed_labels(path: Path, image_ids: Sequence[str]) -> Int8[ndarray, "n"]:
    labels = {}
    for line in _read_lines(path):
        found = LABEL.fullmatch(line)
        if not found:
            raise ValueError(f"{path}: expected lines 'image_id label' with label 1, 0 or -1, got {line!r}")
        labels[found[1]] = int(found[2])
    missing = [image_id for image_id in image_ids if image_id not in labels]
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} images of its split, such as {missing[0]}; repair or delete it")
    return np.array([labels[image_id] for image_id in image_ids], dtype=np.int8)


def _derived_labels(
    class_name: str, image_ids: Sequence[str], objects: Sequence[Sequence[VocObject] | None]
) -> Int8[ndarray, "n"]:
    labels = []
    for image_id, found in zip(image_ids, objects):
        if found is None:
            raise ValueError(
                f"image {image_id} has no annotation, and class {class_name!r} has no list of labels; add one of them"
            )
        difficult = [o.difficult for o in found if o.class_name == class_name]
        labels.append(ABSENT if not difficult else IGNORED if all(difficult) else PRESENT)
    return np.array(labels, dtype=np.int8)


def _read_annotation(folder: Path, image_id: str) -> VocAnnotation | None:
    path = folder / "Annotations" / f"{image_id}.xml"
    try:
        root = _parse(path)
        objects = tuple(_read_object(element) for element in root.iter("object"))
    except FileNotFoundError:
        return None
    except (ET.ParseError, ValueError, OSError) as error:
        raise ValueError(f"{path} is not a VOC annotation: {error}; repair or delete it") from error
    sides = [root.findtext(f"size/{side}", "").strip() for side in ("width", "height")]
    is_size = all(side.isdecimal() and int(side) > 0 for side in sides)
    return VocAnnotation(objects, (int(sides[0]), int(sides[1])) if is_size else None)


def _parse(path: Path) -> ET.Element:
    """Parse an XML file; tags lose their namespace, which VOC does not have."""
    root = ET.parse(regular_file(path)).getroot()
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _read_object(element: ET.Element) -> VocObject:
    name = _text(element, "name").strip()
    xmin, ymin, xmax, ymax = (float(_text(element, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
    if boxes.is_faulty(np.array([[xmin, ymin, xmax, ymax]])).any():
        raise ValueError(
            f"the box of {name!r} has xmin {xmin:g}, ymin {ymin:g}, xmax {xmax:g}, ymax {ymax:g}, which cannot be"
        )
    difficult = (element.findtext("difficult") or "0").strip() == "1"
    return VocObject(name, (xmin - 1, ymin - 1, xmax, ymax), difficult)


def _text(element: ET.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"<{element.tag}> lacks <{path}>")
    return text


def _read_lines(path: Path) -> list[str]:
    regular_file(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except ValueError as error:
        raise ValueError(f"{path} is not a text file: {error}") from error
    return [line.strip() for line in lines if line.strip()]
