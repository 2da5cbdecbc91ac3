"""One kind of progress bar: rate and time left, on the terminal or, every half minute, in a log file."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

LOG_INTERVAL_S = 30.0


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    done: int = 0,
    title: str,
    unit: str,
    quiet: bool = False,
) -> tqdm:
    """A bar over items, or one to be advanced by hand with `update`.

    Args:
        items: what to walk through; none for a bar advanced by hand.
        total: the number of units in all.
        done: units finished by an earlier run, left out of the rate.
        title: what is being done.
        unit: the plural of what is counted, such as 'images'.
        quiet: show nothing (every process of a run but the first).
    """
    on_terminal = sys.stderr.isatty()
    return tqdm(
        items,
        total=total,
        initial=done,
        desc=title,
        unit=f" {unit}",
        disable=quiet,
        mininterval=0.2 if on_terminal else LOG_INTERVAL_S,
        miniters=1 if on_terminal else None,
        dynamic_ncols=on_terminal,
        ncols=None if on_terminal else 110,
        smoothing=0.1,
    )
