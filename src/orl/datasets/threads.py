"""Ordered map over images in several threads; reading, decoding and resizing release the GIL."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Output = TypeVar("Output")


def map_in_threads(
    work: Callable[[Item], Output], items: Iterable[Item], threads: int, take: Callable[[Output], object]
) -> None:
    """Call a function on each item in threads, and consume the results in the order of the items.

    Args:
        work: function of an item, called in the threads.
        items: all items; they are queued at once.
        threads: number of threads, at least 1.
        take: function of a result, called in the calling thread. If it fails, or on Ctrl-C, queued items are dropped.
    """
    with ThreadPoolExecutor(max(1, threads)) as pool:
        # An early exit of the loop drops the iterator of `map`, which cancels the queued items.
        for result in pool.map(work, items):
            take(result)
