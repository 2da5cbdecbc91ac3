"""Streaming reader of large JSON files: one list element at a time, in bounded memory."""

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from orl import files

BUFFER_BYTES = 1 << 16
SCAN_BYTES = 1 << 20
# JSON escapes a quote inside a string, so this pattern matches keys only.
KEY = re.compile(rb'"(\w{1,40})"\s{0,9}:')
MAX_KEY_BYTES = 64
MAX_DEPTH = 100
"""Most lists and objects inside each other; published files have six. ijson's memory grows with the square of it."""
STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
TOKEN = re.compile(STRING.pattern + rb"|[\[\]{}]", re.DOTALL)
BRACKETS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
OTHER_BYTES = bytes(byte for byte in range(256) if byte not in BRACKETS)
DEPTH_CHANGES = np.array([BRACKETS.get(byte, 0) for byte in range(256)], dtype=np.int64)


class DamagedFileError(ValueError):
    """Error for a file that is truncated or not JSON."""


def elements(path: Path, key: str, noun: str = "images") -> Iterator[Any]:
    """Yield the elements of one list of a file; nothing if there is no such list.

    Args:
        path: file with one JSON object; the order of its keys does not matter.
        key: key of the list, such as 'pseudo_annotations.bbox'; empty if the file is a list itself.
        noun: plural noun for the elements, for error messages.

    Raises:
        ImportError: if ijson is not installed.
        DamagedFileError: if the file is truncated or not JSON.
    """
    ijson = _ijson()
    count = 0
    with open(files.regular_file(path), "rb") as file:
        try:
            prefix = f"{key}.item" if key else "item"
            for element in ijson.items(file, prefix, use_float=True, buf_size=BUFFER_BYTES):
                yield element
                count += 1
        except (ijson.JSONError, UnicodeError) as error:
            where = f"after {count} complete {noun}" + (f" of {key!r}" if key else "")
            raise DamagedFileError(_error_message(path, where, error)) from error


def value(path: Path, key: str) -> Any:
    """Read one value of a file, which must fit into memory; return None if there is no such key.

    Raises:
        ImportError: if ijson is not installed.
        DamagedFileError: if the file is truncated or not JSON before the end of the value.
    """
    ijson = _ijson()
    with open(files.regular_file(path), "rb") as file:
        try:
            return next(ijson.items(file, key, use_float=True, buf_size=BUFFER_BYTES), None)
        except (ijson.JSONError, UnicodeError) as error:
            raise DamagedFileError(_error_message(path, f"before the end of {key!r}", error)) from error


def keys_in(path: Path) -> list[str]:
    """List the distinct keys of a file at any depth, in the order of their first use; none if it is not JSON.

    The file is scanned, not parsed, and its brackets are counted: about 500 MB per second.

    Raises:
        FileNotFoundError: if there is no such file.
        DamagedFileError: if the file ends too early, continues after its end, or is nested too deeply.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}; give the path of a JSON file")
    found: dict[str, None] = {}
    names: list[str] = []
    brackets = _BracketCounter(path)
    with open(path, "rb") as file:
        part = b""
        while chunk := file.read(SCAN_BYTES):
            part = part[-MAX_KEY_BYTES:] + chunk
            names = [match[1].decode() for match in KEY.finditer(part)] or names
            found |= dict.fromkeys(names)
            brackets.read(chunk)
    brackets.finish(last_key=names[-1] if names else "")
    return list(found)


class _BracketCounter:
    """Depth of the brackets of a JSON file, read a part at a time; strings are left out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._depth = self._num_bytes = 0
        self._begun = b""
        """Beginning of a string that the next part ends; its content is of no interest."""
        self._is_complete = False

    def read(self, part: bytes) -> None:
        """Count the brackets of the next part.

        Raises:
            DamagedFileError: if they are nested too deeply, or text follows the end.
        """
        text, position = self._begun + part, self._num_bytes - len(self._begun)
        self._num_bytes += len(part)
        if self._is_complete:
            self._check_end(text, position)
            return
        outside = STRING.sub(b"", text)
        opened = outside.find(b'"')
        self._begun = b""
        if opened >= 0:
            string, outside = outside[opened:], outside[:opened]
            num_backslashes = len(string) - len(string.rstrip(b"\\"))
            self._begun = b'"' + b"\\" * (num_backslashes % 2)
        codes = np.frombuffer(outside.translate(None, OTHER_BYTES), dtype=np.uint8)
        if not len(codes):
            return
        depths = self._depth + np.cumsum(DEPTH_CHANGES[codes])
        if depths.max() > MAX_DEPTH:
            raise DamagedFileError(
                f"{self._path} has more than {MAX_DEPTH} lists and objects inside each other before byte "
                f"{self._num_bytes}; it is no file of boxes, neighbours or images"
            )
        if depths.min() <= 0:
            end = self._end(text)
            self._is_complete, self._begun = True, b""
            self._check_end(text[end:], position + end)
        self._depth = int(depths[-1])

    def finish(self, last_key: str) -> None:
        """Check that the last bracket was closed.

        Raises:
            DamagedFileError: if not.
        """
        if self._depth > 0:
            raise DamagedFileError(
                f"{self._path} is truncated: it ends at byte {self._num_bytes} in {last_key!r} (open brackets: "
                f"{self._depth}); get the complete file and run the same command again"
            )

    def _end(self, text: bytes) -> int:
        """Return the position after the bracket that closes the first one."""
        depth = self._depth
        for token in TOKEN.finditer(text):
            depth += BRACKETS.get(token[0][0], 0)
            if depth <= 0 and token[0] in b"]}":
                return token.end()
        raise AssertionError("no bracket closes the first one")

    def _check_end(self, text: bytes, position: int) -> None:
        after = text.lstrip(b" \t\r\n")
        if after:
            raise DamagedFileError(
                f"{self._path} continues after the end of its JSON, at byte {position + len(text) - len(after)} with "
                f"{after[:20]!r}; delete that text, or get the complete file"
            )


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pause garbage collection: lists of numbers have no cycles, and the search takes 10 to 25% of the time."""
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


def _error_message(path: Path, where: str, error: Exception) -> str:
    detail = error.args[0] if error.args else error
    text = detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)
    problem, _, context = text.partition("\n")
    if "premature EOF" in problem:
        return f"{path} is truncated {where}: get the complete file and run the same command again"
    seen = context.partition("\n")[0].strip()
    return f"{path} is not JSON {where}: {problem.rstrip('.')}: {seen!r} (NaN and Infinity are not JSON either)"
