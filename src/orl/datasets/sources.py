"""Image sources: a folder tree, a list file, a COCO JSON, a VOC devkit or a pack."""

import difflib
import logging
import os
from collections import Counter
from pathlib import Path

from orl.datasets.coco import coco_image_names, has_labels, read_coco
from orl.datasets.image_names import (
    IMAGE_EXTENSIONS,
    THUMBNAIL_FOLDERS,
    UNREAD_EXTENSIONS,
    below_one_root,
    is_counted_folder,
    is_image_name,
    split_line,
    with_slashes,
)
from orl.datasets.labels import LabelledSplit
from orl.datasets.packs import is_pack, open_pack
from orl.datasets.voc import read_voc, voc_folder, voc_image_names
from orl.files import regular_file

logger = logging.getLogger(__name__)

LIST_EXTENSIONS = (".txt", ".lst")
DEFAULT_SPLIT = "trainval"
RUN_FILES = {"run.json", "images.parquet"}
"""Files that mark the folder of a run, whose pictures are no images of the source."""


def find_images(source: Path, split: str | None = None, out: Path | None = None) -> tuple[Path, list[str]]:
    """List the images of a source without opening them.

    An image that is listed but missing is rejected later by the scan. Folders of thumbnails and of runs are left out
    of a folder tree, and so are images of kinds that cannot be read; the log names them.

    Args:
        source: a folder with images at any depth (by extension; hidden files are left out); a .txt or .lst file with
            one path per line, relative to the file, # for comments; a COCO JSON; a VOC devkit; a pack.
        split: split of a VOC devkit, 'trainval' if None; not for other sources.
        out: folder of the output, which is never read below the source.

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
        return source, _walk(source, out)
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


def _walk(source: Path, out: Path | None) -> list[str]:
    """List the images of a folder tree; links are followed, but each folder is entered once."""
    output = None if out is None else os.path.realpath(out.expanduser())
    if output == os.path.realpath(source):
        raise ValueError(f"--out is {source}, the folder of the images, where figures would become images; use another")
    names, entered, num_others = [], set(), 0
    unread: Counter[str] = Counter()
    skipped: list[str] = []
    for folder, subfolders, files in os.walk(source, followlinks=True):
        real_folder = os.path.realpath(folder)
        if real_folder in entered:
            subfolders.clear()
            continue
        entered.add(real_folder)
        below = Path(folder).relative_to(source).as_posix()
        if real_folder == output or (below != "." and set(files) >= RUN_FILES):
            subfolders.clear()
            skipped.append(f"{below} (a run)")
            continue
        skipped += [Path(below, name).as_posix() for name in sorted(THUMBNAIL_FOLDERS.intersection(subfolders))]
        subfolders[:] = sorted(filter(is_counted_folder, subfolders))
        images = [name for name in files if is_image_name(name)]
        num_others += len(files) - len(images)
        unread.update(extension for name in files if (extension := _extension(name)) in UNREAD_EXTENSIONS)
        names += [Path(below, name).as_posix() for name in images]
    left_out = _left_out(skipped, unread)
    if not names:
        known = " ".join(sorted(IMAGE_EXTENSIONS))
        raise ValueError(
            f"{source} has no images, only {num_others} other files; images end in {known}"
            + (f". Left out: {left_out}" if left_out else "")
        )
    if left_out:
        logger.info("%s: %d images; left out: %s", source, len(names), left_out)
    return sorted(names)


def _left_out(skipped: list[str], unread: Counter[str]) -> str:
    """Describe what a folder tree has beside the images that are read; empty if nothing is worth a word."""
    found = []
    if unread:
        kinds = ", ".join(f"{count} {extension}" for extension, count in unread.most_common())
        found.append(f"{unread.total()} images of kinds that orl does not read ({kinds}): convert them to JPEG")
    if skipped:
        more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        found.append(f"{len(skipped)} folders of thumbnails or of runs ({', '.join(skipped[:3])}{more})")
    return "; ".join(found)


def _extension(name: str) -> str:
    return "" if name.startswith(".") else os.path.splitext(name)[1].lower()


def _read_list(path: Path) -> tuple[Path, list[str]]:
    """Read a list file; the root is its folder, or the lowest common folder of all images."""
    regular_file(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except ValueError as error:
        raise ValueError(f"{path} is not a list of images in UTF-8: {error}; save it as UTF-8 text") from error
    listed = [split_line(line) for line in lines if line and not line.startswith("#")]
    if not listed:
        raise ValueError(f"{path} lists no image in its {len(lines)} lines; write one path per line")
    labelled = [(name, label) for name, label in listed if label]
    if labelled:
        name, label = labelled[0]
        logger.info("%s: the labels of %d lines, such as %r of %s, are not used", path, len(labelled), label, name)
    root, names = below_one_root(path.parent, with_slashes([name for name, _ in listed], path))
    return root, sorted(set(names))
