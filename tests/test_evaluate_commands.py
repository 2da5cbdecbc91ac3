"""`orl evaluate` as it is typed, on small synthetic data sets: every evaluation, the suite, and errors."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orl.cli import main
from orl.evaluation.evaluations import EVALUATIONS, OBJECT_EVALUATIONS
from orl.evaluation.output import write_result
from orl.evaluation.protocol import Evaluation

RANDOM = ["--backbone", "random", "--architecture", "resnet10", "--device", "cpu", "--workers", "0"]
LINEAR = ["--batch-size", "8", "--epochs", "1", "--size-px", "32"]
DETECT = ["--batch-size", "2", "--iterations", "2", "--warmup-iterations", "1", "--short-sides-px", "64"]
DETECT += ["--test-short-side-px", "64", "--precise-bn-iterations", "1", "--num-channels", "16"]
DETECT += ["--num-box-features", "16", "--num-rois", "8"]


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return scenes as a VOC devkit and in COCO's layout, and their objects in class folders."""
    root = tmp_path_factory.mktemp("data_sets")
    size = ["--num-trainval", "40", "--num-test", "20", "--size-wh", "96", "72"]
    assert main(["data", "scenes", "--to", str(root / "scenes"), *size]) == 0
    assert main(["data", "crops", "--data", str(root / "scenes"), "--to", str(root / "classes")]) == 0
    return root


