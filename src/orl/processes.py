"""Processes of one run, on one machine or several: joining, distribution of shards, exchange of numbers, and barriers.

torchrun or SLURM starts them. Tables go through the run's folder, which the machines must share. Only training sends
more than small numbers between processes.
"""

import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments import SLURMEnvironment

from orl.networks.device import compute_device

TIMEOUT = timedelta(hours=6)
"""Longest wait for other processes that are alive: for the scan of the images, or for the last shard of a table.

The end of a process is noticed at once.
"""
NCCL_TIMEOUT = timedelta(minutes=30)
"""Longest wait for gradients between GPUs; shorter, since NCCL does not notice that a process has ended."""
SLURM_FIRST_PORT = 15_000
"""Port of a SLURM job: this number plus the last four digits of the job's number."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Rank of this process among those of the run; by default the only one."""

    rank: int = 0
    count: int = 1
    num_local: int = 1
    """Number of processes on this machine."""
    store: dist.Store | None = None
    """Store from which shards are assigned; None for one process."""
    group: Any = None
    """Gloo group, which notices at once when a process ends; None for torch's default group."""
    _deals: Iterator[int] = field(default_factory=itertools.count, repr=False)

    @property
    def is_first(self) -> bool:
        """True in the process that scans, writes and reports."""
        return self.rank == 0

    def deal(self, items: Sequence[T]) -> Iterator[tuple[int, T]]:
        """Yield the items of this process with their index; each item goes to the next free process.

        All processes must pass the same items, in the same order of calls.
        """
        store, key = self.store, f"deal {next(self._deals)}"
        if store is None:
            yield from enumerate(items)
            return
        while (index := self._call(lambda: store.add(key, 1), "its next shard") - 1) < len(items):
            yield index, items[index]

    def from_first(self, make: Callable[[], T], what: str) -> T:
        """Call `make` in the first process and return its result in all.

        Raises:
            RuntimeError: if another process ended or did not answer in time.
        """
        shared: list[Any] = [make() if self.is_first else None]
        if self.count > 1:
            self._call(lambda: dist.broadcast_object_list(shared, src=0, group=self.group), what)
        return shared[0]

    def gather(self, *numbers: int) -> list[tuple[int, ...]]:
        """Return the numbers of every process, in the order of ranks.

        Raises:
            RuntimeError: if another process ended or did not answer in time.
        """
        if self.count == 1:
            return [numbers]
        own = torch.tensor(numbers)
        parts = [torch.empty_like(own) for _ in range(self.count)]
        self._call(lambda: dist.all_gather(parts, own, group=self.group), "the other processes' step")
        return [tuple(part.tolist()) for part in parts]

    def gather_lists(self, rows: Sequence[T]) -> list[T]:
        """Return the rows of all processes, in the order of ranks.

        Raises:
            RuntimeError: if another process ended or did not answer in time.
        """
        if self.count == 1:
            return list(rows)
        parts: list[Any] = [None] * self.count
        self._call(lambda: dist.all_gather_object(parts, list(rows), group=self.group), "the other processes' messages")
        return [row for part in parts for row in part]

    def wait(self, what: str) -> None:
        """Wait until all processes have called this.

        Args:
            what: description of the awaited work, for the error.

        Raises:
            RuntimeError: if another process ended, or did not answer within `TIMEOUT`.
        """
        if self.count > 1:
            self._call(lambda: dist.monitored_barrier(group=self.group, timeout=TIMEOUT), what)

    def _call(self, call: Callable[[], T], what: str) -> T:
        try:
            return call()
        except RuntimeError as error:
            raise RuntimeError(
                f"process {self.rank} of {self.count} stops: while it waited for {what}, another process ended, and "
                f"its own message says why, or did not answer within {TIMEOUT.total_seconds() / 3600:g} hours "
                f"({str(error).splitlines()[0]}). Finished shards are kept: give the same command again"
            ) from error


def num_processes() -> int:
    """Return the number of processes that torchrun or srun started, from the environment."""
    return int(torchrun_variables().get("WORLD_SIZE", "1"))


def torchrun_variables() -> dict[str, str]:
    """Return torchrun's environment variables for this process, translated from srun's where srun started it.

    torchrun started within SLURM comes first. The environment is only read.
    """
    environ = os.environ
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    given = {name: environ[name] for name in names if name in environ}
    if "WORLD_SIZE" in given or int(environ.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return given
    tasks_per_node = environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split(",")[0].split("(")[0]
    return {
        "MASTER_ADDR": SLURMEnvironment.resolve_root_node_address(environ["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(SLURM_FIRST_PORT + int(environ.get("SLURM_JOB_ID", "0")) % 10_000),
        **given,
        "WORLD_SIZE": environ["SLURM_STEP_NUM_TASKS"],
        "RANK": environ["SLURM_PROCID"],
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": tasks_per_node,
    }


@contextmanager
def joined_processes(device: torch.device) -> Iterator[Processes]:
    """Join the other processes of the run, if several were started; all but the first log warnings only.

    torchrun's variables are set in the environment here, once, for torch and Fabric.

    Args:
        device: GPUs exchange gradients by NCCL; all else goes through gloo.

    Raises:
        ValueError: if torchrun's variables are not all there.
        RuntimeError: if the others cannot be reached.
    """
    variables = torchrun_variables()
    if int(variables.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in variables]
    if missing:
        raise ValueError(
            f"WORLD_SIZE is {variables['WORLD_SIZE']}, but {', '.join(missing)} is not set; start by torchrun"
        )
    os.environ.update(variables)
    store, rank, world_size = next(iter(dist.rendezvous("env://", timeout=timedelta(minutes=5))))
    backend, timeout = ("nccl", NCCL_TIMEOUT) if device.type == "cuda" else ("gloo", TIMEOUT)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    group = dist.new_group(backend="gloo", timeout=TIMEOUT)
    if rank > 0:
        logging.getLogger("orl").setLevel(logging.WARNING)
    num_local = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    try:
        own_store = dist.PrefixStore("orl", store)
        yield Processes(rank=rank, count=world_size, num_local=num_local, store=own_store, group=group)
    finally:
        dist.destroy_process_group()


def local_device(name: str) -> torch.device:
    """Return the device of this process: as `compute_device`, with one GPU of the machine per process.

    Raises:
        ValueError: if a GPU is asked for and there is none.
    """
    device = compute_device(name)
    if device.type == "cuda" and num_processes() > 1:
        device = torch.device("cuda", int(torchrun_variables().get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    return device
