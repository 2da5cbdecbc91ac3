import ctypes
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from orl import memory


def test_freed_memory_is_reused_by_two_parameters_of_malloc(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = {}
    library = SimpleNamespace(mallopt=parameters.__setitem__)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    memory.keep_freed_memory()
    # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h; glibc refuses the second above 32 MiB.
    assert parameters == {-1: 2**29, -3: 2**25}


def test_without_mallopt_no_other_function_of_the_library_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = []

    class OtherLibrary:
        def __getattr__(self, name: str) -> None:
            looked_up.append(name)
            raise AttributeError(name)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: OtherLibrary())
    memory.keep_freed_memory()
    assert looked_up == ["mallopt"]


def test_the_c_library_here_accepts_both_parameters() -> None:
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        pytest.skip("not the GNU C library")
    assert library.mallopt(memory.M_MMAP_THRESHOLD, memory.LARGEST_KEPT_BYTES) == 1
    assert library.mallopt(memory.M_TRIM_THRESHOLD, memory.KEPT_BYTES) == 1


def test_the_peak_includes_memory_that_was_freed_again() -> None:
    program = (
        "from orl.memory import peak_resident_bytes as peak\n"
        "before = peak(); data = bytearray(b'1') * 200_000_000; del data; print(peak() - before)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 190_000_000 < int(found.stdout) < 420_000_000


def test_free_memory_is_that_of_the_machine_or_of_a_smaller_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    on_machine = memory.available_bytes()
    assert 10**7 < on_machine < 10**14
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes() > on_machine / 2
    (tmp_path / "memory.max").write_text("10000000\n")
    (tmp_path / "memory.current").write_text("9000000\n")
    (tmp_path / "memory.stat").write_text("anon 2000000\nactive_file 3000000\ninactive_file 4000000\n")
    assert memory.available_bytes() == 8_000_000, "the page cache can be given back"
    (tmp_path / "memory.current").write_text("99000000\n")
    assert memory.available_bytes() == 0
