"""The command line: a table from verb to function."""

import dataclasses
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import tyro

from orl.config import RunConfig, TransferConfig, load_config
from orl.recipes import DEFAULT_RECIPE, RECIPES
from orl.rundir import RunDir, record_stage

logger = logging.getLogger("orl")

DEMO_IMAGES, DEMO_OUT = Path("runs/demo-scenes"), Path("runs/demo")
REQUIRED = Path("(required)")
"""Stands for `images` and `out` until the command line has given them."""
INTERRUPTED = 130


def command_demo(arguments: Sequence[str]) -> None:
    """Draw labelled scenes and do everything with them: minutes on two processor cores."""
    start = dataclasses.replace(RECIPES["demo"](DEMO_IMAGES, DEMO_OUT), transfer_data=DEMO_IMAGES)
    config = _read_config("demo", arguments, start)
    from orl.run import run_demo

    _finish("report", run_demo(config))


def command_run(arguments: Sequence[str]) -> None:
    """Stage 1, stage 2, stage 3 and the report; with --transfer-data the judges too."""
    config = _read_config("run", arguments)
    from orl.run import run_all

    _finish("report", run_all(config))


def command_pretrain(arguments: Sequence[str]) -> None:
    """One training stage: --method byol is stage 1, --method orl is stage 3."""
    method, arguments = _take_option(arguments, "--method", ("byol", "orl"))
    config = _read_config("pretrain", arguments)
    from orl.run import run_pretrain

    _finish("backbone", run_pretrain(config, method))


def command_discover(arguments: Sequence[str]) -> None:
    """Stage 2: neighbours, proposals, RoIs and correspondences, with the network of stage 1."""
    config = _read_config("discover", arguments)
    from orl.run import run_discover
    from orl.stages.summary import discover_summary, format_summary

    correspondences = run_discover(config)
    if correspondences is not None:
        print(format_summary(discover_summary(RunDir(config.out))))
        _finish("correspondences", correspondences)


def command_transfer(arguments: Sequence[str]) -> None:
    """Judge a backbone on a labelled set: `orl transfer svm` or `orl transfer knn`."""

    def transfer(
        task: Annotated[Literal["svm", "knn"], tyro.conf.Positional],
        backbone: Path,
        data: Path,
        out: Path | None = None,
        train_split: str = "trainval",
        test_split: str = "test",
        size_px: int = 224,
        knn_neighbours: int = 20,
        knn_temperature: float = 0.07,
        seed: int = 0,
        workers: int = 2,
        device: Literal["auto", "cpu", "cuda"] = "auto",
    ) -> None:
        """Judge a frozen backbone by linear SVMs (the VOC07 protocol) or by its weighted nearest neighbours.

        Args:
            task: svm or knn.
            backbone: the backbone.safetensors of a stage.
            data: a VOC devkit, or a drawn set, which has the same layout.
            out: where to write the result as JSON; beside the backbone if not given.
            train_split: split to learn from.
            test_split: split to score.
            size_px: side that a photo is squeezed to, pixels.
            knn_neighbours: neighbours that vote.
            knn_temperature: temperature of a vote's weight.
            seed: of LIBLINEAR.
            workers: processes that read photos and fit SVMs.
            device: where to compute.
        """
        settings = TransferConfig(
            train_split=train_split,
            test_split=test_split,
            size_px=size_px,
            knn_neighbours=knn_neighbours,
            knn_temperature=knn_temperature,
        )
        config = RunConfig(
            images=data, out=Path(), transfer_data=data, seed=seed, workers=workers, device=device, transfer=settings
        )
        path = out or backbone.with_name(f"{task}_{data.resolve().name}.json")
        from orl.run import judge_file

        result = judge_file(task, backbone, path, config)
        _finish("result", path)
        print(f"{task}: mean AP {100 * result['mean_ap']:.2f} over {len(result['per_class_ap'])} classes")

    tyro.cli(transfer, args=list(arguments), prog="orl transfer")


def command_report(arguments: Sequence[str]) -> None:
    """Write the HTML report of a run from whatever it has left so far."""

    def report(run: Annotated[Path, tyro.conf.Positional]) -> None:
        """Write report/index.html.

        Args:
            run: folder of the run.
        """
        if not RunDir(run).config.exists():
            raise FileNotFoundError(f"no run at {run}: there is no {RunDir(run).config.name} in it")
        from orl.run import report_run

        _finish("report", report_run(dataclasses.replace(load_config(RunDir(run).config), out=run)))

    tyro.cli(report, args=list(arguments), prog="orl report")


