import argparse
import os
import pickle
import resource
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from orl.weights.opening import open_weights


class Touches:
    """A malicious pickle: to read it is to make a file."""

    def __init__(self, path: Path, run: Any = os.system) -> None:
        self.path, self.run = path, run

    def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
        return self.run, ((f"touch {self.path}" if self.run is os.system else f"open({str(self.path)!r}, 'w')"),)


WRITERS = {
    "zip.pth": lambda content, path: torch.save(content, path),
    "legacy.pth": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "pickle.pkl": lambda content, path: path.write_bytes(pickle.dumps(content)),
    "text.pkl": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=0)),
}


@pytest.mark.parametrize("run", [os.system, eval, exec])
@pytest.mark.parametrize("name", WRITERS)
def test_a_malicious_pickle_is_refused_and_not_run(name: str, run: Any, tmp_path: Path) -> None:
    path, touched = tmp_path / name, tmp_path / "touched"
    WRITERS[name]({"state_dict": {"conv1.weight": torch.zeros(1)}, "evil": Touches(touched, run)}, path)
    with pytest.raises(
        ValueError, match=r"an unknown format" if name == "text.pkl" else r"orl runs no code from a file"
    ):
        open_weights(path)
    assert not touched.exists()


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "pickle.pkl"])
def test_the_malicious_files_of_these_tests_do_run_with_plain_pickle(name: str, tmp_path: Path) -> None:
    path, touched = tmp_path / name, tmp_path / "touched"
    WRITERS[name]({"evil": Touches(touched)}, path)
    pickle.loads(path.read_bytes()) if name == "pickle.pkl" else torch.load(path, weights_only=False)
    assert touched.exists()


def test_a_pickled_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"would run torch\.nn\.modules\.linear\.Linear.*model\.state_dict\(\)"):
        open_weights(tmp_path / "model.pth")


def test_a_module_named_in_a_pickle_is_not_even_imported(tmp_path: Path) -> None:
    (tmp_path / "evil_module.py").write_text("from pathlib import Path\nPath(__file__).with_name('touched').touch()\n")
    sys.path.insert(0, str(tmp_path))
    try:
        (tmp_path / "evil.pkl").write_bytes(b"\x80\x02cevil_module\nanything\n.")
        with pytest.raises(ValueError, match=r"would run evil_module\.anything"):
            open_weights(tmp_path / "evil.pkl")
    finally:
        sys.path.remove(str(tmp_path))
    assert not (tmp_path / "touched").exists()
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_objects_beside_the_weights_are_ignored(name: str, tmp_path: Path) -> None:
    content = {
        "state_dict": {"weight": torch.arange(3.0)},
        "args": argparse.Namespace(lr=0.1, path=Path("somewhere")),
        "best": np.float64(0.7),
        "curve": np.arange(3),
        "groups": defaultdict(list, a=[1]),
    }
    WRITERS[name](content, tmp_path / name)
    opened = open_weights(tmp_path / name)
    assert opened.weights["weight"].tolist() == [0, 1, 2]
    assert opened.entries == ("state_dict", "args", "best", "curve", "groups")


def test_objects_of_packages_that_are_not_installed_are_ignored(tmp_path: Path) -> None:
    module = types.ModuleType("omegaconf.dictconfig")

    class DictConfig:
        def __setstate__(self, state: Any) -> None:
            raise AssertionError("it was restored")

        def __getstate__(self) -> dict[str, int]:
            return {"lr": 1}

    DictConfig.__module__, DictConfig.__qualname__ = "omegaconf.dictconfig", "DictConfig"
    module.DictConfig = DictConfig  # type: ignore[attr-defined]
    sys.modules["omegaconf.dictconfig"] = module
    try:
        torch.save({"state_dict": {"weight": torch.ones(2)}, "hyper_parameters": DictConfig()}, tmp_path / "solo.ckpt")
    finally:
        del sys.modules["omegaconf.dictconfig"]
    assert open_weights(tmp_path / "solo.ckpt").weights["weight"].tolist() == [1, 1]


