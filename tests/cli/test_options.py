"""Options of verbs on a run, without running anything."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from orl.cli import main
from orl.cli.jobs import DoctorOptions
from orl.cli.options import (
    DiscoverShortcuts,
    NoOptions,
    PretrainShortcuts,
    RunVerb,
    Shortcuts,
    read_config,
    read_options,
)
from orl.cli.options import types as value_types
from orl.config import RunConfig, save_config
from orl.recipes import RECIPES, with_method
from orl.rundir import RunDir

RUN = RunVerb(name="run", about="Run.")
PATHS = ("--images", "images", "--out", "runs/x")


def config_of(*arguments: str, verb: RunVerb = RUN) -> RunConfig:
    with value_types:
        return read_config(verb, [*arguments, *PATHS])


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_without_options_is_that_recipe(name: str) -> None:
    assert config_of(name) == RECIPES[name]("images", "runs/x")
    assert config_of("--recipe", name) == RECIPES[name]("images", "runs/x")


def test_epochs_batch_size_and_backbone_reach_both_training_stages() -> None:
    config = config_of("small", "--epochs", "3", "--batch-size=16", "--backbone", "resnet18")
    assert [(stage.epochs, stage.batch_size) for stage in (config.stage1, config.stage3)] == [(3, 16), (3, 16)]
    assert config.network.backbone == "resnet18"


def test_an_option_of_one_stage_wins_over_that_of_both() -> None:
    config = config_of("--stage3.epochs", "5", "--epochs", "3")
    assert (config.stage1.epochs, config.stage3.epochs) == (3, 5)


def test_epochs_of_pretrain_are_those_of_the_stage_that_is_trained() -> None:
    for method, expected in (("byol", (3, 20)), ("orl", (20, 3))):
        arguments = ["--method", method, "--epochs", "3", *PATHS]
        config, given, _ = read_options(replace(RUN, name="pretrain"), arguments, PretrainShortcuts, NoOptions)
        assert (config.stage1.epochs, config.stage3.epochs) == expected
        assert given.stages == (("stage3",) if method == "orl" else ("stage1",))


def test_a_method_comes_with_its_rates_and_options_change_them() -> None:
    config = config_of("demo", "--method", "mocov2", "--method.temperature", "0.3", "--stage1.base-lr", "0.7")
    expected = with_method(RECIPES["demo"]("images", "runs/x"), "mocov2")
    assert config.method == replace(expected.method, temperature=0.3)
    assert config.stage1 == replace(expected.stage1, base_lr=0.7)


def test_options_of_recorded_commands_still_work() -> None:
    old = config_of("demo", "--network.backbone", "resnet18", "--stage1=mocov2")
    assert old == config_of("demo", "--backbone", "resnet18", "--method", "mocov2")


def test_a_method_has_no_options_of_other_methods(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        config_of("demo", "--method", "simclr", "--method.queue-size", "8")
    assert "--method.queue-size" in capsys.readouterr().err


def test_discover_takes_a_feature_extractor_by_its_short_name() -> None:
    arguments = ["--feature-extractor", "weights.pth", "--architecture", "mobilenet_v3_large", *PATHS]
    config, _, _ = read_options(replace(RUN, name="discover"), arguments, DiscoverShortcuts, NoOptions)
    assert config.discover.feature_extractor == Path("weights.pth")
    assert config.discover.architecture == "mobilenet_v3_large"


def test_options_of_one_verb_are_parsed_beside_those_of_the_run() -> None:
    arguments = ["demo", "--processes", "4", "--seed", "7", "--json=found.json"]
    config, _, own = read_options(replace(RUN, name="doctor", required=()), arguments, Shortcuts, DoctorOptions)
    assert (own.processes, own.json, own.num_images, config.seed) == (4, Path("found.json"), None, 7)


def test_a_run_that_is_there_gives_its_config(tmp_path: Path) -> None:
    config = replace(RECIPES["demo"]("images", tmp_path), seed=5)
    save_config(config, RunDir(tmp_path).config)
    assert read_config(RUN, ["--out", str(tmp_path)]) == config
    assert read_config(RUN, [f"--out={tmp_path}", "--seed=6"]) == replace(config, seed=6)


def test_the_home_folder_is_expanded_in_every_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with value_types:
        config = read_config(RUN, ["--images=~/images", "--out=~/runs/x", "--discover.feature-extractor=~/a.pth"])
    assert config.images == tmp_path / "images"
    assert config.out == tmp_path / "runs/x"
    assert config.discover.feature_extractor == tmp_path / "a.pth"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "--device", "gpu"], "must be one of auto, cpu, cuda, not 'gpu'"),
        (["run", "--backbone", "resnet51"], "not 'resnet51'; did you mean 'resnet50'?"),
        (["run", "--method", "mocov3"], "did you mean 'mocov2'?"),
        (["run", "--stage1.optimiser", "lers"], "did you mean 'lars'?"),
        (["run", "--stage1.epoch", "3"], "--stage1.epochs"),
        (["run", "--epochs", "many"], "many"),
        (["evaluate", "svn"], "orl evaluate must be followed by one of svm, knn, "),
        (["evaluate", "svn"], "not 'svn'; did you mean 'svm'?"),
        (["ablate", "neighbors"], "not 'neighbors'; did you mean 'neighbours'?"),
        (["published-files", "import"], "orl published-files must be followed by one of write, read, not 'import'"),
    ],
)
def test_a_wrong_option_or_value_is_refused_with_the_near_one(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert complaint in " ".join(capsys.readouterr().err.replace("│", " ").split())


def help_of(*arguments: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Names of the options in a help text."""
    assert main(list(arguments)) == 0
    words = capsys.readouterr().out.replace(",", " ").split()
    return {word for word in words if word.startswith("--") and not word.startswith("--no-")}


