"""Atomic writes, reading of JSON, digests of files, and removal of temporary files of killed processes."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def file_digest(path: Path) -> str:
    """Return a digest of a file's bytes: 16 hexadecimal digits of its SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary name to write to, then rename it: a reader sees the old file or the complete new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes | str | memoryview) -> None:
    """Write a file: a reader sees the old one or the complete new one.

    Raises:
        OSError: if it cannot be written; the message for a full disk names the size and the remedy.
    """
    try:
        with written_atomically(path) as temporary:
            temporary.write_bytes(data.encode() if isinstance(data, str) else data)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise OSError(
            error.errno,
            f"the disk is full: no space to write {path} ({len(data) / 1e6:.1f} MB). Finished files are kept: make "
            "space and give the same command again",
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        ValueError: if the file is damaged or contains something else.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it and run again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} contains a {type(content).__name__}, not an object; delete it and run again")
    return content


def remove_stale_temporaries(folder: Path) -> None:
    """Delete the temporary files that killed processes of this machine left in a folder; others are not touched."""
    for path in folder.glob(".*.tmp"):
        written_by = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if written_by and not _is_alive(int(written_by[1])):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