def command_figures(arguments: Sequence[str]) -> None:
    """Draw what discovery found: `orl figures proposals` or `orl figures correspondences`."""
    from orl.figures.jobs import Order, correspondence_sheet, proposal_sheet
    from orl.figures.sheets import SheetOptions

    def correspondences(
        run: Annotated[Path, tyro.conf.Positional],
        sheet: tyro.conf.OmitArgPrefixes[SheetOptions],
        order: Order = "top",
        pairs: int = 3,
    ) -> None:
        """Photos beside a neighbour each, the best pairs of RoIs joined, with their similarity (a cosine).

        Args:
            run: folder of a run whose stage 2 is done.
            sheet: layout.
            order: which pairs of photos: by their best RoIs (top, lowest), drawn at random, or photo by photo in turn.
            pairs: most pairs of RoIs in each, from 1 to 6.
        """
        _finish("figure", correspondence_sheet(RunDir(run), sheet, order, pairs))

    def proposals(
        run: Annotated[Path, tyro.conf.Positional],
        sheet: tyro.conf.OmitArgPrefixes[SheetOptions],
        boxes: int = 150,
    ) -> None:
        """Photos drawn at random, each with its proposals and beside them the RoIs that the filter kept.

        Args:
            run: folder of a run whose stage 2 has filtered the proposals.
            sheet: layout.
            boxes: most proposals drawn of a photo; of more, a random choice.
        """
        _finish("figure", proposal_sheet(RunDir(run), sheet, boxes))

    kinds: dict[str, Callable[..., None]] = {"correspondences": correspondences, "proposals": proposals}
    tyro.extras.subcommand_cli_from_dict(
        kinds, args=list(arguments), prog="orl figures", description=command_figures.__doc__
    )


def command_exchange(arguments: Sequence[str]) -> None:
    """The published JSON files of stage 2: `orl exchange write RUN --to DIR`, or `orl exchange read`.

    Reading takes `--correspondences FILE` (enough for stage 3), `--neighbours FILE` and `--proposals FILE`, at least
    one of them, and beside them the options of the run that the tables are for.
    """
    verbs = {"write": _exchange_write, "read": _exchange_read}
    verb, *options = arguments or [""]
    if verb in ("-h", "--help"):
        print(f"usage: orl exchange write|read [options]\n\n{command_exchange.__doc__}")
    elif verb not in verbs:
        raise ValueError(f"orl exchange takes {' or '.join(verbs)}, not {verb!r}: orl exchange write RUN --to DIR")
    else:
        verbs[verb](options)


def _exchange_write(arguments: Sequence[str]) -> None:
    def write(run: Annotated[Path, tyro.conf.Positional], to: Path, overwrite: bool = False) -> None:
        """Write the published JSON files of a finished stage 2; their names begin with that of the run.

        Args:
            run: folder of the run.
            to: folder for the files.
            overwrite: replace files that are there.
        """
        from orl.exchange.writing import write_published
        from orl.images.table import load_images

        folder, source = RunDir(run), load_config(RunDir(run).config).images
        name = run.resolve().name
        for path in write_published(folder.table(""), load_images(folder.images), source, to, name, overwrite):
            _finish("file", path)

    tyro.cli(write, args=list(arguments), prog="orl exchange write")


def _exchange_read(arguments: Sequence[str]) -> None:
    paths: dict[str, Path | None] = {}
    for name in ("proposals", "neighbours", "correspondences"):
        paths[name], arguments = _take_path(arguments, f"--{name}")
    config = _read_config("exchange read", arguments)
    from orl.exchange.reading import PublishedFiles, RunTables, read_published
    from orl.run import prepare

    files = PublishedFiles(**paths)
    images = prepare(config)
    run, started = RunDir(config.out), time.monotonic()
    target = RunTables(folder=run.table(""), shard_size=config.discover.shard_size, overwrite=config.overwrite)
    found = read_published(files, images, config.images, target)
    record_stage(run, "exchange", "done", time.monotonic() - started)
    for name in found:
        _finish(name, run.table(name))


def command_data(arguments: Sequence[str]) -> None:
    """Photo sets: `orl data pack` makes a copy that is read without decoding, `orl data check` looks at every photo."""
    from orl.config import ScanConfig
    from orl.stages.check import check_source, format_check
    from orl.stages.pack import PackOptions, pack_photos

    def pack(options: tyro.conf.OmitArgPrefixes[PackOptions]) -> None:
        """Copy photos, reduced to a set size, into a few memory-mapped files with checksums; --images takes the folder.

        A packing that was stopped goes on with the same command.

        Args:
            options: what is packed, and how.
        """
        _finish("pack", pack_photos(options))

    def check(
        path: Annotated[Path, tyro.conf.Positional],
        scan: tyro.conf.OmitArgPrefixes[ScanConfig],
        split: str | None = None,
        workers: int = 2,
    ) -> None:
        """Tell how many photos can be used, why others cannot, and their sizes; of a pack, compare all checksums.

        Args:
            path: photos: a folder, a list file, a COCO JSON, a VOC devkit or a pack.
            scan: which photos are taken.
            split: split of a VOC devkit, 'trainval' if not given.
            workers: processes that read photos.
        """
        print(format_check(check_source(path, split, scan, workers)))

    verbs: dict[str, Callable[..., None]] = {"pack": pack, "check": check}
    tyro.extras.subcommand_cli_from_dict(verbs, args=list(arguments), prog="orl data", description=command_data.__doc__)


