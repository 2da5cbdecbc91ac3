"""How the inner loops are compiled: by Numba, once for a processor, and without Python's global lock."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator; what it compiles is kept on disk for the next process, where there is a place for it.

    The functions carry `no_type_check` as well: the tests check shapes by wrapping functions, and a wrapped one cannot
    be compiled.

    Args:
        options: of `numba.njit`.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:
            # Neither beside the package nor in the home folder may be written: compile in every process.
            return njit(nogil=True, **options)(function)

    return decorate
