"""Lists of images with a class each: every line is checked, and that its image is there, before anything long."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from orl.datasets.classified import ClassifiedImages


class Entry(NamedTuple):
    """One image of a list."""

    where: str
    """Where it stands, for messages: 'line 3'."""
    name: str
    """Path below the images' folder."""
    label: int


def read_list(path: Path) -> list[Entry]:
    """The lines 'name label' of a list; a name may hold blanks.

    Raises:
        FileNotFoundError: if there is no list.
        ValueError: if it is no text, a line is something else, or a name leads out of the folder.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a list in UTF-8: {error}") from error
    entries = []
    for number, line in enumerate(lines, start=1):
        name, _, label = line.strip().rpartition(" ")
        if name and label.isdecimal():
            where = f"line {number}"
            entries.append(Entry(where, plain_name(name.strip(), where, path), int(label)))
        elif line.strip():
            raise ValueError(f"{path}, line {number}: {line[:80]!r} is not an image's name, a blank and a class number")
    return entries


def has_numbers(path: Path) -> bool:
    """Whether a list has class numbers in its first line, and so is not one of names alone."""
    with open(path, encoding="utf-8-sig", errors="replace") as lines:
        first = next((line.split() for line in lines if line.strip()), [])
    return len(first) != 1


def plain_name(name: str, where: str, path: Path) -> str:
    """A name without './' and the like.

    Raises:
        ValueError: if it leads out of the images' folder.
    """
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{path}, {where}: {name!r} leads out of the images' folder; names start from there")
    return PurePosixPath(name).as_posix()


def folder_classes(entries: Sequence[Entry], path: Path) -> tuple[str, ...]:
    """The class that each number stands for: the folder of its images.

    Raises:
        ValueError: if an image lies in no folder, a number stands for two folders, a folder for two numbers, or a number
            below the highest for none.
    """
    folders: dict[int, str] = {}
    numbers: dict[str, int] = {}
    for where, name, label in entries:
        folder = name.rpartition("/")[0]
        if folders.setdefault(label, folder) != folder:
            raise ValueError(f"{path}, {where}: class {label} is {folders[label]!r} above and {folder!r} here")
        if numbers.setdefault(folder, label) != label:
            raise ValueError(f"{path}, {where}: {folder!r} is class {numbers[folder]} above and {label} here")
    missing = sorted(set(range(max(folders, default=-1) + 1)) - set(folders))
    if missing:
        raise ValueError(f"{path} has no image of {len(missing)} classes, such as {missing[0]} of {max(folders) + 1}")
    return tuple(folders[label] for label in range(len(folders)))


def listed_images(
    root: Path, split: str, classes: tuple[str, ...], entries: Sequence[Entry], path: Path
) -> ClassifiedImages:
    """The images of a list, after every check that needs no image to be opened.

    Args:
        root: folder that the names start from.
        split: name of the split.
        classes: what the numbers stand for.
        entries: the images, in the list's order.
        path: the list, for messages.

    Raises:
        ValueError: if there is no image, or those of one class only; a number is no class; a name comes twice, or
            is that of no file.
    """
    for where, name, label in entries:
        if not 0 <= label < len(classes):
            raise ValueError(f"{path}, {where}: class {label} of {name}, but there are {len(classes)}, from 0 on")
    names = [entry.name for entry in entries]
    labels = np.array([entry.label for entry in entries], dtype=np.int64)
    check_classes(classes, labels, path)
    _check_unique(names, entries, path)
    require_images(root, names, str(path))
    return ClassifiedImages(root=root, split=split, classes=classes, names=tuple(names), labels=labels)


def check_classes(classes: Sequence[str], labels: Int64[ndarray, "_"], path: Path) -> None:
    """See that there is something to tell apart.

    Raises:
        ValueError: if there is no image, all are of one class, or two classes have one name.
    """
    if len(labels) == 0:
        raise ValueError(f"{path} holds no image; is this the right file or folder?")
    if (labels == labels[0]).all():
        raise ValueError(
            f"{path} holds images of one class only, {classes[labels[0]]!r}: there is nothing to tell apart"
        )
    if len(set(classes)) < len(classes):
        twice = sorted({name for name in classes if classes.count(name) > 1})
        raise ValueError(f"{path} has two classes of one name: {twice[:3]}")


def require_images(root: Path, names: Sequence[str], source: str) -> None:
    """See that every listed image is there.

    Args:
        root: folder that the names start from.
        names: path of each image below the root.
        source: what lists them, for the error.

    Raises:
        ValueError: if images are missing.
    """
    missing = missing_images(root, names)
    if missing:
        raise ValueError(
            f"{source} lists {len(names)} images, and {len(missing)} of them are not there, such as "
            f"{', '.join(missing[:3])}; looked in {root}"
        )


def missing_images(root: Path, names: Iterable[str]) -> list[str]:
    """Which of the names are no file below the root: each folder is listed once, no image is asked for by itself."""
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
            raise ValueError(f"{path}, {entry.where}: {name} is there twice, also on {first[name]}")
        first[name] = entry.where
