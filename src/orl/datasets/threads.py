"""The same work on many images by several threads: reading, decoding, resizing and hashing leave Python's lock free."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int, take: Callable[[Result], object]
) -> None:
    """Do the work on each item, and take what comes of it in the order of the items.

    Args:
        work: called by the threads.
        items: all of them are queued at once.
        threads: how many work; at least one does.
        take: called by the calling thread. Where it fails, or Ctrl-C comes, work that has not begun is dropped.
    """
    with ThreadPoolExecutor(max(1, threads)) as pool:
        # Left early, the loop drops the iterator of `map`, which cancels what has not begun.
        for made in pool.map(work, items):
            take(made)
