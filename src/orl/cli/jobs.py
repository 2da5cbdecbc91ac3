"""Commands that work on a run: the three stages, one by one or all, and whether they would work here."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from orl.cli.options import REQUIRED, finish, read_config, take_number, take_option, take_path
from orl.recipes import METHODS, RECIPES
from orl.rundir import RunDir

DEMO_IMAGES, DEMO_OUT = Path("runs/demo-scenes"), Path("runs/demo")


def command_demo(arguments: Sequence[str]) -> None:
    """Draw labelled scenes and do everything with them: minutes on two processor cores."""
    recipe = RECIPES["demo"](DEMO_IMAGES, DEMO_OUT)
    judges = dataclasses.replace(recipe.evaluation, shots=(1, 4, 16))
    start = dataclasses.replace(recipe, eval_data=DEMO_IMAGES, evaluation=judges)
    config = read_config("demo", command_demo.__doc__, arguments, start)
    from orl.pipeline.run import run_demo

    finish("report", run_demo(config))


def command_run(arguments: Sequence[str]) -> None:
    """Stage 1, stage 2, stage 3 and the report; with --eval-data the judges too."""
    config = read_config("run", command_run.__doc__, arguments)
    from orl.pipeline.run import run_all

    finish("report", run_all(config))


def command_pretrain(arguments: Sequence[str]) -> None:
    """One training stage: stage 1 by --method byol, mocov2, simclr, densecl or selfemd; stage 3 by --method orl."""
    method, arguments = take_option(arguments, "--method", (*METHODS, "orl"))
    if method in METHODS:
        if any(given.partition("=")[0] == "--stage1" for given in arguments):
            raise ValueError(f"--method {method} says what stage 1 is: leave --stage1 out")
        arguments = [*arguments, "--stage1", method]
    config = read_config("pretrain", command_pretrain.__doc__, arguments)
    from orl.pipeline.run import run_pretrain

    finish("backbone", run_pretrain(config, "stage3" if method == "orl" else "stage1"))


def command_discover(arguments: Sequence[str]) -> None:
    """Stage 2: neighbours, proposals, RoIs and correspondences, with the network of stage 1.

    Or with any other CNN's weights: `--feature-extractor FILE`, and `--architecture NAME` if the file does not say what they
    are of.
    """
    for option in ("feature-extractor", "architecture"):
        value, arguments = take_path(arguments, f"--{option}")
        if value is not None:
            arguments = [*arguments, f"--discover.{option}", str(value)]
    config = read_config("discover", command_discover.__doc__, arguments)
    from orl.pipeline.discovery_summary import discover_summary, format_summary
    from orl.pipeline.run import run_discover

    correspondences = run_discover(config)
    if correspondences is not None:
        print(format_summary(discover_summary(RunDir(config.out))))
        finish("correspondences", correspondences)


def command_doctor(arguments: Sequence[str]) -> None:
    """Whether a recipe will work here: versions, devices, the batch that fits, hours; tries some images for a minute.

    Takes `--num-images N` (what hours are for, when there are no --images yet), `--processes N` (how many would train
    together, each on devices as here) and `--json FILE`, and beside them the options of the run. Without --images
    scenes are drawn. The exit code is 1 if something will not work.
    """
    path, arguments = take_path(arguments, "--json")
    num_images, arguments = take_number(arguments, "--num-images")
    num_processes, arguments = take_number(arguments, "--processes")
    config = read_config("doctor", command_doctor.__doc__, arguments, required=())
    from orl.doctor.report import examine, format_examination, to_json
    from orl.files import write_atomically

    out = Path() if config.out == REQUIRED else config.out
    images = None if config.images == REQUIRED else config.images
    config = dataclasses.replace(config, out=out)
    examination = examine(config, images, num_images=num_images, num_processes=num_processes or 1)
    print(format_examination(examination))
    if path is not None:
        write_atomically(path, json.dumps(to_json(examination), indent=1))
        finish("result", path)
    if not examination.works:
        raise SystemExit(1)


def command_recipes(arguments: Sequence[str]) -> None:
    """List the recipes, and what can be stage 1."""
    for name, recipe in RECIPES.items():
        print(f"{name}: {recipe.__doc__}")
    print("with --stage1 METHOD, stage 1 is\n")
    for name, method in METHODS.items():
        print(f"    {name:<10}{method.__doc__}")
