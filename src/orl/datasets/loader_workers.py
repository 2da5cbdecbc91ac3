"""Worker processes of a data loader."""

import signal


def ignore_interrupts(worker_id: int) -> None:
    """Leave Ctrl-C to the main process, which then stops its loader workers in order.

    Pass it as the `worker_init_fn` of a `DataLoader`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
