"""`orl evaluate` as it is typed, on a small drawn set: every judge, all of them at once, and what goes wrong."""

import json
from pathlib import Path

import pytest

from orl.cli import main

RANDOM = ["--backbone", "random", "--architecture", "resnet10", "--device", "cpu", "--workers", "0"]
LINEAR = ["--batch-size", "8", "--epochs", "1", "--size-px", "32"]
DETECT = ["--batch-size", "2", "--iterations", "2", "--warmup-iterations", "1", "--short-sides-px", "64"]
DETECT += ["--test-short-side-px", "64", "--precise-bn-iterations", "1", "--num-channels", "16"]
DETECT += ["--num-box-features", "16", "--num-rois", "8"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes as a VOC devkit and in COCO's layout, and their objects in class folders."""
    root = tmp_path_factory.mktemp("sets")
    drawn = ["--num-trainval", "40", "--num-test", "20", "--size-wh", "96", "72"]
    assert main(["data", "scenes", "--to", str(root / "scenes"), *drawn]) == 0
    assert main(["data", "crops", "--data", str(root / "scenes"), "--to", str(root / "classes")]) == 0
    return root


@pytest.mark.parametrize(
    ("task", "data", "options", "told"),
    [
        ("svm", "scenes", ["--size-px", "32"], "VOC07 SVM: mAP "),
        ("low-shot", "scenes", ["--size-px", "32", "--shots", "1", "--num-samples", "2"], "test labels: k=1 "),
        ("knn", "scenes", ["--size-px", "32", "--k", "3"], "VOC07 kNN, k = 3: mAP "),
        ("linear", "classes", ["--dataset", "folder", *LINEAR], "own classes linear: top-1 "),
        (
            "linear",
            "classes",
            ["--dataset", "folder", "--size-px", "32", "--cached-features"],
            "own classes, fast estimate by cached features (not the linear protocol): top-1 ",
        ),
        ("semi", "classes", ["--dataset", "folder", "--fraction", "0.5", *LINEAR], "50% of the labels: top-1 "),
        ("detect", "scenes", ["--train-split", "trainval", "--val-split", "test", *DETECT], "own settings, 2 steps"),
        ("detect-voc", "scenes", DETECT, "VOC detection, own settings, 2 steps: box AP "),
    ],
)
def test_every_judge_writes_its_result_and_tells_its_score(
    sets: Path, tmp_path: Path, task: str, data: str, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    given = ["evaluate", task, *RANDOM, "--data", str(sets / data), "--out", str(out), *options]
    assert main(given) == 0
    assert told in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert result["backbone"] == "random resnet10, seed 0"
    written = out.stat().st_mtime_ns
    assert main(given) == 0
    assert out.stat().st_mtime_ns == written
    # Random weights are others with another seed.
    assert main([*given, "--seed", "1"]) == 1
    assert "was made from other weights or settings (backbone" in capsys.readouterr().err
    assert out.stat().st_mtime_ns == written


def test_all_judges_end_in_one_table(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["evaluate", "all", *RANDOM, "--voc07", str(sets / "scenes"), "--classes", str(sets / "classes")]
    given += ["--out", str(tmp_path), "--voc.size-px", "32", "--knn.k", "3", "--low-shot.shots", "1"]
    given += ["--linear.batch-size", "8", "--linear.epochs", "1", "--linear.size-px", "32"]
    assert main(given) == 0
    assert f"comparison: {tmp_path / 'comparison.md'}" in capsys.readouterr().out
    text = (tmp_path / "comparison.md").read_text()
    assert len(list(tmp_path.glob("random_resnet10__seed_0_*/*.json"))) == 4
    for name in ("VOC07 SVM", "VOC07 kNN, k = 3", "VOC07 low-shot, cost by test labels", "own classes linear"):
        assert f"## {name}\n" in text
    assert "32 px, not 224" in text


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["all", "--backbone", "random", "--out", "{out}"], "no labelled set is given"),
        (["all", "--backbone", "random", "--out", "{out}", "--coco", "{classes}"], "nothing is judged yet: "),
        (["all", "--backbone", "{out}", "--out", "{out}", "--voc07", "{scenes}"], "nothing is judged yet: "),
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
def test_what_is_wrong_is_told_in_one_line_before_the_long_part(
    sets: Path, tmp_path: Path, given: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"out": tmp_path / "out", "scenes": sets / "scenes", "classes": sets / "classes"}
    given = [part.format(**places) for part in given]
    before = {*tmp_path.iterdir()}
    if given[0] != "all":
        given += ["--out", str(tmp_path / "out.json")]
    assert main(["evaluate", *given, "--architecture", "resnet10", "--device", "cpu"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("orl: ")]
    assert told in lines[-1]
    assert {*tmp_path.iterdir()} == before


def test_options_that_the_fast_estimate_would_leave_out_are_refused(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        "evaluation",
        "linear",
        *RANDOM,
        "--data",
        str(sets / "classes"),
        "--dataset",
        "folder",
        "--cached-features",
    ]
    assert main([*given, "--out", str(tmp_path / "result.json"), "--levels", "--base-lr", "1"]) == 1
    assert "--base-lr, --levels has no effect on --cached-features" in capsys.readouterr().err
