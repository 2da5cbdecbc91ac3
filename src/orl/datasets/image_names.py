"""Names of images: the files and folders of a tree that count, and the lines of lists that name an image."""

import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k"}
)
UNREAD_EXTENSIONS = frozenset(
    {".heic", ".heif", ".jxl", ".psd", ".svg", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
)
"""Extensions of images that orl does not read, and names when it leaves them out."""
THUMBNAIL_FOLDERS = frozenset(
    {"@eaDir", "@__thumb", ".@__thumb", ".thumbnails", ".picasaoriginals", "iPod Photo Cache"}
    | {"@Recycle", "#recycle", "$RECYCLE.BIN", "#snapshot", "__MACOSX", "lost+found", "System Volume Information"}
)
"""Folders in which programs and file servers keep thumbnails, deleted files and copies, not images of the user."""
_LISTED = re.compile(
    rf"""(["']?)(.+\.(?:{"|".join(sorted(extension[1:] for extension in IMAGE_EXTENSIONS))}))\1(?:[\s,;]+(\S.*))?""",
    re.IGNORECASE,
)


def is_image_name(name: str) -> bool:
    """Return True for the name of a file that is read as an image: by its extension, and not hidden."""
    return not os.path.basename(name).startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def is_counted_folder(name: str) -> bool:
    """Return True for a folder that may hold the user's images: not hidden, and not of thumbnails."""
    return not name.startswith(".") and name not in THUMBNAIL_FOLDERS


def split_line(line: str) -> tuple[str, str]:
    """Split a line of a list into the name of an image, without quotes, and the text after it, such as a label.

    A line that is a name, or has no name with the extension of an image, is returned as it is.
    """
    found = None if is_image_name(line) else _LISTED.fullmatch(line)
    return (found[2], found[3] or "") if found else (line, "")


def split_label(line: str) -> tuple[str, str]:
    """Split a line of a list of labelled images as `split_line` does; a name may have any extension or none."""
    name, label = split_line(line)
    if label or is_image_name(line):
        return name, label
    name, label = [*line.rsplit(maxsplit=1), "", ""][:2]
    return name, label


def with_slashes(names: Sequence[str], source: Path) -> list[str]:
    """Return the names with slashes for backslashes, which Windows writes between folders, and log their number."""
    num_changed = sum("\\" in name for name in names)
    if num_changed:
        logger.info("%s: the backslashes of %d names are read as slashes", source, num_changed)
    return [name.replace("\\", "/") for name in names]


def below_one_root(folder: Path, names: Iterable[str]) -> tuple[Path, list[str]]:
    """Return a folder, and each name relative to it: the given folder, or the lowest common one of all images.

    Args:
        folder: folder that the names start from.
        names: paths, which may be absolute or lead out of the folder.
    """
    images = [Path(os.path.normpath(folder / name)) for name in names]
    if not all(image.is_relative_to(folder) for image in images):
        folder = Path(os.path.commonpath([image.parent for image in images]))
    return folder, [image.relative_to(folder).as_posix() for image in images]
