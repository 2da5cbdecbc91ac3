"""The processes of one run, on one machine or several: who makes which shard, and how they agree and wait.

torchrun or SLURM starts them. Tables go through the run's folder, which the machines must share; only training sends
more than small numbers from process to process.
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

logger = logging.getLogger(__name__)

TIMEOUT = timedelta(hours=6)
"""How long a process waits for others that live: for the scan of the images, or for the last shard of a table.

One that ends is noticed at once.
"""

NCCL_TIMEOUT = timedelta(minutes=30)
"""The same for gradients between GPUs. All longer waits are gloo's; NCCL does not notice that a process has ended."""
SLURM_FIRST_PORT = 15_000
"""Processes of a SLURM job meet at this port plus the last four digits of the job's number."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Who this process is among those of the run: the only one, if nothing is given."""

    rank: int = 0
    count: int = 1
    num_local: int = 1
    """Processes on this machine."""
    store: dist.Store | None = None
    """Where shards are dealt; none for one process."""
    group: Any = None
    """The processes as gloo joins them, which notices at once when one ends; none for torch's own group."""
    _deals: Iterator[int] = field(default_factory=itertools.count, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether this process does what is done once."""
        return self.rank == 0

    def deal(self, items: Sequence[T]) -> Iterator[tuple[int, T]]:
        """The items that fall to this process, with their place among all: each goes to the next that is free.

        Every process must ask for the same items, in the same order of calls.
        """
        store, key = self.store, f"deal {next(self._deals)}"
        if store is None:
            yield from enumerate(items)
            return
        while (place := self._together(lambda: store.add(key, 1), "its next shard") - 1) < len(items):
            yield place, items[place]

    def from_first(self, make: Callable[[], T], what: str) -> T:
        """What the first process makes, given to all.

        Raises:
            RuntimeError: as `wait`.
        """
        shared: list[Any] = [make() if self.is_first else None]
        if self.count > 1:
            self._together(lambda: dist.broadcast_object_list(shared, src=0, group=self.group), what)
        return shared[0]

    def gather(self, *numbers: int) -> list[tuple[int, ...]]:
        """These numbers of every process, in the order of ranks, in all processes.

        Raises:
            RuntimeError: as `wait`.
        """
        if self.count == 1:
            return [numbers]
        own = torch.tensor(numbers)
        parts = [torch.empty_like(own) for _ in range(self.count)]
        self._together(lambda: dist.all_gather(parts, own, group=self.group), "the other processes' step")
        return [tuple(part.tolist()) for part in parts]

    def gather_lists(self, rows: Sequence[T]) -> list[T]:
        """The rows of all processes, in the order of ranks, in all processes.

        Raises:
            RuntimeError: as `wait`.
        """
        if self.count == 1:
            return list(rows)
        parts: list[Any] = [None] * self.count
        self._together(
            lambda: dist.all_gather_object(parts, list(rows), group=self.group), "the other processes' messages"
        )
        return [row for part in parts for row in part]

    def wait(self, what: str) -> None:
        """Go on when all processes have come here.

        Args:
            what: what is waited for, for the error.

        Raises:
            RuntimeError: if another process ended, or did not come within `TIMEOUT`.
        """
        if self.count > 1:
            self._together(lambda: dist.monitored_barrier(group=self.group, timeout=TIMEOUT), what)

    def _together(self, call: Callable[[], T], what: str) -> T:
        try:
            return call()
        except RuntimeError as error:
            raise RuntimeError(
                f"process {self.rank} of {self.count} stops: while it waited for {what}, another process ended, and "
                f"its own message says why, or did not come within {TIMEOUT.total_seconds() / 3600:g} hours "
                f"({str(error).splitlines()[0]}). Finished shards are kept: give the same command again"
            ) from error


def num_processes() -> int:
    """How many processes torchrun, srun, or whoever set torchrun's variables, started."""
    _adopt_slurm()
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined_processes(device: torch.device) -> Iterator[Processes]:
    """Join the other processes of the run, if several were started; processes but the first log warnings only.

    Args:
        device: GPUs exchange gradients by NCCL; all else goes by gloo.

    Raises:
        ValueError: if torchrun's variables are not all there.
        RuntimeError: if the others cannot be reached.
    """
    if num_processes() == 1:
        yield Processes()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(f"WORLD_SIZE is {num_processes()}, but {', '.join(missing)} is not set; start by torchrun")
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


def _adopt_slurm() -> None:
    """Say in torchrun's words what srun says in its own; torchrun started within SLURM goes first."""
    environ = os.environ
    if "WORLD_SIZE" in environ or int(environ.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return
    first_host = SLURMEnvironment.resolve_root_node_address(environ["SLURM_STEP_NODELIST"])
    tasks_per_node = environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split(",")[0].split("(")[0]
    environ.setdefault("MASTER_ADDR", first_host)
    environ.setdefault("MASTER_PORT", str(SLURM_FIRST_PORT + int(environ.get("SLURM_JOB_ID", "0")) % 10_000))
    environ.update(
        WORLD_SIZE=environ["SLURM_STEP_NUM_TASKS"],
        RANK=environ["SLURM_PROCID"],
        LOCAL_RANK=environ["SLURM_LOCALID"],
        LOCAL_WORLD_SIZE=tasks_per_node,
    )


def local_device(name: str) -> torch.device:
    """As `compute_device`; several processes of a machine take its GPUs in turn.

    Raises:
        ValueError: if a GPU is asked for and there is none.
    """
    device = compute_device(name)
    if device.type == "cuda" and num_processes() > 1:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    return device
