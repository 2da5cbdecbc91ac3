"""The processes of one discovery, on one machine or several: who makes which shard, and how they wait for others.

Nothing but shard numbers goes from process to process, and so gloo serves machines with GPUs too: all results go
through the run's folder, which the machines must share.
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

from orl.networks.device import compute_device

logger = logging.getLogger(__name__)

TIMEOUT = timedelta(hours=6)
"""How long a process waits for others that live: for the scan of the photos, or for the last shard of a table.

One that ends is noticed at once.
"""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Who this process is among those of the run: the only one, if nothing is given."""

    rank: int = 0
    count: int = 1
    store: dist.Store | None = None
    """Where shards are dealt; none for one process."""
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
            self._together(lambda: dist.broadcast_object_list(shared, src=0), what)
        return shared[0]

    def wait(self, what: str) -> None:
        """Go on when all processes have come here.

        Args:
            what: what is waited for, for the error.

        Raises:
            RuntimeError: if another process ended, or did not come within `TIMEOUT`.
        """
        if self.count > 1:
            self._together(lambda: dist.monitored_barrier(timeout=TIMEOUT), what)

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
    """How many processes torchrun, or whoever set its variables, started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the other processes of the run, if torchrun started several; processes but the first log warnings only.

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
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=TIMEOUT)
    if rank > 0:
        logging.getLogger("orl").setLevel(logging.WARNING)
    try:
        yield Processes(rank=rank, count=world_size, store=dist.PrefixStore("orl", store))
    finally:
        dist.destroy_process_group()


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
