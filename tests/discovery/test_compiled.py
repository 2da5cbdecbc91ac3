import ctypes
from types import SimpleNamespace

import pytest

from orl.discovery import compiled


def test_where_nothing_can_be_kept_on_disk_it_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    real = compiled.njit

    def refusing(**options: bool) -> object:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        assert options["nogil"]
        return real(**options)

    monkeypatch.setattr(compiled, "njit", refusing)
    assert compiled.compiled()(double)(21) == 42


def double(number):  # type: ignore[no-untyped-def]  # compiled, and so without types
    return 2 * number


def test_freed_memory_is_kept_by_two_settings_of_malloc(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {}
    library = SimpleNamespace(mallopt=settings.__setitem__)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    compiled.keep_freed_memory()
    # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h; glibc refuses the second above 32 MiB.
    assert settings == {-1: 2**29, -3: 2**25}


def test_without_such_settings_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    compiled.keep_freed_memory()


def test_the_library_here_takes_the_settings() -> None:
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        pytest.skip("not the GNU C library")
    assert library.mallopt(compiled.M_MMAP_THRESHOLD, compiled.LARGEST_KEPT_BYTES) == 1
    assert library.mallopt(compiled.M_TRIM_THRESHOLD, compiled.KEPT_BYTES) == 1