@pytest.mark.parametrize(
    ("task", "data", "options", "text"),
    [
        ("svm", "scenes", ["--size-px", "32"], "VOC07 SVM, feat5: mAP "),
        ("low-shot", "scenes", ["--size-px", "32", "--shots", "1", "--num-samples", "2"], "test labels: k=1 "),
        ("knn", "scenes", ["--size-px", "32", "--k", "3"], "VOC07 kNN, pooled, k = 3: mAP "),
        ("linear", "classes", ["--dataset", "folder", *LINEAR], "own classes linear, feat5: top-1 "),
        (
            "linear",
            "classes",
            ["--dataset", "folder", "--size-px", "32", "--cached-features"],
            "own classes, fast estimate by cached feat5 features (not the linear protocol): top-1 ",
        ),
        ("semi", "classes", ["--dataset", "folder", "--fraction", "0.5", *LINEAR], "50% of the labels: top-1 "),
        ("detect", "scenes", ["--train-split", "trainval", "--val-split", "test", *DETECT], "own options, 2 steps"),
        ("detect-voc", "scenes", DETECT, "VOC detection, own options, 2 steps: box AP "),
    ],
)
def test_every_evaluation_writes_its_result_and_prints_its_score(
    data_sets: Path,
    tmp_path: Path,
    task: str,
    data: str,
    options: list[str],
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "result.json"
    given = ["evaluate", task, *RANDOM, "--data", str(data_sets / data), "--out", str(out), *options]
    assert main(given) == 0
    assert text in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert result["backbone"] == "random resnet10, seed 0"
    written = out.stat().st_mtime_ns
    assert main(given) == 0
    assert out.stat().st_mtime_ns == written
    # Another seed gives other random weights.
    assert main([*given, "--seed", "1"]) == 1
    assert "was made from other weights or options (backbone" in capsys.readouterr().err
    assert out.stat().st_mtime_ns == written


def test_the_suite_writes_one_comparison(data_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["evaluate", "all", *RANDOM, "--voc07", str(data_sets / "scenes"), "--classes", str(data_sets / "classes")]
    given += ["--out", str(tmp_path), "--voc.size-px", "32", "--knn.k", "3", "--low-shot.shots", "1"]
    given += ["--linear.batch-size", "8", "--linear.epochs", "1", "--linear.size-px", "32"]
    assert main(given) == 0
    assert f"comparison: {tmp_path / 'comparison.md'}" in capsys.readouterr().out
    text = (tmp_path / "comparison.md").read_text()
    assert len(list(tmp_path.glob("random_resnet10__seed_0_*/*.json"))) == 4
    for name in (
        "VOC07 SVM, feat5",
        "VOC07 kNN, pooled, k = 3",
        "VOC07 low-shot, feat5, cost by test labels",
        "own classes linear, feat5",
    ):
        assert f"## {name}\n" in text
    assert "32 px, not 224" in text


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["all", "--backbone", "random", "--out", "{out}"], "no labelled data set is given"),
        (["all", "--backbone", "random", "--out", "{out}", "--coco", "{classes}"], "nothing is evaluated yet: "),
        (["all", "--backbone", "{out}", "--out", "{out}", "--voc07", "{scenes}"], "nothing is evaluated yet: "),
        (
            ["low-shot", "--backbone", "random", "--data", "{scenes}", "--shots", "64"],
            "64 shots need 64 training images",
        ),
        (["knn", "--backbone", "random", "--data", "{scenes}", "--temperature", "0"], "temperature is 0.0"),
        (["svm", "--backbone", "random", "--data", "{scenes}", "--test-split", "trainval"], "40 images are in split"),
        (
            ["knn", "--backbone", "random", "--data", "{scenes}", "--k", "500"],
            "k is 500, but there are 40 training images",
        ),
        (["linear", "--backbone", "random", "--data", "{scenes}", "--dataset", "folder"], "scenes/train"),
        (["linear", "--backbone", "random", "--data", "{classes}", "--dataset", "inat18"], "train2018.json"),
        (["detect", "--backbone", "random", "--data", "{scenes}"], "instances_train2017.json"),
        (["detect", "--backbone", "random", "--data", "{classes}"], "instances_train2017.json"),
        (["detect-voc", "--backbone", "random", "--data", "{classes}"], "is not a VOC devkit"),
    ],
)
def test_an_error_is_one_line_before_anything_is_computed(
    data_sets: Path, tmp_path: Path, given: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {"out": tmp_path / "out", "scenes": data_sets / "scenes", "classes": data_sets / "classes"}
    given = [part.format(**paths) for part in given]
    before = {*tmp_path.iterdir()}
    if given[0] != "all":
        given += ["--out", str(tmp_path / "out.json")]
    assert main(["evaluate", *given, "--architecture", "resnet10", "--device", "cpu"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("orl: ")]
    assert text in lines[-1]
    assert {*tmp_path.iterdir()} == before


def test_options_without_effect_on_the_fast_estimate_are_refused(
    data_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["evaluate", "linear", *RANDOM, "--data", str(data_sets / "classes"), "--dataset", "folder"]
    given += ["--cached-features", "--out", str(tmp_path / "result.json")]
    for option in (["--levels"], ["--base-lr", "1"]):
        assert main([*given, *option]) == 2
        assert "Unrecognized options" in "".join(capsys.readouterr())
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("evaluation", EVALUATIONS, ids=lambda evaluation: evaluation.name)
def test_help_groups_options_by_what_they_are_about(
    evaluation: Evaluation[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", evaluation.name, "--help"]) == 0
    text = capsys.readouterr().out
    groups = re.findall(r"(?m)^\W*((?:\w+ )?options)\W*$", text)
    assert groups == [
        "options",
        "backbone options",
        "data options",
        "protocol options",
        "output options",
        "machine options",
    ]
    assert not re.search(r"\bhow\b|\bwhat\.|settings options", text, re.IGNORECASE)
    assert ("--precision" in text) == (evaluation.trains or evaluation in OBJECT_EVALUATIONS)


def test_help_of_the_suite_names_every_group_of_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "all", "--help"]) == 0
    groups = re.findall(r"(?m)^\W*((?:[\w-]+ )?options)\W*$", text := capsys.readouterr().out)
    protocols = dict.fromkeys((each.suite_option or each.name) for each in EVALUATIONS if each.suite_entries)
    assert groups == ["options", *(f"{name} options" for name in ("suite", "data", "voc", *protocols, "machine"))]
    assert "--voc07 PATH" not in text[: text.index("suite options")]


def test_help_names_every_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--help"]) == main(["evaluate"]) == 0
    words = capsys.readouterr().out.replace(",", " ").split()
    assert {*(evaluation.name for evaluation in EVALUATIONS), "all"} <= set(words)


def test_an_evaluation_of_one_process_refuses_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["evaluate", "knn", *RANDOM, "--data", str(tmp_path), "--out", str(tmp_path / "knn.json")]) == 1
    assert "orl evaluate knn runs in one process, but 2 were started; start one" in capsys.readouterr().err


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Any folder."""

    data: Path


@dataclass(frozen=True, kw_only=True)
class CountConfig:
    """Options of an evaluation that counts channels."""

    factor: int = 1
    """Number that the count is multiplied by."""


def test_a_new_evaluation_is_one_line_in_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(backbone: Any, data: Folder, config: CountConfig, output: Any, processes: Any) -> dict[str, Any]:
        score = config.factor * backbone.network.num_channels / 100
        return write_result(output, {"task": "count", "backbone": backbone.label, "score": score}, {})

    count = Evaluation(
        name="count",
        label="Channels",
        help="Count channels.",
        data=Folder,
        config=CountConfig,
        check=lambda data, config: None,
        run=run,
        tables=lambda result: {"Channels": {"count": result["score"]}},
        one_process=True,
    )
    monkeypatch.setattr("orl.evaluation.evaluations.EVALUATIONS", (*EVALUATIONS, count))
    out = tmp_path / "count.json"
    assert main(["evaluate", "count", *RANDOM, "--data", str(tmp_path), "--factor", "2", "--out", str(out)]) == 0
    assert "Channels: count 1024.00" in capsys.readouterr().out
    assert json.loads(out.read_text())["score"] == 10.24