def test_types_allowed_while_reading_are_not_allowed_afterwards(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2), "args": argparse.Namespace()}, tmp_path / "a.pth")
    open_weights(tmp_path / "a.pth")
    with pytest.raises(pickle.UnpicklingError, match="Namespace"):
        torch.load(tmp_path / "a.pth", weights_only=True)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_arrays_of_a_pickle_come_back(protocol: int, tmp_path: Path) -> None:
    arrays = OrderedDict(
        a=np.arange(6, dtype=np.float32).reshape(2, 3),
        b=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        c=np.array(3, dtype=np.int64),
        d=np.arange(3, dtype=">f4"),
    )
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": arrays, "epoch": np.int64(3)}, protocol))
    opened = open_weights(tmp_path / "a.pkl")
    assert set(opened.weights) == set(arrays)
    for name, array in arrays.items():
        assert opened.weights[name].tolist() == array.tolist()
    assert opened.weights["a"].dtype == torch.float32


def test_numpy_1_and_python_2_names_in_a_pickle_are_read(tmp_path: Path) -> None:
    data = pickle.dumps({"model": {"a": np.arange(3, dtype=np.float32)}}, protocol=2)
    assert b"numpy._core.multiarray" in data
    (tmp_path / "a.pkl").write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert open_weights(tmp_path / "a.pkl").weights["a"].tolist() == [0, 1, 2]


def test_a_pickle_that_asks_for_other_parts_of_numpy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02cnumpy\nload\n(X\x01\x00\x00\x00xtR.")
    with pytest.raises(ValueError, match=r"would run numpy\.load"):
        open_weights(tmp_path / "a.pkl")


def test_containers_are_unpacked_to_the_weights(tmp_path: Path) -> None:
    inner = {"trunk": {"_feature_blocks.conv1.weight": torch.ones(1)}, "heads": {}}
    torch.save({"epoch": 3, "classy_state_dict": {"base_model": {"model": inner}}}, tmp_path / "a.torch")
    assert set(open_weights(tmp_path / "a.torch").weights) == {"trunk._feature_blocks.conv1.weight"}


def test_safetensors_are_read_whatever_the_name(tmp_path: Path) -> None:
    save_file({"weight": torch.arange(3.0)}, tmp_path / "weights.bin")
    assert open_weights(tmp_path / "weights.bin").weights["weight"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"lr: 0.1\nepochs: 800\n", r"is a text file .*'lr: 0\.1"),
        (b"<!DOCTYPE html>\n<html>", "is a web page"),
        (b"  <html><body>Sign in", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (b"\x1f\x8b\x08\x00\x00", "is an archive; unpack it"),
        (b"\x89HDF\r\n\x1a\n\0\0\0", r"has an unknown format \(it begins with 89 48 44 46"),
        (b"PK\x03\x04 and no zip", "cannot be read; fetch the complete file again"),
        (b"\x80\x02}q\x00X", "cannot be read; fetch the complete file again"),
        (b"\x10\0\0\0\0\0\0\0{torn", "cannot be read; fetch the complete file again"),
    ],
)
def test_a_file_of_another_format_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(ValueError, match=rf"weights\.pth {message}"):
        open_weights(tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "pickle.pkl", "safetensors"])
def test_a_truncated_file_is_refused_at_any_length(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "safetensors":
        save_file({"weight": torch.randn(100)}, path)
    else:
        WRITERS[name]({"weight": np.zeros(100) if name == "pickle.pkl" else torch.randn(100)}, path)
    complete = path.read_bytes()
    for length in (20, len(complete) // 2, len(complete) - 1):
        path.write_bytes(complete[:length])
        with pytest.raises(ValueError, match="cannot be read; fetch the complete file again"):
            open_weights(path)


def repeated(depth: int = 60) -> dict[str, Any]:
    """Dictionaries that each name the one before twice: 2 to the power of `depth` tensors in a few kB."""
    content: dict[str, Any] = {"weight": torch.zeros(1)}
    for _ in range(depth):
        content = {"a": content, "b": content}
    return content


def nested_containers(depth: int = 60) -> dict[str, Any]:
    content: dict[str, Any] = {"weight": torch.zeros(1)}
    for _ in range(depth):
        content = {"model": content, "net": content}
    return content


@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: {"a": torch.zeros(1).expand(10**9)}, r"describes 4,000 MB of tensors in a file of 0\.00"),
        (lambda: {"model": {"a": torch.zeros(1).expand(10**9)}}, "describes 4,000 MB of tensors"),
        # One tensor under many names: each is small, and all together are copied.
        (
            lambda: dict.fromkeys(map(str, range(9000)), torch.zeros(1000, dtype=torch.float16)),
            "describes [0-9]+ MB of tensors",
        ),
        (repeated, "has more than 100,000 dictionaries or names"),
        (nested_containers, "has more than 16 dictionaries or names"),
        (lambda: {"a": torch.zeros(3, device="meta")}, "a has no values; save it as an ordinary tensor"),
        (lambda: {"a": torch.zeros(10**6).to_sparse()}, "a is sparse; save it as an ordinary tensor"),
    ],
)
@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_a_small_file_that_describes_large_tensors_is_refused(
    content: Callable[[], Any], message: str, name: str, tmp_path: Path
) -> None:
    WRITERS[name](content(), tmp_path / name)
    with pytest.raises(ValueError, match=message):
        open_weights(tmp_path / name)


