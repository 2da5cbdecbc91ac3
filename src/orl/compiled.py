"""Compilation of inner loops by Numba: cached on disk, and without the GIL."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that compiles a function and caches the result on disk, if a folder is writable.

    Decorate the functions with `no_type_check` as well: the tests check shapes by wrapping functions, and Numba cannot
    compile a wrapped one.

    Args:
        options: keyword arguments of `numba.njit`.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:
            # Neither the package's folder nor the home folder is writable: compile in every process.
            return njit(nogil=True, **options)(function)

    return decorate
