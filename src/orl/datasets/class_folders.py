"""Readers of classification data sets: ImageNet, Places205, iNaturalist 2018, and any folders of classes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from orl.datasets.class_lists import Entry, check_classes, folder_classes, has_numbers, listed_images, read_list
from orl.datasets.classified import ClassifiedImages, check_train_val
from orl.datasets.image_names import is_counted_folder
from orl.datasets.inaturalist import read_inaturalist
from orl.datasets.sources import find_images

ClassifiedDataset = Literal["imagenet", "places205", "inat18", "folder"]
ClassifiedSplit = Literal["train", "val"]

PLACES_LISTS = ("trainvalsplit_places205", "trainvalsplit_places205/trainvalsplit_places205", ".")
PLACES_IMAGES = ("data/vision/torralba/deeplearning/images256", "images256", "images")


def read_classified(root: Path, dataset: ClassifiedDataset, split: ClassifiedSplit) -> ClassifiedImages:
    """Read one split of a data set, and check that all its images exist; no image is opened.

    Args:
        root: folder of the data set.
        dataset: layout of the data set. 'folder': `<split>/<class>/` with images at any depth. 'imagenet': a list
            `meta/<split>_labeled.txt`, `meta/<split>.txt` or `<split>.txt` with lines 'name class_number' below
            `<split>/`, or without a list as 'folder'. 'places205': `trainvalsplit_places205/<split>_places205.csv`,
            images below `data/vision/torralba/deeplearning/images256/` or `images256/`. 'inat18': `<split>2018.json`,
            images below the root.
        split: 'train' or 'val'.

    Raises:
        FileNotFoundError: if the folder or the list does not exist.
        ValueError: if a line, class or name is wrong, an image is missing, or there are fewer than two classes.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no data set at {root}: there is no such folder")
    if dataset == "places205":
        return _read_places(root, split)
    if dataset == "inat18":
        return read_inaturalist(root, split)
    if dataset == "imagenet" and (path := _imagenet_list(root, split)) is not None:
        return _read_imagenet_list(root, split, path)
    return _read_folders(root, split)


def read_train_val(root: Path, dataset: ClassifiedDataset) -> tuple[ClassifiedImages, ClassifiedImages]:
    """Read the splits train and val of a data set, and check that they fit together.

    Raises:
        FileNotFoundError: if a folder or list does not exist.
        ValueError: if a split is damaged, the classes differ, or an image is in both splits.
    """
    train, val = read_classified(root, dataset, "train"), read_classified(root, dataset, "val")
    check_train_val(train, val)
    return train, val


def _read_folders(root: Path, split: str) -> ClassifiedImages:
    folder, names = find_images(root / split)
    loose = [name for name in names if "/" not in name]
    if loose:
        raise ValueError(
            f"{len(loose)} images are in {folder} itself and not in a class folder, such as {loose[0]}; move them into "
            f"class folders, or for ImageNet add meta/{split}.txt with lines 'name class_number'"
        )
    classes = class_folders(folder)
    columns = {name: column for column, name in enumerate(classes)}
    labels = np.array([columns[name.split("/", 1)[0]] for name in names], dtype=np.int64)
    empty = [classes[column] for column in np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)]
    if empty:
        raise ValueError(
            f"{len(empty)} class folders of {folder} have no image, such as {empty[0]!r}; fill or delete it"
        )
    check_classes(classes, labels, folder)
    return ClassifiedImages(root=folder, split=split, classes=classes, names=tuple(names), labels=labels)


def class_folders(folder: Path) -> tuple[str, ...]:
    """List the class folders below a folder, sorted, without hidden folders and folders of thumbnails."""
    with os.scandir(folder) as found:
        return tuple(sorted(entry.name for entry in found if entry.is_dir() and is_counted_folder(entry.name)))


def _imagenet_list(root: Path, split: str) -> Path | None:
    """Find the list with class numbers; OpenSelfSup's meta/train.txt has names only, meta/train_labeled.txt both."""
    paths = [root / "meta" / f"{split}_labeled.txt", root / "meta" / f"{split}.txt", root / f"{split}.txt"]
    return next((path for path in paths if path.is_file() and has_numbers(path)), None)


def _read_imagenet_list(root: Path, split: str, path: Path) -> ClassifiedImages:
    """Read an ImageNet list; the published val list has no class folders, but many copies of val have them."""
    entries, folder = read_list(path), root / split
    classes = _imagenet_classes(root)
    if classes and (folder / classes[0]).is_dir():
        entries = [_in_its_folder(entry, classes) for entry in entries]
    _check_folders(entries, classes, path)
    return listed_images(folder, split, classes, entries, path)


def _imagenet_classes(root: Path) -> tuple[str, ...]:
    """Return the class folders in the order of train's list, or without such a list the sorted folders of train."""
    path = _imagenet_list(root, "train")
    entries = [] if path is None else read_list(path)
    if path is not None and any("/" in entry.name for entry in entries):
        return folder_classes(entries, path)
    if not (root / "train").is_dir():
        raise FileNotFoundError(
            f"no class names in {root}: there is neither a meta/train.txt with folders nor a folder train"
        )
    return class_folders(root / "train")


def _in_its_folder(entry: Entry, classes: Sequence[str]) -> Entry:
    if "/" in entry.name or not 0 <= entry.label < len(classes):
        return entry
    return entry._replace(name=f"{classes[entry.label]}/{entry.name}")


def _check_folders(entries: Sequence[Entry], classes: Sequence[str], path: Path) -> None:
    """Check that both lists number the classes alike: another order would silently spoil every score."""
    for where, name, label in entries:
        folder = name.rpartition("/")[0]
        if folder and label < len(classes) and folder != classes[label]:
            raise ValueError(
                f"{path}, {where}: {name} has class {label}, but class {label} is {classes[label]!r} in train"
            )


def _read_places(root: Path, split: str) -> ClassifiedImages:
    train_list, path = (_first_file(root, PLACES_LISTS, f"{name}_places205.csv") for name in ("train", split))
    train_entries = read_list(train_list)
    classes = folder_classes(train_entries, train_list)
    entries = train_entries if split == "train" else read_list(path)
    _check_folders(entries, classes, path)
    images = next((root / folder for folder in PLACES_IMAGES if (root / folder).is_dir()), None)
    if images is None:
        raise FileNotFoundError(f"no images of Places205 in {root}: looked for {', '.join(PLACES_IMAGES)}")
    return listed_images(images, split, classes, entries, path)


def _first_file(root: Path, folders: Sequence[str], name: str) -> Path:
    paths = [root / folder / name for folder in folders]
    for path in paths:
        if path.is_file():
            return path
    raise FileNotFoundError(f"no {name} in {root}: looked in {', '.join(folders)}")
