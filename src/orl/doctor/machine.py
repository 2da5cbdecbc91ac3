"""What this machine has: versions, processors, GPUs, memory, disk."""

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
"""Module that is not always there -> what takes it, and how to get it."""
COMPILERS = ("c++", "g++", "clang++")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
BF16_CAPABILITY = (8, 0)
"""GPUs from here on multiply bf16 faster than float32."""
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU that torch sees."""

    name: str
    memory_bytes: int
    has_bf16: bool


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The facts that findings are made from."""

    versions: dict[str, str]
    """Python and the packages that are always there."""
    optional: dict[str, bool]
    """Of the modules of `OPTIONAL`, which are there."""
    processor: str
    """Name of the processor."""
    cores: float
    """Processors that this process may keep busy: by affinity, and by the quota of its container."""
    has_bf16: bool
    """Whether the processor multiplies bf16 in hardware."""
    memory_bytes: int
    """Memory that is free for this process now."""
    shared_memory_bytes: int | None
    """Room in /dev/shm, through which workers hand over what they read; None where there is no such folder."""
    disk_bytes: int
    """Free space where the run will be written."""
    gpus: tuple[Gpu, ...]
    backends: tuple[str, ...]
    """Of nccl and gloo, what processes can talk by."""
    compiler: str | None
    """The C++ compiler that torch.compile would find."""


def look_at_machine(out: Path) -> Machine:
    """Gather the facts.

    Args:
        out: folder of the run, there or not; its disk is looked at.
    """
    info = _text(Path("/proc/cpuinfo"))
    return Machine(
        versions={"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        optional={name: importlib.util.find_spec(name) is not None for name in OPTIONAL},
        processor=cpu_name(),
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
    """Processors that a process may keep busy.

    Args:
        num_allowed: processors that it may run on.
        cpu_max: its cgroup's `cpu.max`, microseconds and period or 'max' and period; empty if there is none.
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
    """The first value of a 'name : value' file."""
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
