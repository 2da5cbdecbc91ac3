"""Progress with rate and remaining time: a bar on a terminal, or a line every half minute in a file or pipe."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

TERMINAL_INTERVAL_S = 0.2
LOG_INTERVAL_S = 30.0
"""Time between two lines where the output is not a terminal."""
LOG_LINE = "{desc}: {n_fmt} of {total_fmt}{unit} ({percentage:.0f}%), {rate_noinv_fmt}, {remaining} left{postfix}"


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    done: int = 0,
    title: str,
    unit: str,
    quiet: bool = False,
) -> tqdm:
    """Return a progress bar over items, or one that the caller advances with `update`.

    Args:
        items: the items to iterate over; none for a bar advanced by `update`.
        total: number of units in all.
        done: units finished by an earlier run; they do not count in the rate.
        title: name of the work.
        unit: plural of the unit, such as 'images'.
        quiet: show nothing (every process of a run but the first).
    """
    stream = sys.stderr
    common: dict[str, Any] = {"total": total, "initial": done, "desc": title, "unit": f" {unit}", "disable": quiet}
    if stream.isatty():
        return tqdm(items, mininterval=TERMINAL_INTERVAL_S, miniters=1, dynamic_ncols=True, smoothing=0.1, **common)
    lines = _LineStream(stream)
    bar = tqdm(items, file=lines, mininterval=LOG_INTERVAL_S, miniters=1, bar_format=LOG_LINE, smoothing=0.1, **common)
    # tqdm writes its state before the first unit is done: that line has no rate.
    lines.is_open = True
    return bar


class _LineStream:
    """A stream that writes each new state of a bar on a new line, without carriage returns."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.is_open, self._last = False, ""

    def write(self, text: str) -> None:
        line = " ".join(text.split())
        # A bar writes its last state again when it is closed.
        if line not in ("", self._last) and self.is_open:
            self._stream.write(line + "\n")
            self._last = line

    def flush(self) -> None:
        self._stream.flush()
