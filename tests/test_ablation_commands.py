"""`orl ablate` and `orl results` as they are typed."""

import json
import re
from pathlib import Path

import pytest

from orl.cli import main
from orl.synthetic.scenes import draw_scenes

TINY = (
    *(
        "--stage1.epochs",
        "1",
        "--stage1.batch-size",
        "8",
        "--stage1.views.size-px",
        "32",
        "--stage1.warmup-epochs",
        "0",
    ),
    *("--stage1.hidden-features", "16", "--stage1.projection-features", "8"),
    *("--discover.embed-px", "48", "--discover.roi-embed-px", "32", "--workers", "0", "--device", "cpu"),
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "scenes"
    draw_scenes(folder, num_trainval=24, num_test=8, size_wh=(96, 72), seed=0, quiet=True)
    return folder


def test_an_ablation_of_stage_2_alone_and_its_page(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "ablation"
    command = ["ablate", "top-fraction", "demo", "--images", str(scenes), "--out", str(out), *TINY]
    command += ["--seeds", "2", "--discovery-only"]
    monkeypatch.setattr("sys.argv", ["/usr/bin/orl", *command])
    assert main(command) == 0
    text = capsys.readouterr().out
    assert all(f"| {fraction}% kept |" in text for fraction in (5, 10, 20, 50)), (
        "the best pairs are the same, the kept pairs are not"
    )
    result = json.loads((out / "top-fraction.json").read_text())
    assert result["seeds"] == [0, 1]
    assert all(record["scores"] == {} for record in result["records"])
    assert main(["results", str(out), "--to", str(tmp_path / "results.md")]) == 0
    page = (tmp_path / "results.md").read_text()
    assert "## Which fraction of the pairs is kept?" in page
    assert "orl ablate top-fraction demo --images scenes" in page
    assert "--discovery-only" in page
    assert str(tmp_path) not in page


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["ablate", "losses", "demo", "--images", "a", "--out", "b"], "give a VOC devkit with --eval-data"),
        (
            ["ablate", "losses", "demo", "--images", "a", "--out", "b", "--seeds", "0"],
            "--seeds must be at least 1, got 0",
        ),
        (["ablate", "feature-extractor", "demo", "--images", "a"], "--out must be given"),
        (["results", "nowhere", "--to", "page.md"], "nowhere holds no result files"),
    ],
)
def test_a_wrong_command_gets_a_message(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:

    assert main(arguments) == 1
    assert re.search(complaint, capsys.readouterr().err)


def test_help_lists_the_ablations_with_their_questions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "--help"]) == 0
    text = capsys.readouterr().out
    for name in ("stages", "neighbours", "top-fraction", "losses", "jitter", "proposals", "feature-extractor"):
        assert f"\n  {name}" in text