def test_short_help_has_a_dozen_options_and_help_all_has_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    short = help_of("run", "--help", capsys=capsys)
    assert short == help_of("help", "run", capsys=capsys) == help_of("run", "quick", "-h", capsys=capsys)
    common = {"--images", "--out", "--eval-data", "--method", "--backbone", "--epochs", "--batch-size", "--device"}
    assert common < short
    assert len(short) < 20
    complete = help_of("run", "--help-all", capsys=capsys)
    assert short - {"--help-all'"} < complete
    assert {"--stage1.views.jitter", "--discover.top-fraction", "--objects.warm-start", "--cache"} < complete


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["pretrain"], ("--discover.", "--stage3.", "--objects.", "--evaluation.")),
        (["pretrain", "--method", "orl"], ("--discover.", "--stage1.", "--method.", "--evaluation.")),
        (
            ["discover"],
            ("--stage1.", "--stage3.", "--method", "--objects.", "--evaluation.", "--epochs", "--precision"),
        ),
        (["doctor"], ("--evaluation.", "--overwrite")),
    ],
)
def test_help_of_a_verb_leaves_out_options_without_effect(
    arguments: list[str], absent: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = help_of(*arguments, "--help-all", capsys=capsys)
    assert len(shown) > 10
    assert [name for name in shown if name.startswith(absent)] == []


def test_defaults_in_help_are_those_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "small", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "(default: 30 in stage 1, 15 in stage 3)" in text
    assert "(default: resnet10)" in text


def test_a_mistyped_verb_suggests_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evalaute"]) == 2
    assert "no command 'evalaute'; did you mean 'orl evaluate'?" in capsys.readouterr().err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("orl 0.")


@pytest.mark.parametrize(("old", "new"), [("transfer", "evaluate"), ("exchange", "published-files")])
def test_verbs_of_version_01_still_work_and_say_their_new_name(
    old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([old, "--help"]) == 0
    shown = capsys.readouterr()
    assert f"orl {new}" in shown.out
    assert f"'orl {old}' is called 'orl {new}' now" in shown.err


def test_a_reader_that_stops_reading_is_no_error() -> None:
    command = [sys.executable, "-m", "orl", "run", "--help-all"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before the first line is written
        assert process.stderr.read() == ""
    assert process.returncode == 0
