"""What this process does with memory, and how much of it it has taken."""

import ctypes
import os
import resource
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of malloc's settings in the GNU C library."""
KEPT_BYTES, LARGEST_KEPT_BYTES = 2**29, 2**25
CGROUP = Path("/sys/fs/cgroup")
"""Of the container, if there is one."""


def keep_freed_memory() -> None:
    """Let this process keep arrays that it has freed for the next ones, instead of asking the system for each.

    New pages take a fifth of the time of a search otherwise, and a tenth of a training step. It concerns the whole
    process, up to `KEPT_BYTES`; without the GNU C library nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def peak_resident_bytes() -> int:
    """The most memory that this process has held at once."""
    status = Path("/proc/self/status")
    if status.exists():
        # `getrusage` counts what the parent held before this program began, too.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_bytes() -> int:
    """The memory that is free for this process: of the machine, and of its container if that has a limit."""
    meminfo = Path("/proc/meminfo")
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines()) if meminfo.exists() else {}
    free = int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else _machine_bytes()
    limit = CGROUP / "memory.max"
    if limit.exists() and limit.read_text().strip() != "max":
        # What is kept of files is let go of when memory is needed.
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        of_files = int(stat["active_file"]) + int(stat["inactive_file"])
        free = min(free, int(limit.read_text()) - int((CGROUP / "memory.current").read_text()) + of_files)
    return max(0, free)


def _machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
