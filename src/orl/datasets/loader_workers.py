"""Worker processes that read images: signals, the end of their parent, open files and shared memory."""

import errno
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from torch import Tensor
from torch.utils.data import get_worker_info

SHARED_MEMORY = Path("/dev/shm")
"""Folder of the memory through which workers send batches."""


def ignore_interrupts(worker_id: int) -> None:
    """Leave Ctrl-C to the main process, which then stops its loader workers in order.

    Pass it as the `worker_init_fn` of a `DataLoader`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _print_unless_disconnected


def _print_unless_disconnected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error as usual; a main process that has stopped while it fetched a batch is no error of the worker."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def end_with_parent() -> None:
    """Let this worker process end at once when the process that started it ends, even if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a process that multiprocessing started has a parent"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="end with parent").start()


def require_main_guard() -> None:
    """Check that worker processes can import the running script without running it.

    Raises:
        ValueError: if the script calls `orl` outside `if __name__ == "__main__":`.
    """
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script is None or not (path := Path(script)).is_file() or path.suffix != ".py":
        return
    if "__name__" not in path.read_text(encoding="utf-8", errors="replace"):
        raise ValueError(
            f"worker processes import {path} again, which would start the whole script in each of them: put its calls "
            'below `if __name__ == "__main__":`, or use one worker'
        )


def in_shared_memory(tensor: Tensor) -> Tensor:
    """Move a tensor that a worker returns into shared memory, at once and where an error is reported.

    A worker's queue would do it in another thread, which loses the error: the main process would wait for ever.
    """
    return tensor if get_worker_info() is None else tensor.share_memory_()


@contextmanager
def named_limits(num_workers: int) -> Iterator[None]:
    """Name the limit of the machine that stops loader workers, with the way out.

    Args:
        num_workers: number of workers.

    Raises:
        RuntimeError: if open files or shared memory have run out.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        limit = _limit(error)
        if limit is None:
            raise
        raise RuntimeError(f"the {num_workers} worker processes {limit}, and give the same command again") from error


def _limit(error: Exception) -> str | None:
    text = str(error)
    if getattr(error, "errno", None) == errno.EMFILE or "ancdata" in text or "Too many open files" in text:
        return "need more open files than the system allows: use fewer --workers, or raise the limit (ulimit -n 4096)"
    if "/torch_" in text and "File too large" in text:
        return "may not write batches of their size: use smaller batches, or raise the limit of file sizes (ulimit -f)"
    if "/torch_" in text or "shared memory" in text:
        size = f", {shutil.disk_usage(SHARED_MEMORY).total / 2**20:.0f} MiB," if SHARED_MEMORY.is_dir() else ""
        return (
            f"find {SHARED_MEMORY}{size} too small for their batches: use fewer --workers (0 needs none of it), or "
            "give the container more (docker run --shm-size=8g)"
        )
    return None
