"""Image sources: a folder tree, a list file, a COCO JSON, a VOC devkit or a pack."""

import difflib
import os
from pathlib import Path

from orl.datasets.coco import coco_image_names, has_labels, read_coco
from orl.datasets.labels import LabelledSplit
from orl.datasets.packs import is_pack, open_pack
from orl.datasets.voc import read_voc, voc_folder, voc_image_names
from orl.files import regular_file

IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k"}
)
LIST_EXTENSIONS = (".txt", ".lst")
DEFAULT_SPLIT = "trainval"


def find_images(source: Path, split: str | None = None) -> tuple[Path, list[str]]:
    """List the images of a source without opening them.

    An image that is listed but missing is rejected later by the scan.

    Args:
        source: a folder with images at any depth (by extension; hidden files are left out); a .txt or .lst file with
            one path per line, relative to the file, # for comments; a COCO JSON; a VOC devkit; a pack.
        split: split of a VOC devkit, 'trainval' if None; not for other sources.

    Returns:
        Root folder, and the path of each image below it, sorted and unique. For a pack: the pack, and the names of the
        images in its own source.

    Raises:
        FileNotFoundError: if the source does not exist.
        ValueError: if the source has no image, no such split or no known format, or is an unfinished pack.
    """
    source = _existing(source)
    devkit = voc_folder(source) if source.is_dir() else None
    if devkit is not None:
        return devkit, voc_image_names(devkit, split or DEFAULT_SPLIT)
    if split is not None:
        raise ValueError(f"{source} is not a VOC devkit, so it has no split {split!r}; leave the split out")
    if is_pack(source):
        return source, list(open_pack(source).names)
    if source.is_dir():
        return source, _walk(source)
    if source.suffix.lower() == ".json":
        return coco_image_names(source)
    if source.suffix.lower() in LIST_EXTENSIONS:
        return _read_list(source)
    raise ValueError(
        f"{source} is not a source of images; give a folder, a .txt list, a COCO .json, a VOC devkit or a pack"
    )


def read_labels(source: Path, split: str | None = None) -> LabelledSplit | None:
    """Read the labels of a VOC devkit or a COCO JSON; return None for other sources.

    Args:
        source: path of the source; see `find_images`.
        split: split of a VOC devkit; see `find_images`.

    Raises:
        FileNotFoundError: if the source does not exist.
        ValueError: if the labels are damaged, or there is no such split.
    """
    source = _existing(source)
    devkit = voc_folder(source) if source.is_dir() else None
    if devkit is not None:
        return read_voc(devkit, split or DEFAULT_SPLIT)
    if split is not None:
        raise ValueError(f"{source} is not a VOC devkit, so it has no split {split!r}; leave the split out")
    if source.suffix.lower() == ".json" and has_labels(source):
        return read_coco(source)
    return None


def _existing(source: Path) -> Path:
    source = Path(os.path.abspath(source.expanduser()))
    if source.exists():
        return source
    missing = next(path for path in [*reversed(source.parents), source] if not path.exists())
    siblings = [path.name for path in missing.parent.iterdir()] if missing.parent.is_dir() else []
    near = difflib.get_close_matches(missing.name, siblings, n=1)
    hint = f"; did you mean {missing.parent / near[0]}?" if near else f"; {missing} does not exist"
    raise FileNotFoundError(f"no images at {source}{hint}")


def _walk(source: Path) -> list[str]:
    """List the images of a folder tree; links are followed, but each folder is entered once."""
    names, entered, num_others = [], set(), 0
    for folder, subfolders, files in os.walk(source, followlinks=True):
        real_folder = os.path.realpath(folder)
        if real_folder in entered:
            subfolders.clear()
            continue
        entered.add(real_folder)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        images = [name for name in files if _is_image_name(name)]
        num_others += len(files) - len(images)
        names += [(Path(folder) / name).relative_to(source).as_posix() for name in images]
    if not names:
        known = " ".join(sorted(IMAGE_EXTENSIONS))
        raise ValueError(f"{source} has no images, only {num_others} other files; images end in {known}")
    return sorted(names)


def _is_image_name(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def _read_list(path: Path) -> tuple[Path, list[str]]:
    """Read a list file; the root is its folder, or the lowest common folder of all images."""
    try:
        lines = [line.strip() for line in regular_file(path).read_text(encoding="utf-8-sig").split("\n")]
    except ValueError as error:
        raise ValueError(f"{path} is not a list of images in UTF-8: {error}; save it as UTF-8 text") from error
    listed = [line for line in lines if line and not line.startswith("#")]
    if not listed:
        raise ValueError(f"{path} lists no image in its {len(lines)} lines; write one path per line")
    images = {Path(os.path.normpath(path.parent / line)) for line in listed}
    root = path.parent
    if not all(image.is_relative_to(root) for image in images):
        root = Path(os.path.commonpath([image.parent for image in images]))
    return root, sorted(image.relative_to(root).as_posix() for image in images)