def rewritten(source: Path, target: Path, compression: int, change: Callable[[str, bytes], bytes]) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry.filename)))


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.zeros(10**7)}, tmp_path / "a.pth")
    rewritten(tmp_path / "a.pth", tmp_path / "bomb.pth", zipfile.ZIP_DEFLATED, lambda _, data: data)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(ValueError, match=r"bomb\.pth describes 40 MB of tensors in a file of 0\.0"):
        open_weights(tmp_path / "bomb.pth")


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_a_size_that_the_file_does_not_have_is_refused(name: str, tmp_path: Path) -> None:
    WRITERS[name]({"a": torch.zeros(1000)}, tmp_path / "a.pth")
    claim = b"J" + (2 * 10**9).to_bytes(4, "little")  # in place of 1000, as pickle writes it
    if name == "zip.pth":
        rewritten(
            tmp_path / "a.pth",
            tmp_path / "b.pth",
            zipfile.ZIP_STORED,
            lambda _, data: data.replace(b"M\xe8\x03", claim),
        )
    else:
        (tmp_path / "b.pth").write_bytes((tmp_path / "a.pth").read_bytes().replace(b"M\xe8\x03", claim))
    with pytest.raises(ValueError, match="cannot be read; fetch the complete file again"):
        open_weights(tmp_path / "b.pth")


def test_a_pickle_that_asks_for_memory_is_refused_without_it(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Nine bytes: store in place 2**28 of the memo, for which the unpickler in C reserves and clears 4 GB.
    (tmp_path / "memo.pkl").write_bytes(b"\x80\x02}r\xff\xff\xff\x0f.")
    with pytest.raises(ValueError, match="contains no tensors"):
        open_weights(tmp_path / "memo.pkl")
    # An array of 10**9 numbers without its numbers, and one of objects.
    (tmp_path / "array.pkl").write_bytes(b"\x80\x02cnumpy\nndarray\n(J\x00\xca\x9a;X\x02\x00\x00\x00f4tR.")
    with pytest.raises(ValueError, match=r"would run numpy\.ndarray"):
        open_weights(tmp_path / "array.pkl")
    (tmp_path / "objects.pkl").write_bytes(pickle.dumps({"a": np.array([None, 1])}))
    with pytest.raises(ValueError, match="an array of Python objects"):
        open_weights(tmp_path / "objects.pkl")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder; give the file"):
        open_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file at"):
        open_weights(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "contains a list"),
        (torch.zeros(1), "contains a Tensor"),
        ({"epoch": 3, "lr": 0.1}, "contains no tensors; its entries are epoch, lr"),
        ({}, "contains no tensors; its entries are none"),
    ],
)
def test_a_file_without_weights_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message):
        open_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("key", ["model", "other"])
def test_a_container_that_contains_itself_is_refused(key: str, tmp_path: Path) -> None:
    content: dict[str, Any] = {"weight": np.zeros(1)}
    content[key] = content
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="has a container that contains itself"):
        open_weights(tmp_path / "a.pkl")


@pytest.mark.filterwarnings("ignore")
def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    quantised = torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8)
    torch.save({"state_dict": {"conv1.weight": quantised}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"is quantised \(conv1\.weight\)"):
        open_weights(tmp_path / "a.pth")
    torch.save({"fc._packed_params._packed_params": (quantised, None)}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"is quantised \(fc\._packed_params"):
        open_weights(tmp_path / "b.pth")


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), str(tmp_path / "a.pt"))
    with pytest.raises(ValueError, match="is a TorchScript program; save its state_dict"):
        open_weights(tmp_path / "a.pt")
