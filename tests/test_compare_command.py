"""`orl compare` as it is typed, and from Python: page, JSON file, kept results, failures, and errors."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import orl
from orl.cli import main
from orl.evaluation.evaluations import OBJECT_EVALUATIONS
from orl.evaluation.objects import compare
from orl.evaluation.objects.feature_rank import RANK
from orl.networks.backbones import build_backbone, save_backbone
from orl.synthetic.scenes import draw_scenes

MACHINE = ["--device", "cpu", "--workers", "0"]
SMALL = [
    "--only",
    "roi-knn",
    "rank",
    "proposals",
    "--roi-knn.k",
    "3",
    "--roi-knn.map-px",
    "0",
    "--roi-knn.crop-px",
    "32",
]
SMALL += ["--rank.map-px", "0", "--rank.crop-px", "32"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with scenes and two files of random weights of other seeds."""
    found = tmp_path_factory.mktemp("compare")
    draw_scenes(found / "scenes", num_trainval=12, num_test=24, size_wh=(96, 72), seed=0, quiet=True)
    for seed, name in enumerate(("one", "two"), start=1):
        torch.manual_seed(seed)
        save_backbone(build_backbone("resnet10"), found / f"{name}.safetensors")
    return found


@pytest.fixture(autouse=True)
def working_directory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in that folder, with few resamples."""
    monkeypatch.chdir(root)
    monkeypatch.setattr(compare, "NUM_BLOCKS", 1)


def orl_compare(*options: str) -> int:
    return main(["compare", "--data", "scenes", *MACHINE, *options])


def test_a_comparison_writes_page_and_json_and_prints_its_verdicts(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--backbones", "random", "one.safetensors"]
    assert orl_compare(*options, *SMALL, "--out", str(tmp_path / "out")) == 0
    page, verdict = capsys.readouterr().out.splitlines()
    assert page == f"comparison: {tmp_path / 'out' / 'comparison.html'}"
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert content["sentences"] == [verdict]
    # Random weights have the architecture of the file.
    assert content["backbones"] == ["random resnet10, seed 0", "one.safetensors"]
    assert "one.safetensors" in verdict
    assert content["failures"] == []
    assert "one.safetensors" in (tmp_path / "out" / "comparison.html").read_text()
    assert (tmp_path / "out" / "scoreboard.md").exists()
    tasks = {row["task"] for row in content["pairs"][0]["rows"]}
    assert tasks == {"roi-knn", "rank"}
    assert content["left_out"] == {"proposals": "the boxes depend on no backbone"}


def test_weights_do_not_differ_from_a_copy_of_themselves(root: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.safetensors").write_bytes((root / "one.safetensors").read_bytes())
    found = call([root / "one.safetensors", tmp_path / "copy.safetensors"], tmp_path / "out")
    rows = found["pairs"][0]["rows"]
    assert [(row["paired"]["value"], row["paired"]["verdict"]) for row in rows] == [
        (0.0, "cannot be told apart")
    ] * len(rows)
    assert rows


def call(backbones: list[Path | str], out: Path, **given: Any) -> dict[str, Any]:
    options = {"roi-knn.k": 3, "roi-knn.map_px": 0, "roi-knn.crop_px": 32, **given.pop("options", {})}
    found = orl.compare(
        "scenes", backbones, out=out, only=["roi-knn"], options=options, device="cpu", workers=0, **given
    )
    assert found is not None
    return found


def test_finished_results_are_kept_and_others_refused(tmp_path: Path) -> None:
    backbones: list[Path | str] = ["one.safetensors", "two.safetensors"]
    first = call(backbones, tmp_path)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/roi-knn.json")}
    assert len(written) == 2
    second = call(backbones, tmp_path, baseline="two.safetensors")
    assert {path: path.stat().st_mtime_ns for path in written} == written
    values = [each["pairs"][0]["rows"][0]["paired"]["value"] for each in (first, second)]
    assert values[0] == pytest.approx(-values[1])
    with pytest.raises(RuntimeError, match=r"stale: .*was made from other weights or options"):
        call(backbones, tmp_path, options={"roi-knn.k": 4})


def test_few_images_are_taken(tmp_path: Path) -> None:
    found = call(["one.safetensors", "two.safetensors"], tmp_path, options={"max_images": 8})
    assert found["pairs"][0]["rows"][0]["paired"]["num_images"] == 8


def test_a_failing_evaluation_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no <rank> today")

    monkeypatch.setattr("orl.evaluation.objects.run_scoreboard.OBJECT_EVALUATIONS", evaluations_with(fail))
    monkeypatch.setattr("orl.evaluation.evaluations.EVALUATIONS", evaluations_with(fail))
    assert orl_compare("--backbones", "one.safetensors", "two.safetensors", *SMALL, "--out", str(tmp_path)) == 1
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert len(content["failures"]) == 2
    assert {row["task"] for row in content["pairs"][0]["rows"]} == {"roi-knn"}
    assert "no &lt;rank&gt; today" in (tmp_path / "comparison.html").read_text()


def evaluations_with(run: Any) -> tuple[Any, ...]:
    """Return the evaluations, with another function for rank."""
    return tuple(replace(each, run=run) if each is RANK else each for each in OBJECT_EVALUATIONS)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--backbones", "random"], "a comparison needs two backbones or more, got random; add 'random'"),
        (["--backbones", "random", "one.safetensors", "random"], "random is given twice"),
        (["--backbones", "random", "one.safetensors", "--baseline", "two.safetensors"], "the baseline must be"),
        (["--backbones", "random", "no.safetensors"], "no.safetensors"),
        (["--backbones", "random", "one.safetensors", "--only", "knn"], "knn is not an object evaluation"),
        (["--backbones", "random", "one.safetensors", "--only", "proposals"], "proposals depends on no backbone"),
        (["--backbones", "random", "one.safetensors", "--data", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_computed(
    options: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert orl_compare(*options, "--out", str(tmp_path / "out")) == 1
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_wrong_options_from_python_are_refused(tmp_path: Path) -> None:
    pair: list[Path | str] = ["one.safetensors", "two.safetensors"]
    with pytest.raises(ValueError, match="no option 'max_image'; did you mean 'max_images'"):
        call(pair, tmp_path, options={"max_image": 8})
    with pytest.raises(ValueError, match="did you mean 'crop_px'"):
        call(pair, tmp_path, options={"roi-knn.croppx": 8})
    with pytest.raises(ValueError, match=r"option 'roi-kn.k' must be .*did you mean 'roi-knn'"):
        call(pair, tmp_path, options={"roi-kn.k": 8})
