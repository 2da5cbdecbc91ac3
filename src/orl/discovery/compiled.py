"""How the inner loops are compiled: by Numba, once for a processor, and without Python's global lock."""

import ctypes
from collections.abc import Callable
from typing import Any

from numba import njit

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of malloc's settings in the GNU C library."""
KEPT_BYTES, LARGEST_KEPT_BYTES = 2**29, 2**25


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


def keep_freed_memory() -> None:
    """Let this process keep arrays that it has freed for the next ones, instead of asking the system for each.

    New pages take a fifth of the time of a search otherwise. It concerns the whole process, up to `KEPT_BYTES`; without
    the GNU C library nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
