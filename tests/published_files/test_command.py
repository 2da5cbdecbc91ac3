"""`orl published-files` as a user meets it: published files in, stage 3 trained on them, the same files out."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.reference.published import made_up

from orl.cli import main
from orl.datasets.sources import find_images
from orl.rundir import RunDir
from orl.synthetic.scenes import draw_scenes

SMALL = [
    *(
        "--stage3.epochs",
        "1",
        "--stage3.batch-size",
        "8",
        "--stage1.views.size-px",
        "32",
        "--stage3.views.size-px",
        "32",
        "--objects.roi-size-px",
        "32",
    ),
    *(
        "--network.backbone",
        "resnet10",
        "--stage3.hidden-features",
        "32",
        "--discover.num-neighbours",
        "3",
        "--discover.shard-size",
        "8",
    ),
    *("--workers", "1", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_scenes(folder, num_trainval=16, num_test=1, size_wh=(96, 72), seed=0, quiet=True)
    return folder


@pytest.fixture(scope="module")
def files(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, generator = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    names = [Path(name).name for name in find_images(scenes)[1]]
    generator.shuffle(names)
    documents = made_up(names, generator, size_wh=(96, 72))
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return {name: folder / f"{name}.json" for name in documents}


def test_published_files_are_read_trained_on_and_written(
    scenes: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    options = ["--correspondences", str(files["correspondences"]), f"--proposals={files['proposals']}"]
    assert main(["published-files", "read", "demo", "--images", str(scenes), "--out", str(out), *options, *SMALL]) == 0
    assert f"correspondences: {out / 'discover/correspondences'}" in capsys.readouterr().out
    assert json.loads(RunDir(out).record.read_text())["stages"]["exchange"]["state"] == "done"
    assert main(["pretrain", "--method", "orl", "--out", str(out)]) == 0
    assert RunDir(out).backbone("stage3").exists()
    assert main(["published-files", "write", str(out), "--to", str(tmp_path / "to")]) == 0
    assert f"file: {tmp_path / 'to/mine_correspondence.json'}" in capsys.readouterr().out
    kinds = {
        "proposals": "selective_search_proposal",
        "neighbours": "knn_instance",
        "correspondences": "correspondence",
    }
    for name, kind in kinds.items():
        found = json.loads((tmp_path / "to" / f"mine_{kind}.json").read_text())
        expected = json.loads(files[name].read_text())
        assert found == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["read", "--images", "x", "--out", "y"], "give --proposals, --neighbours or --correspondences FILE"),
        (["read", "--images", "x", "--out", "y", "--proposals", "none.json"], "no file at none.json"),
        (["read", "--proposals", "none.json"], "--images and --out must be given: orl published-files read --images"),
        (["write", "nowhere", "--to", "x"], "no config file at nowhere"),
    ],
)
def test_a_wrong_call_gives_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published-files", *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("after", [[], ["--images", "x"]])
def test_an_option_without_its_path_is_refused(after: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published-files", "read", "--proposals", *after]) == 2
    assert "--proposals" in capsys.readouterr().err


def test_help_names_reading_and_writing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published-files", "--help"]) == 0
    text = capsys.readouterr().out
    assert "orl published-files write RUN --to DIR" in text
    assert "--correspondences FILE" in text
    assert main(["published-files", "read", "--help"]) == 0
    assert "--neighbours PATH" in capsys.readouterr().out
