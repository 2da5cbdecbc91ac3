"""Atomic writes, strict reading of JSON, YAML and CSV, digests, removal of temporary files of killed processes."""

import csv
import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def regular_file(path: Path) -> Path:
    """Return a path to read from; refuse a pipe, a socket or a device, whose reading may never end.

    Every file that a user names is opened through this check. A folder passes: opening it fails by itself.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: if it is neither a file nor a folder.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return path
    kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
    raise ValueError(f"{path} is a {kind} and not a file; write its content to a file, and give that")


def file_digest(path: Path) -> str:
    """Return a digest of a file's bytes: 16 hexadecimal digits of its SHA-256."""
    with open(regular_file(path), "rb") as file:
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


def parse_json(data: bytes | str) -> Any:
    """Parse JSON, and refuse a key that an object has twice: of two values the last would win silently.

    Raises:
        ValueError: if the data is not JSON, is nested too deeply, or an object has a key twice.
    """
    try:
        return json.loads(data, object_pairs_hook=_unique_keys)
    except RecursionError as error:
        raise ValueError("its objects and lists are nested too deeply") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"an object has the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        ValueError: if the file is damaged or contains something else.
    """
    regular_file(path)
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it and run again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} contains a {type(content).__name__}, not an object; delete it and run again")
    return content


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read the rows of a CSV file that begins with its column names; a row that a killed process cut off is left out.

    Raises:
        ValueError: if it lacks a column, or is not a CSV file.
    """
    regular_file(path)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows, found = list(reader), reader.fieldnames or []
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file ({error}); delete it and run again") from error
    missing = [name for name in columns if name not in found]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}; delete it and run again")
    return [row for row in rows if all(row[name] is not None for name in columns)]


def read_yaml(path: Path) -> Any:
    """Read a YAML file, and refuse a key that a mapping has twice: of two values the last would win silently.

    Raises:
        ValueError: if the file is not YAML, is nested too deeply, or a mapping has a key twice.
    """
    import yaml

    class UniqueKeyLoader(yaml.SafeLoader):
        """PyYAML's safe loader, which refuses a repeated key."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            first: dict[str, int] = {}
            for key, _ in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if name in first:
                    raise ValueError(f"the key {name!r} is in line {first[name]} and again in line {line}")
                first[name] = line
            return super().construct_mapping(node, deep)

    regular_file(path)
    try:
        return yaml.load(path.read_bytes(), UniqueKeyLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is not YAML: it is nested too deeply") from error


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
