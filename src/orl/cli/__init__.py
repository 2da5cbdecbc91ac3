"""The command line: a table from verb to function."""

import difflib
import logging
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from types import FrameType

from orl.cli.ablations import command_ablate, command_results
from orl.cli.compare import command_compare
from orl.cli.evaluate import command_evaluate
from orl.cli.figures import command_figures
from orl.cli.files import command_data, command_published_files
from orl.cli.jobs import (
    command_demo,
    command_discover,
    command_doctor,
    command_pretrain,
    command_recipes,
    command_run,
)
from orl.cli.options import types
from orl.cli.results import command_report
from orl.cli.weights import command_export, command_import
from orl.memory import raise_open_file_limit

logger = logging.getLogger("orl")

INTERRUPTED = 130
TERMINATED = 128 + signal.SIGTERM
SEND_AGAIN_S = 0.05
"""Seconds after which a signal is sent again whose exception Python has ignored."""

COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "demo": command_demo,
    "run": command_run,
    "pretrain": command_pretrain,
    "discover": command_discover,
    "evaluate": command_evaluate,
    "compare": command_compare,
    "report": command_report,
    "figures": command_figures,
    "ablate": command_ablate,
    "results": command_results,
    "import": command_import,
    "export": command_export,
    "published-files": command_published_files,
    "data": command_data,
    "doctor": command_doctor,
    "recipes": command_recipes,
}
OLD_NAMES = {"transfer": "evaluate", "exchange": "published-files"}
"""Verbs of version 0.1 and their names now."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 1 an error with its message in one line, 2 a wrong verb or option, 130 after Ctrl-C and
        143 after SIGTERM.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _wait_briefly_for_threads()
    # Figures need Agg only. A notebook's backend, which `!orl` inherits, may be missing where `orl` is installed.
    os.environ["MPLBACKEND"] = "agg"
    raise_open_file_limit()
    _log_to_terminal()
    try:
        with types, _stop_on_sigterm():
            code = _run_command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        # `orl ... | head`: without this, Python reports a broken pipe when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _run_command(arguments: list[str]) -> int:
    verb, *rest = arguments or ["--help"]
    if verb == "help":
        verb, *rest = [*rest, "--help"] if rest else ["--help"]
    if verb in ("-h", "--help"):
        print(_usage())
        return 0
    if verb == "--version":
        print(f"orl {version('orl')}")
        return 0
    if verb in OLD_NAMES:
        logger.warning("'orl %s' is called 'orl %s' now; the next version removes the old name", verb, OLD_NAMES[verb])
        verb = OLD_NAMES[verb]
    if verb not in COMMANDS:
        near = difflib.get_close_matches(verb, [*COMMANDS, *OLD_NAMES, "help"], n=1)
        hint = f"did you mean 'orl {near[0]}'?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"orl: there is no command {verb!r}; {hint}", file=sys.stderr)
        return 2
    try:
        COMMANDS[verb](rest)
    except KeyboardInterrupt as stop:
        return _fail("stopped; the same command resumes", TERMINATED if isinstance(stop, _Terminated) else INTERRUPTED)
    except MemoryError as error:
        return _fail(f"out of memory: use fewer --workers or smaller batches ({_one_line(error)})", 1)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 2
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            raise
        return _fail(_one_line(error), getattr(error, "exit_code", 1))
    return 0


def _usage() -> str:
    lines = [f"  {name:<16}{(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "orl: pre-train vision backbones on images of whole scenes, without labels",
            "",
            "usage: orl COMMAND [options]",
            "       orl run --images IMAGES --out runs/NAME",
            "",
            *lines,
            "",
            "'orl help COMMAND' shows its options with meaning, unit and default; 'orl --version' the version.",
        ]
    )


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which stops a command as Ctrl-C does."""


@contextmanager
def _stop_on_sigterm() -> Iterator[None]:
    """Let SIGTERM stop the command in order, outside training too, which has its own handler.

    Python ignores an exception that is raised in a callback, such as `__del__`: that signal is sent again.
    """
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers in the main thread only
        yield
        return
    main_process = os.getpid()

    def stop(signal_number: int, frame: FrameType | None) -> None:
        if os.getpid() != main_process:  # a forked worker
            os._exit(TERMINATED)
        raise _Terminated

    def send_again(ignored: "sys.UnraisableHookArgs") -> None:
        if not issubclass(ignored.exc_type, KeyboardInterrupt):
            report_ignored(ignored)
            return
        number = signal.SIGTERM if issubclass(ignored.exc_type, _Terminated) else signal.SIGINT
        threading.Timer(SEND_AGAIN_S, os.kill, (main_process, number)).start()

    previous, report_ignored = signal.signal(signal.SIGTERM, stop), sys.unraisablehook
    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = report_ignored
        signal.signal(signal.SIGTERM, previous)


def _reader_is_gone() -> bool:
    """Return True if standard output is a pipe whose reader has closed it."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # Windows, or standard output is not a file
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _wait_briefly_for_threads() -> None:
    """Limit how long torch's threads spin while they wait for each other; must run before torch is imported.

    Spinning threads keep their cores busy, which slows down training while another job runs. The limit costs 5% of the
    speed on an idle machine. Beside a second job training is 1.45 times as fast (see docs/profile.md).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _log_to_terminal() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("orl: %(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _fail(message: str, exit_code: int) -> int:
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.emit(logger.makeRecord("orl", logging.DEBUG, "", 0, traceback.format_exc(), (), None))
    logger.error(message)
    return exit_code


def _one_line(error: Exception) -> str:
    """Return the error's message; that of a loading worker comes wrapped in the text of its traceback."""
    message = str(error) or type(error).__name__
    if "Original Traceback" in message:
        return message.strip().splitlines()[-1].partition(": ")[2] or message
    return message
