"""Facts of this machine: versions, CPUs, GPUs, memory, disk."""

import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch.distributed as dist

from orl.memory import CGROUP, available_bytes
from orl.pipeline.record import cpu_name

PACKAGES = ("orl", "torch", "torchvision", "lightning-fabric", "numba", "numpy", "pillow")
OPTIONAL = {
    "faiss": "--discover.neighbour-search faiss; pip install 'orl[faiss]'",
    "cv2": "--discover.proposals opencv; pip install 'orl[opencv]'",
    "wandb": "--wandb online or offline; pip install wandb",
}
"""Optional module -> the option that needs it, and the command that installs it."""
COMPILERS = ("c++", "g++", "clang++")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
BF16_CAPABILITY = (8, 0)
"""First compute capability of GPUs that multiply bf16 faster than float32."""
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU that torch sees."""

    name: str
    memory_bytes: int
    has_bf16: bool


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Facts of a machine."""

    versions: dict[str, str]
    """Versions of Python and of the required packages."""
    optional: dict[str, bool]
    """Module of `OPTIONAL` -> True if it is installed."""
    cpu: str
    """Name of the CPU."""
    cores: float
    """CPU cores that this process may use: by affinity, and by the quota of its container."""
    has_bf16: bool
    """True if the CPU multiplies bf16 in hardware."""
    memory_bytes: int
    """Free memory."""
    shared_memory_bytes: int | None
    """Free space of /dev/shm, through which workers send batches; None if there is no such folder."""
    disk_bytes: int
    """Free space on the disk of the run."""
    gpus: tuple[Gpu, ...]
    backends: tuple[str, ...]
    """Backends of torch.distributed that are there, of nccl and gloo."""
    compiler: str | None
    """Path of the C++ compiler for torch.compile."""


def inspect_machine(out: Path) -> Machine:
    """Collect the facts of this machine.

    Args:
        out: folder of the run, existing or not, for the free space of its disk.
    """
    info = _text(Path("/proc/cpuinfo"))
    return Machine(
        versions={"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        optional={name: importlib.util.find_spec(name) is not None for name in OPTIONAL},
        cpu=cpu_name(),
        cores=usable_cores(_num_allowed(), _text(CGROUP / "cpu.max")),
        has_bf16=not BF16_FLAGS.isdisjoint(_entry(info, "flags").split()),
        memory_bytes=available_bytes(),
        shared_memory_bytes=shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None,
        disk_bytes=shutil.disk_usage(_existing(out)).free,
        gpus=tuple(_gpu(index) for index in range(torch.cuda.device_count())),
        backends=tuple(
            name
            for name, is_there in (("nccl", dist.is_nccl_available()), ("gloo", dist.is_gloo_available()))
            if dist.is_available() and is_there
        ),
        compiler=next(
            (found for name in (os.environ.get("CXX", ""), *COMPILERS) if (found := shutil.which(name))), None
        ),
    )


def usable_cores(num_allowed: int, cpu_max: str) -> float:
    """Return the CPU cores that a process may use.

    Args:
        num_allowed: cores of its affinity.
        cpu_max: content of its cgroup's `cpu.max`, quota or 'max' and period in microseconds; empty if none.
    """
    quota, _, period = cpu_max.strip().partition(" ")
    if not quota or quota == "max":
        return float(num_allowed)
    return min(float(num_allowed), int(quota) / int(period or 100_000))


def _num_allowed() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpu(index: int) -> Gpu:
    about = torch.cuda.get_device_properties(index)
    return Gpu(
        name=about.name,
        memory_bytes=about.total_memory,
        has_bf16=torch.cuda.get_device_capability(index) >= BF16_CAPABILITY,
    )


def _existing(path: Path) -> Path:
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _entry(text: str, name: str) -> str:
    """Return the first value of a name in a text of lines 'name : value'."""
    lines = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
