"""JSON files of any size, read one list element after the other in bounded memory."""

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

BUFFER_BYTES = 1 << 16
SCAN_BYTES = 1 << 20
# In JSON a quote inside a string is written \", so that this finds keys and nothing else.
KEY = re.compile(rb'"(\w{1,40})"\s{0,9}:')
MAX_KEY_BYTES = 64


class DamagedFileError(ValueError):
    """A file is cut off or not JSON."""


def elements(path: Path, key: str, noun: str = "images") -> Iterator[Any]:
    """The elements of one list of a file, one after the other; nothing where there is no such list.

    Args:
        path: a file with one JSON object; the order of its keys does not matter.
        key: where the list is, as in 'pseudo_annotations.bbox'.
        noun: what the elements are, for errors.

    Raises:
        ImportError: if ijson is missing.
        DamagedFileError: if the file is cut off or not JSON, with the number of elements before.
    """
    ijson = _ijson()
    count = 0
    with open(path, "rb") as file:
        try:
            for element in ijson.items(file, f"{key}.item", use_float=True, buf_size=BUFFER_BYTES):
                yield element
                count += 1
        except (ijson.JSONError, UnicodeError) as error:
            raise DamagedFileError(_what_is_wrong(path, f"after {count} whole {noun} of {key!r}", error)) from error


def value(path: Path, key: str) -> Any:
    """One value of a file as a whole, which has to fit into memory; None where there is no such key.

    Raises:
        ImportError: if ijson is missing.
        DamagedFileError: if the file is cut off or not JSON before the end of the value.
    """
    ijson = _ijson()
    with open(path, "rb") as file:
        try:
            return next(ijson.items(file, key, use_float=True, buf_size=BUFFER_BYTES), None)
        except (ijson.JSONError, UnicodeError) as error:
            raise DamagedFileError(_what_is_wrong(path, f"before the end of {key!r}", error)) from error


def keys_in(path: Path) -> list[str]:
    """Every key of a file at any depth, each once, in the order in which they come; none for what is not JSON.

    The file is scanned for keys, not parsed: some 1,000 MB a second.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}; give the path of a JSON file")
    found: dict[str, None] = {}
    with open(path, "rb") as file:
        part = b""
        while chunk := file.read(SCAN_BYTES):
            part = part[-MAX_KEY_BYTES:] + chunk
            found |= dict.fromkeys(match[1].decode() for match in KEY.finditer(part))
    return list(found)


def ends_whole(path: Path) -> bool:
    """Whether a file of one JSON object may be whole, by its last bytes."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - MAX_KEY_BYTES))
        return file.read().rstrip().endswith(b"}")


@contextmanager
def collector_paused() -> Iterator[None]:
    """No search for cyclic garbage: lists of numbers hold none, and it would take a tenth to a quarter of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _ijson() -> ModuleType:
    try:
        import ijson
    except ImportError as error:
        raise ImportError("large JSON files are read with ijson: pip install 'ijson>=3.4'") from error
    return ijson


def _what_is_wrong(path: Path, where: str, error: Exception) -> str:
    detail = error.args[0] if error.args else error
    text = detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)
    what, _, context = text.partition("\n")
    if "premature EOF" in what:
        return f"{path} is cut off {where}: get the whole file and give the same command again"
    seen = context.partition("\n")[0].strip()
    return f"{path} is not JSON {where}: {what.rstrip('.')}: {seen!r} (NaN and Infinity are not JSON either)"
