import pytest

from orl import compiled


def test_functions_compile_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
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
