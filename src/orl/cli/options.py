"""Settings out of the command line: a recipe or a file first, options on top."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import tyro

from orl.config import RunConfig, load_config
from orl.recipes import DEFAULT_RECIPE, METHODS, RECIPES, with_method
from orl.rundir import RunDir

REQUIRED = Path("(required)")
"""Stands for `images` and `out` until the command line has given them."""
STAGE1_HELP = f"--stage1 METHOD ({', '.join(METHODS)}) sets all that another image-level method needs as stage 1."


def read_config(
    command: str,
    about: str | None,
    arguments: Sequence[str],
    start: RunConfig | None = None,
    required: Sequence[str] = ("images", "out"),
) -> RunConfig:
    """Settings from a recipe or a file, with the options after it on top.

    Args:
        command: the verb, for --help and errors.
        about: what it does, for --help.
        arguments: recipe or file, then options; `--stage1 METHOD` takes the settings of another method as stage 1.
        start: where settings start from when no recipe and no file is given.
        required: paths that must be given.

    Raises:
        ValueError: if one is not given, or an option has a wrong value.
    """
    method, arguments = take_option(arguments, "--stage1", tuple(METHODS))
    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    options = list(arguments[1:] if name else arguments)
    if start is None or name:
        start = _start_config(name, options)
    if method is not None:
        start = with_method(start, method)
    origin = f"Settings start from {name or 'recipe ' + repr(start.recipe)}."
    others = f"Another recipe ({', '.join(RECIPES)}) or a YAML file comes first: orl {command} RECIPE --images ..."
    config = tyro.cli(
        RunConfig,
        default=start,
        args=options,
        prog=f"orl {command}" + (f" {name}" if name else ""),
        description=" ".join([about or "", origin, *([] if name else [others]), STAGE1_HELP]),
    )
    missing = [f"--{key}" for key in required if getattr(config, key) == REQUIRED]
    if missing:
        raise ValueError(
            f"{' and '.join(missing)} must be given: orl {command} --images IMAGES --out runs/NAME "
            f"(orl {command} --help tells all options)"
        )
    return config


def _start_config(name: str | None, options: Sequence[str]) -> RunConfig:
    if name in RECIPES:
        return RECIPES[name](REQUIRED, REQUIRED)
    if name is not None:
        return _load_start(Path(name))
    out = next((after for option, after in pairwise(options) if option == "--out"), None)
    out = out or next((option.removeprefix("--out=") for option in options if option.startswith("--out=")), None)
    if out is not None and RunDir(Path(out)).config.exists():
        return _load_start(RunDir(Path(out)).config)
    return RECIPES[DEFAULT_RECIPE](REQUIRED, REQUIRED)


def _load_start(path: Path) -> RunConfig:
    """Settings from a file, which may leave `images` and `out` to the command line."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is neither a recipe ({', '.join(RECIPES)}) nor a YAML file; images are given with --images"
        )
    return load_config(path, {"images": str(REQUIRED), "out": str(REQUIRED)})


Choice = TypeVar("Choice", bound=str)


def take_option(arguments: Sequence[str], option: str, choices: Sequence[Choice]) -> tuple[Choice | None, list[str]]:
    """Take one option with a value out of the arguments; None when it is not there."""
    value, arguments = _take_value(arguments, option)
    if value is None:
        return None, arguments
    found = next((choice for choice in choices if choice == value), None)
    if found is None:
        raise ValueError(f"{option} takes {' or '.join(choices)}, not {value!r}")
    return found, arguments


def take_path(arguments: Sequence[str], option: str) -> tuple[Path | None, list[str]]:
    """Take one option with a path out of the arguments, given as `--option PATH` or `--option=PATH`."""
    value, arguments = _take_value(arguments, option)
    if value is not None and (not value or value.startswith("--")):
        raise ValueError(f"{option} needs a path, not {value!r}")
    return None if value is None else Path(value), arguments


def take_number(arguments: Sequence[str], option: str) -> tuple[int | None, list[str]]:
    """Take one option with a whole number above 0 out of the arguments."""
    value, arguments = _take_value(arguments, option)
    if value is not None and not (value.isdecimal() and int(value)):
        raise ValueError(f"{option} needs a whole number above 0, not {value!r}")
    return None if value is None else int(value), arguments


def take_flag(arguments: Sequence[str], option: str) -> tuple[bool, list[str]]:
    """Take an option without a value out of the arguments: whether it is there."""
    return option in arguments, [given for given in arguments if given != option]


def _take_value(arguments: Sequence[str], option: str) -> tuple[str | None, list[str]]:
    """The value of `--option VALUE` or `--option=VALUE`, None if the option is not there; and the other arguments."""
    arguments = list(arguments)
    at = next((at for at, given in enumerate(arguments) if given.partition("=")[0] == option), None)
    if at is None:
        return None, arguments
    _, joined, value = arguments[at].partition("=")
    value = value if joined else "".join(arguments[at + 1 : at + 2])
    return value, arguments[:at] + arguments[at + (1 if joined else 2) :]


def finish(what: str, path: Path | None) -> None:
    if path is not None:  # only the first of several processes has one
        print(f"{what}: {path.resolve()}")
