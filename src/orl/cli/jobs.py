"""Commands that work on a run: all stages, single stages, and a check of the machine."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orl.cli.options import (
    TRAINING_OPTIONS,
    DiscoverShortcuts,
    NoOptions,
    PretrainShortcuts,
    RunVerb,
    Shortcuts,
    finish,
    read_config,
    read_options,
)
from orl.config import RunConfig
from orl.recipes import METHODS, RECIPES, REQUIRED
from orl.rundir import RunDir

DEMO_IMAGES, DEMO_OUT = Path("runs/demo-scenes"), Path("runs/demo")


def command_demo(arguments: Sequence[str]) -> None:
    """Draw labelled synthetic scenes and run everything on them: minutes on two CPU cores."""
    recipe = RECIPES["demo"](DEMO_IMAGES, DEMO_OUT)
    evaluation = dataclasses.replace(recipe.evaluation, shots=(1, 4, 16))
    default = dataclasses.replace(recipe, eval_data=DEMO_IMAGES, evaluation=evaluation)
    config = read_config(RunVerb(name="demo", about=command_demo.__doc__, default=default), arguments)
    from orl.pipeline.run import run_demo

    _finish_run(config, run_demo(config))


def command_run(arguments: Sequence[str]) -> None:
    """Run stage 1, stage 2 and stage 3, the evaluations (with --eval-data) and the report.

    The same command resumes a run that was stopped.
    """
    config = read_config(RunVerb(name="run", about=command_run.__doc__), arguments)
    from orl.pipeline.run import run_all

    _finish_run(config, run_all(config))


def _finish_run(config: RunConfig, report: Path | None) -> None:
    """Print the path of the weights and how to use them; only the first process prints."""
    if report is None:
        return
    finish("weights", RunDir(config.out).backbone("stage3"))
    print(f'load: orl.load_backbone("{config.out}")')
    print(f"export: orl export {config.out} --to torchvision")
    finish("report", report)


def command_pretrain(arguments: Sequence[str]) -> None:
    """Train one stage: stage 1 by byol, mocov2, simclr, densecl or selfemd, or stage 3 by orl.

    Stage 3 needs a finished stage 2 in the same --out. The same command resumes a training that was stopped.
    """
    verb = RunVerb(name="pretrain", about=command_pretrain.__doc__)
    config, given, _ = read_options(verb, arguments, PretrainShortcuts, NoOptions)
    from orl.pipeline.run import run_pretrain

    finish("backbone", run_pretrain(config, given.stages[0]))


def command_discover(arguments: Sequence[str]) -> None:
    """Run stage 2: neighbours, proposals, RoIs and correspondences.

    Images and RoIs are embedded with the backbone of stage 1, or with --feature-extractor.
    """
    verb = RunVerb(
        name="discover",
        about=command_discover.__doc__,
        sections=("scan", "discover"),
        without=TRAINING_OPTIONS,
    )
    config, _, _ = read_options(verb, arguments, DiscoverShortcuts, NoOptions)
    from orl.pipeline.discovery_summary import discover_summary, format_summary
    from orl.pipeline.run import run_discover

    correspondences = run_discover(config)
    if correspondences is not None:
        print(format_summary(discover_summary(RunDir(config.out))))
        finish("correspondences", correspondences)


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """The output of the check, and the machine to estimate for."""

    json: Path | None = None
    """File for the findings as JSON."""
    num_images: int | None = None
    """Number of images to estimate the hours for, if --images is not given."""
    processes: int = 1
    """Number of training processes to plan for, each with the devices of this machine."""


def command_doctor(arguments: Sequence[str]) -> None:
    """Check that a recipe will work here: versions, devices, the batch that fits, hours; takes about a minute.

    Without --images synthetic scenes are used. The exit code is 1 if something will not work.
    """
    sections = ("scan", "method", "stage1", "discover", "stage3", "objects")
    verb = RunVerb(name="doctor", about=command_doctor.__doc__, sections=sections, required=(), without=("overwrite",))
    config, _, options = read_options(verb, arguments, Shortcuts, DoctorOptions)
    for name in ("num_images", "processes"):
        count = getattr(options, name)
        if count is not None and count < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {count}")
    from orl.doctor.report import examine, format_examination, to_json
    from orl.files import write_atomically

    out = Path() if config.out == REQUIRED else config.out
    images = None if config.images == REQUIRED else config.images
    config = dataclasses.replace(config, out=out)
    examination = examine(config, images, num_images=options.num_images, num_processes=options.processes)
    print(format_examination(examination))
    if options.json is not None:
        write_atomically(options.json, json.dumps(to_json(examination), indent=1))
        finish("result", options.json)
    if not examination.works:
        raise SystemExit(1)


def command_recipes(arguments: Sequence[str]) -> None:
    """List the recipes and the methods of stage 1."""
    for name, recipe in RECIPES.items():
        print(f"{name}: {recipe.__doc__}")
    print("--method METHOD changes stage 1:\n")
    for name, method in METHODS.items():
        print(f"    {name:<10}{method.__doc__}")
