"""Lists of images with one class each: all lines and files are checked before any image is opened."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from orl.datasets.classified import ClassifiedImages
from orl.datasets.image_names import split_label, with_slashes
from orl.files import regular_file


class Entry(NamedTuple):
    """One line of a list: an image and its class."""

    where: str
    """Position in the list for error messages, such as 'line 3'."""
    name: str
    """Path below the images' folder."""
    label: int


def read_list(path: Path) -> list[Entry]:
    """Read a list of lines 'name label' or 'name,label'; a name may contain blanks, and be in quotes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not UTF-8 text, a line has another format, or a name leads out of the folder.
    """
    try:
        lines = regular_file(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a list in UTF-8: {error}") from error
    entries = []
    for number, line in enumerate(with_slashes(lines, path), start=1):
        name, label = split_label(line.strip())
        if name and label.isdecimal():
            where = f"line {number}"
            entries.append(Entry(where, plain_name(name, where, path), int(label)))
        elif line.strip():
            raise ValueError(f"{path}, line {number}: expected 'name class_number', got {line[:80]!r}")
    return entries


def has_numbers(path: Path) -> bool:
    """Return True if the first line of a list has a class number after the name."""
    with open(regular_file(path), encoding="utf-8-sig", errors="replace") as lines:
        first = next((line.strip() for line in lines if line.strip()), "")
    return not first or bool(split_label(first)[1])


def plain_name(name: str, where: str, path: Path) -> str:
    """Normalise a path below the images' folder: drop './' and duplicate slashes.

    Raises:
        ValueError: if the path leads out of the images' folder.
    """
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{path}, {where}: {name!r} leads out of the images' folder; give paths relative to it")
    return PurePosixPath(name).as_posix()


def folder_classes(entries: Sequence[Entry], path: Path) -> tuple[str, ...]:
    """Find the folder that each class number stands for.

    Raises:
        ValueError: if class numbers and folders do not match one to one, or a class number has no image.
    """
    folders: dict[int, str] = {}
    numbers: dict[str, int] = {}
    for where, name, label in entries:
        folder = name.rpartition("/")[0]
        if folders.setdefault(label, folder) != folder:
            raise ValueError(
                f"{path}, {where}: class {label} is {folder!r} here, but {folders[label]!r} in an earlier line"
            )
        if numbers.setdefault(folder, label) != label:
            raise ValueError(
                f"{path}, {where}: {folder!r} is class {label} here, but {numbers[folder]} in an earlier line"
            )
    num_classes = max(folders, default=-1) + 1
    if len(folders) < num_classes:
        missing = next(number for number in range(num_classes) if number not in folders)
        raise ValueError(
            f"{path} has no image of {num_classes - len(folders)} classes, such as {missing} of {num_classes}"
        )
    return tuple(folders[label] for label in range(len(folders)))


def listed_images(
    root: Path, split: str, classes: tuple[str, ...], entries: Sequence[Entry], path: Path
) -> ClassifiedImages:
    """Check the entries of a list, and return its images.

    Args:
        root: folder that the names start from.
        split: name of the split.
        classes: class names.
        entries: entries in the order of the list.
        path: path of the list, for error messages.

    Raises:
        ValueError: if the list has no image, only one class, a class number that is too high, a repeated name, or a
            missing image file.
    """
    for where, name, label in entries:
        if not 0 <= label < len(classes):
            raise ValueError(f"{path}, {where}: class of {name} must be from 0 to {len(classes) - 1}, got {label}")
    names = [entry.name for entry in entries]
    labels = np.array([entry.label for entry in entries], dtype=np.int64)
    check_classes(classes, labels, path)
    _check_unique(names, entries, path)
    require_images(root, names, str(path))
    return ClassifiedImages(root=root, split=split, classes=classes, names=tuple(names), labels=labels)


def check_classes(classes: Sequence[str], labels: Int64[ndarray, "_"], path: Path) -> None:
    """Check that a classifier can be trained: at least two classes with images and unique names.

    Raises:
        ValueError: if there is no image, all images are of one class, or two classes have the same name.
    """
    if len(labels) == 0:
        raise ValueError(f"{path} has no image; is this the right file or folder?")
    if (labels == labels[0]).all():
        raise ValueError(
            f"{path} has images of one class only, {classes[labels[0]]!r}; a classifier needs at least two classes"
        )
    if len(set(classes)) < len(classes):
        twice = sorted({name for name in classes if classes.count(name) > 1})
        raise ValueError(f"{path} has several classes of the same name: {twice[:3]}; rename them")


def require_images(root: Path, names: Sequence[str], source: str) -> None:
    """Check that every listed image exists.

    Args:
        root: folder that the names start from.
        names: path of each image below the root.
        source: name of the list, for the error message.

    Raises:
        ValueError: if image files are missing.
    """
    missing = missing_images(root, names)
    if missing:
        raise ValueError(
            f"{source} lists {len(names)} images, of which {len(missing)} do not exist below {root}, such as "
            f"{', '.join(missing[:3])}"
        )


def missing_images(root: Path, names: Iterable[str]) -> list[str]:
    """Return the names without a file below the root; each folder is listed once, which is fast."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for name in names:
        folder, _, file = name.rpartition("/")
        by_folder[folder].append(file)
    missing = []
    for folder, files in by_folder.items():
        try:
            found = set(os.listdir(root / folder))
        except (FileNotFoundError, NotADirectoryError):
            found = set()
        missing += [f"{folder}/{file}" if folder else file for file in files if file not in found]
    return missing


def _check_unique(names: Sequence[str], entries: Sequence[Entry], path: Path) -> None:
    if len(set(names)) == len(names):
        return
    first: dict[str, str] = {}
    for entry, name in zip(entries, names):
        if name in first:
            raise ValueError(f"{path}, {entry.where}: {name} is listed twice, also on {first[name]}")
        first[name] = entry.where
