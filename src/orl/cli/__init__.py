"""The command line: a table from verb to function."""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from orl.cli.ablations import command_ablate, command_results
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
from orl.cli.results import command_report
from orl.cli.weights import command_export, command_import

logger = logging.getLogger("orl")

INTERRUPTED = 130

COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "demo": command_demo,
    "run": command_run,
    "pretrain": command_pretrain,
    "discover": command_discover,
    "evaluate": command_evaluate,
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 an error that is told in one line, 2 a wrong option."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _wait_briefly_for_threads()
    _log_to_terminal()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] not in COMMANDS:
        print(f"orl: there is no command {arguments[0]!r}\n\n{_usage()}", file=sys.stderr)
        return 2
    try:
        COMMANDS[arguments[0]](arguments[1:])
    except KeyboardInterrupt:
        return _fail("stopped; the same command goes on from here", INTERRUPTED)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 2
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        return _fail(_one_line(error), getattr(error, "exit_code", 1))
    return 0


def _usage() -> str:
    lines = [f"  {name:<10}{(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "orl: pre-train vision backbones on images of whole scenes, without labels",
            "",
            "usage: orl COMMAND [RECIPE or FILE.yaml] --images IMAGES --out runs/NAME [options]",
            "",
            *lines,
            "",
            "Every command has --help, with the meaning, unit and default of each option.",
        ]
    )


def _wait_briefly_for_threads() -> None:
    """Let torch's threads sleep soon while they wait for each other; nothing else has imported torch yet.

    By default they keep their processors busy for a while, and beside any other job training slows down by far more
    than its share. Alone this costs a twentieth, and beside a second job training is 1.45 times as fast (see
    docs/profile.md).
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
    """The error's own words; those from a loading worker come wrapped in the text of its traceback."""
    message = str(error) or type(error).__name__
    if "Original Traceback" in message:
        return message.strip().splitlines()[-1].partition(": ")[2] or message
    return message
