"""Safe reading of weights files: no code from a file is run."""

import collections
import mmap
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy import ndarray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from orl import files

Weights = dict[str, Tensor]
"""Tensors by name."""

Item = TypeVar("Item")

TORCH_MAGIC = bytes.fromhex("80028a0a6cfc9c46f920")
"""First bytes of a file that torch wrote before 1.6: the pickled number 0x1950a86a20f9469cfc6c."""
CONTAINERS = (
    "classy_state_dict",
    "base_model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "method",
    "network",
    "net",
    "student",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "teacher",
)
"""Entries that contain weights in files of other programs; the trained network comes before its average."""
IGNORED_TYPES = (
    "argparse.Namespace",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib._local.Path",
    "pathlib._local.PosixPath",
    "builtins.dict",
    "builtins.list",
    "builtins.int",
    "builtins.float",
    "builtins.str",
    "builtins.bool",
    "typing.Any",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "_codecs.encode",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
)
"""Types that training programs store beside the weights; `_Placeholder` replaces them."""
MAX_CONTAINERS, MAX_ENTRIES = 16, 100_000
"""Most containers, and most names in one, of a file; published checkpoints have 2 and some thousands."""
MAX_EXPANSION, FREE_BYTES = 8, 1 << 20
"""Most bytes of tensors for each byte of the file, and the size up to which they are not counted.

A network that a program registers twice counts twice.
"""
DICT_TYPES = (
    "collections.defaultdict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)
"""Types that are read as plain dictionaries."""


@dataclass(frozen=True)
class OpenedFile:
    """The content of a weights file."""

    weights: Weights
    """Tensors of the first container by name, on the CPU, with the file's names and types; never empty."""
    entries: tuple[str, ...]
    """Names on the top level, such as 'epoch' and 'state_dict'."""
    container: str = ""
    """Entry that contains the weights, such as 'student'; empty if the file has one container."""
    others: Mapping[str, Weights] = field(default_factory=dict)
    """Tensors of the other containers, such as 'teacher'."""


class _Placeholder:
    """A stand-in for an object beside the weights: it accepts any content and does nothing.

    The class named in the file is neither imported nor called.
    """

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _PlainDict:
    """A stand-in for other dictionary types: torch fills plain dictionaries only."""

    def __new__(cls, *_: Any) -> Any:
        return {}


def open_weights(path: Path) -> OpenedFile:
    """Read the tensors of a file; its format is recognised by content, not by file name.

    Reads files of `torch.save` (with `weights_only`), safetensors, and Detectron2's pickles of numpy arrays.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if the path is a folder, or the file is empty, damaged, of another format, needs code to be run, is
            quantised, contains no tensor, or describes far more than it contains.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the file of weights inside it")
    if not path.exists():
        raise FileNotFoundError(f"no file at {path}")
    with open(files.regular_file(path), "rb") as file:
        start = file.read(4096)
    content = _reader(path, start)(path)
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} contains a {type(content).__name__}; give a file with a state dict (names and tensors)"
        )
    try:
        containers = dict(_at_most(MAX_CONTAINERS, _containers(content), path))
        found = {name: weights for name, inner in containers.items() if (weights := _tensors(inner, path))}
    except RecursionError as error:
        raise ValueError(f"{path} has a container that contains itself; give a file of names and tensors") from error
    for inner in containers.values():
        _check_not_quantised(path, inner)
    if not found:
        raise ValueError(
            f"{path} contains no tensors; its entries are {', '.join(map(str, list(content)[:6])) or 'none'}"
        )
    first, *others = found
    return OpenedFile(
        found[first], tuple(map(str, content)), first if others else "", {name: found[name] for name in others}
    )


def _reader(path: Path, start: bytes) -> Callable[[Path], Any]:
    if start[:4] == b"PK\x03\x04" or start.startswith(TORCH_MAGIC):
        return _read_torch
    if start[:1] == b"\x80":
        return _read_pickle
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 30:
        return _read_safetensors
    raise ValueError(f"{path} {_describe_other_format(start)}")


def _describe_other_format(start: bytes) -> str:
    if not start:
        return "is empty; fetch it again"
    text = start.decode("utf-8", errors="ignore") if b"\0" not in start else ""
    if text.startswith("version https://git-lfs"):
        return "is a pointer of Git LFS and not the weights; fetch them with 'git lfs pull'"
    if re.match(r"\s*<(!doctype|html|\?xml)", text, re.IGNORECASE):
        return "is a web page and not a file of weights; fetch the file that the page links to"
    if len(text.encode()) >= len(start) - 3:
        return f"is a text file and not a file of weights (it begins with {text[:30]!r})"
    if start[:2] == b"\x1f\x8b" or start[257:262] == b"ustar":
        return "is an archive; unpack it and give the file of weights inside it"
    return (
        f"has an unknown format (it begins with {start[:8].hex(' ')}); orl reads files of torch.save, safetensors "
        "and Detectron2's .pkl"
    )


def _read_torch(path: Path) -> Any:
    _check_zip_size(path)
    stand_ins: list[Any] = [(_Placeholder, name) for name in IGNORED_TYPES] + [
        (_PlainDict, name) for name in DICT_TYPES
    ]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(path, error)) from error
    except Exception as error:  # a damaged file raises many kinds of errors
        if "TorchScript" in str(error):
            raise ValueError(f"{path} is a TorchScript program; save its state_dict() with torch.save") from error
        raise ValueError(_damaged(path, error)) from error


def _read_safetensors(path: Path) -> Any:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(_damaged(path, error)) from error


def _read_pickle(path: Path) -> Any:
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _ArraysOnly(content, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(path, error)) from error
    except Exception as error:  # a damaged file raises many kinds of errors
        raise ValueError(_damaged(path, error)) from error


class _ArraysOnly(pickle._Unpickler):
    """An unpickler of plain containers and numpy arrays; any other name in the file is refused without an import.

    It is Python's own in Python, not in C: the one in C reserves the memory that a file of nine bytes may ask for.
    """

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core.", "numpy.core.")
        # New functions for each name, so that a file cannot change them for the next.
        allowed: dict[str, Callable[..., Any]] = {
            "collections.OrderedDict": collections.OrderedDict,
            "numpy.ndarray": _refuse_array,
            "numpy.dtype": _plain_dtype,
            "numpy.core.multiarray._reconstruct": lambda kind, shape, code: ndarray.__new__(ndarray, (0,), "b"),
            "numpy.core.multiarray.scalar": lambda dtype, data=b"": np.frombuffer(data, dtype)[0],
            "numpy.core.numeric._frombuffer": lambda data, dtype, shape, order: np.frombuffer(data, dtype).reshape(
                shape, order=order
            ),
            "_codecs.encode": lambda text, encoding="latin1": text.encode("latin1"),
        }
        if f"{module}.{name}" not in allowed:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return allowed[f"{module}.{name}"]


def _refuse_array(*_: Any) -> None:
    """Stand in for numpy's class of arrays: pickles only name it, and a call would reserve memory of any size."""
    raise pickle.UnpicklingError("GLOBAL numpy.ndarray")


def _plain_dtype(*arguments: Any) -> np.dtype[Any]:
    dtype = np.dtype(*arguments)
    if dtype.hasobject:
        raise pickle.UnpicklingError("an array of Python objects")
    return dtype


def _check_zip_size(path: Path) -> None:
    """Refuse a compressed archive before it is unpacked; torch stores tensors as they are."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return  # not an archive, or a damaged one: torch says which
    _check_expansion(path, unpacked)


def _check_expansion(path: Path, num_bytes: int) -> None:
    size = path.stat().st_size
    if num_bytes > MAX_EXPANSION * size + FREE_BYTES:
        raise ValueError(
            f"{path} describes {num_bytes / 1e6:,.0f} MB of tensors in a file of {size / 1e6:,.3f} MB, so it does not "
            "contain them; fetch the complete file again"
        )


def _refusal(path: Path, error: Exception) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found is None:
        return _damaged(path, error)
    if "quantized" in found[1] or "ScriptObject" in found[1]:
        return f"{path} is quantised ({found[1]}); give the weights from before the quantisation"
    return (
        f"{path} was not opened: reading it would run {found[1]}, and orl runs no code from a file. Give a file with a "
        "state dict only, saved by someone who trusts this one: torch.save(model.state_dict(), ...)"
    )


def _damaged(path: Path, error: Exception) -> str:
    # torch's message is long and gives the cause after these words.
    text = str(error).rpartition("WeightsUnpickler error: ")[2].strip() or "it ends early"
    first_line = text.splitlines()[0]
    return f"{path} cannot be read; fetch the complete file again ({type(error).__name__}: {first_line[:120]})"


def _containers(content: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield the innermost containers of weights with their path in the file."""
    names = [name for name in CONTAINERS if isinstance(content.get(name), Mapping)]
    if not names:
        yield path.removesuffix("."), content
    for name in names:
        yield from _containers(content[name], f"{path}{name}.")


def _at_most(limit: int, items: Iterable[Item], path: Path) -> Iterator[Item]:
    """Yield the items up to a limit: dictionaries that repeat each other have billions of entries in a few bytes."""
    for number, item in enumerate(items):
        if number == limit:
            raise ValueError(f"{path} has more than {limit:,} dictionaries or names; give a file of names and tensors")
        yield item


def _check_not_quantised(path: Path, content: Mapping[Any, Any]) -> None:
    for name, value in content.items():
        if "_packed_params" in str(name) or (isinstance(value, Tensor) and value.is_quantized):
            raise ValueError(f"{path} is quantised ({name}); give the weights from before the quantisation")


def _tensors(content: Mapping[Any, Any], path: Path) -> Weights:
    found: Weights = {}
    num_bytes = 0
    for name, value in _at_most(MAX_ENTRIES, _entries(content), path):
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.is_meta:
                kind = "has no values" if value.is_meta else "is sparse"
                raise ValueError(f"{path}: {name} {kind}; save it as an ordinary tensor")
            num_bytes += value.numel() * value.element_size()
        elif isinstance(value, ndarray) and value.dtype.kind in "biufc":
            num_bytes += value.nbytes
        else:
            continue
        _check_expansion(path, num_bytes)
        if isinstance(value, ndarray):
            # torch needs native byte order; the copy owns its memory.
            value = torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C"))
        found[name] = value.detach()
    return found


def _entries(content: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all keys and values at any depth."""
    for key, value in content.items():
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from _entries(value, f"{prefix}{key}.")