def command_doctor(arguments: Sequence[str]) -> None:
    """Whether a recipe will work here: versions, devices, the batch that fits, hours; tries some photos for a minute.

    Takes `--photos N` (what hours are for, when there are no --images yet), `--processes N` (how many would train
    together, each on devices as here) and `--json FILE`, and beside them the options of the run. Without --images
    scenes are drawn. The exit code is 1 if something will not work.
    """
    path, arguments = _take_path(arguments, "--json")
    num_photos, arguments = _take_number(arguments, "--photos")
    num_processes, arguments = _take_number(arguments, "--processes")
    config = _read_config("doctor", arguments, required=())
    from orl.doctor.report import examine, format_examination, to_json
    from orl.tables import write_atomically

    out = Path() if config.out == REQUIRED else config.out
    images = None if config.images == REQUIRED else config.images
    config = dataclasses.replace(config, out=out)
    examination = examine(config, images, num_photos=num_photos, num_processes=num_processes or 1)
    print(format_examination(examination))
    if path is not None:
        write_atomically(path, json.dumps(to_json(examination), indent=1))
        _finish("result", path)
    if not examination.works:
        raise SystemExit(1)


def command_recipes(arguments: Sequence[str]) -> None:
    """List the recipes."""
    for name, recipe in RECIPES.items():
        print(f"{name}: {recipe.__doc__}")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "demo": command_demo,
    "run": command_run,
    "pretrain": command_pretrain,
    "discover": command_discover,
    "transfer": command_transfer,
    "report": command_report,
    "figures": command_figures,
    "exchange": command_exchange,
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


def _read_config(
    command: str,
    arguments: Sequence[str],
    start: RunConfig | None = None,
    required: Sequence[str] = ("images", "out"),
) -> RunConfig:
    """Settings from a recipe or a file, with the options after it on top."""
    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    options = list(arguments[1:] if name else arguments)
    if start is None or name:
        start = _start_config(name, options)
    origin = f"Settings start from {name or 'recipe ' + repr(start.recipe)}."
    others = f"Another recipe ({', '.join(RECIPES)}) or a YAML file comes first: orl {command} RECIPE --images ..."
    config = tyro.cli(
        RunConfig,
        default=start,
        args=options,
        prog=f"orl {command}" + (f" {name}" if name else ""),
        description=" ".join([COMMANDS[command.split()[0]].__doc__ or "", origin, *([] if name else [others])]),
    )
    missing = [f"--{key}" for key in required if getattr(config, key) == REQUIRED]
    if missing:
        raise ValueError(
            f"{' and '.join(missing)} must be given: orl {command} --images PHOTOS --out runs/NAME "
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
            f"{path} is neither a recipe ({', '.join(RECIPES)}) nor a YAML file; photos are given with --images"
        )
    return load_config(path, {"images": str(REQUIRED), "out": str(REQUIRED)})


def _take_option(arguments: Sequence[str], option: str, choices: Sequence[str]) -> tuple[str, list[str]]:
    """Take one option with a value out of the arguments; the first choice when it is not there."""
    arguments = list(arguments)
    if option not in arguments:
        return choices[0], arguments
    at = arguments.index(option)
    value = arguments[at + 1] if at + 1 < len(arguments) else ""
    if value not in choices:
        raise ValueError(f"{option} takes {' or '.join(choices)}, not {value!r}")
    return value, arguments[:at] + arguments[at + 2 :]


def _take_path(arguments: Sequence[str], option: str) -> tuple[Path | None, list[str]]:
    """Take one option with a path out of the arguments, given as `--option PATH` or `--option=PATH`."""
    value, arguments = _take_value(arguments, option)
    if value is not None and (not value or value.startswith("--")):
        raise ValueError(f"{option} needs the path of a JSON file, not {value!r}")
    return None if value is None else Path(value), arguments


def _take_number(arguments: Sequence[str], option: str) -> tuple[int | None, list[str]]:
    """Take one option with a whole number above 0 out of the arguments."""
    value, arguments = _take_value(arguments, option)
    if value is not None and not (value.isdecimal() and int(value)):
        raise ValueError(f"{option} needs a whole number above 0, not {value!r}")
    return None if value is None else int(value), arguments


def _take_value(arguments: Sequence[str], option: str) -> tuple[str | None, list[str]]:
    """The value of `--option VALUE` or `--option=VALUE`, None if the option is not there; and the other arguments."""
    arguments = list(arguments)
    at = next((at for at, given in enumerate(arguments) if given.partition("=")[0] == option), None)
    if at is None:
        return None, arguments
    _, joined, value = arguments[at].partition("=")
    value = value if joined else "".join(arguments[at + 1 : at + 2])
    return value, arguments[:at] + arguments[at + (1 if joined else 2) :]


def _usage() -> str:
    lines = [f"  {name:<10}{(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "orl: pre-train vision backbones on photos of whole scenes, without labels",
            "",
            "usage: orl COMMAND [RECIPE or FILE.yaml] --images PHOTOS --out runs/NAME [options]",
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


def _finish(what: str, path: Path | None) -> None:
    if path is not None:  # only the first of several processes has one
        print(f"{what}: {path.resolve()}")


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
