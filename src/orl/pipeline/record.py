"""The record of a run: `run.json` with versions, machine and the state of each stage, and the log file."""

import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orl import files
from orl.processes import Processes
from orl.rundir import RunDir, read_record
from orl.training.interrupts import Stopped

logger = logging.getLogger(__name__)

RECORDED_PACKAGES = ("torch", "torchvision", "numpy", "numba", "scikit-learn")


def begin_record(run: RunDir, facts: Mapping[str, Any]) -> None:
    """Create the folder of a run, remove incomplete files of killed processes, and open its record and log."""
    run.root.mkdir(parents=True, exist_ok=True)
    for folder in (run.root, run.table("")):
        files.remove_stale_temporaries(folder)
    log_to_file(run)
    record_run(run, facts)


def record_run(run: RunDir, facts: Mapping[str, Any]) -> None:
    """Write command, versions, machine and the given facts to `run.json`; keep the states of stages."""
    record = {
        **facts,
        "command": shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "orl"), *sys.argv[1:]]),
        "orl": version("orl"),
        "git": _commit(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs ({cpu_name()})",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in RECORDED_PACKAGES}},
        "stages": read_record(run).get("stages", {}),
    }
    files.write_atomically(run.record, json.dumps(record, indent=1))


def record_stage(run: RunDir, stage: str, state: str, elapsed_s: float) -> None:
    """Write the state of a stage, 'done', 'stopped' or 'failed', and add to its seconds."""
    record = read_record(run)
    stages = record.setdefault("stages", {})
    before = stages.get(stage, {})
    stages[stage] = {"state": state, "elapsed_s": round(before.get("elapsed_s", 0) + elapsed_s, 1)}
    files.write_atomically(run.record, json.dumps(record, indent=1))


@contextmanager
def recorded_stage(run: RunDir, stage: str, processes: Processes | None = None) -> Iterator[None]:
    """Record the state and the seconds of the block as those of a stage; only the first process writes."""
    if processes is not None and not processes.is_first:
        yield
        return
    state, started = "failed", time.monotonic()
    try:
        yield
        state = "done"
    except (Stopped, KeyboardInterrupt):
        state = "stopped"
        raise
    finally:
        try:
            record_stage(run, stage, state, time.monotonic() - started)
        except OSError as error:
            # This failure must not replace the error of the block itself, such as a full disk.
            logger.warning("the state of %s is not recorded: %s", stage, error)


def forget_stage(run: RunDir, stage: str) -> None:
    """Delete the time and the scores of a training stage that starts from scratch."""
    for path in run.evaluation("*", stage).parent.glob(run.evaluation("*", stage).name):
        path.unlink(missing_ok=True)
    record = read_record(run)
    if record.get("stages", {}).pop(stage, None) is not None:
        files.write_atomically(run.record, json.dumps(record, indent=1))


class LogFile(logging.FileHandler):
    """Log of a run; when it cannot be written, one line on the terminal says so, and the run goes on without it."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Stop writing to the file; called for an error of the latest write."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        logging.getLogger("orl").removeHandler(self)
        with suppress(OSError):
            self.close()
        logger.warning("the log is not written to %s any more: %s", self.baseFilename, error)


def log_to_file(run: RunDir) -> None:
    """Append the package's log to this run's `log.txt`, and no longer to that of an earlier run."""
    package = logging.getLogger("orl")
    path = str(run.log.resolve())
    earlier = [handler for handler in package.handlers if isinstance(handler, logging.FileHandler)]
    if any(handler.baseFilename == path for handler in earlier):
        return
    for handler in earlier:
        package.removeHandler(handler)
        handler.close()
    handler = LogFile(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package.addHandler(handler)


def cpu_name() -> str:
    """Return the name of the CPU as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of the checkout with a note of local changes; None for an installed package."""
    here = Path(__file__).parents[1]
    try:
        commit, changed = (
            subprocess.run(["git", "-C", here, *command], capture_output=True, text=True, check=True, timeout=10).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "."])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.strip() + (" with local changes" if changed.strip() else "")
