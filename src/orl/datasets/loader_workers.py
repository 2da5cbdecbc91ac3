"""Worker processes that read images: signals, the end of their parent, open files and shared memory."""

import errno
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
"""Folder of the memory through which workers send batches."""
MAX_OPEN_FILES = 65_536


def ignore_interrupts(worker_id: int) -> None:
    """Leave Ctrl-C to the main process, which then stops its loader workers in order.

    Pass it as the `worker_init_fn` of a `DataLoader`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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


def raise_open_file_limit() -> None:
    """Raise the limit of open files of this process as far as the system allows; 1024 is too low for many workers."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def worker_limit(error: Exception, num_workers: int) -> str | None:
    """Describe the limit of the machine that an error of loader workers comes from, with the way out.

    Args:
        error: error raised by a `DataLoader`.
        num_workers: number of its workers.

    Returns:
        The message, or None for any other error.
    """
    text = str(error)
    if getattr(error, "errno", None) == errno.EMFILE or "ancdata" in text or "Too many open files" in text:
        return (
            f"{num_workers} workers need more open files than this process may have: use fewer --workers, or raise the "
            "limit (ulimit -n 4096) and give the same command again"
        )
    if "shared memory" in text or "/torch_" in text:
        size = f", {shutil.disk_usage(SHARED_MEMORY).total / 2**20:.0f} MiB," if SHARED_MEMORY.is_dir() else ""
        return (
            f"{SHARED_MEMORY}{size} is too small for the batches of {num_workers} workers: use fewer --workers (0 "
            "needs none of it), or give the container more (docker run --shm-size=8g)"
        )
    return None
