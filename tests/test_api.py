"""The Python API, and its examples run as they stand in the documentation."""

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import orl
from orl import api
from orl.config import load_config
from orl.rundir import RunDir
from orl.synthetic.scenes import draw_scenes

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "workers": 0,
    "device": "cpu",
    "stage1.views.size_px": 32,
    "stage3.views.size_px": 32,
    "objects.roi_size_px": 32,
    "stage1.hidden_features": 32,
    "stage3.hidden_features": 32,
    "discover.embed_px": 32,
    "discover.roi_embed_px": 32,
    "discover.num_neighbours": 4,
    "discover.proposals": "grid",
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_scenes(folder, num_trainval=12, num_test=8, size_wh=(96, 72), seed=0, quiet=True)
    return folder


class SmallNetwork(nn.Module):
    """A network of a user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, stride=8), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def test_public_names_are_imported_on_demand_and_listed() -> None:
    assert set(orl.__all__) <= set(dir(orl))
    for name in orl.__all__:
        assert getattr(orl, name) is not None
    assert orl.__version__.startswith("0.")
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        orl.pretrian  # noqa: B018


def test_import_version_and_help_do_not_load_torch() -> None:
    script = """
import sys, orl
from orl.cli import main
orl.__version__
for verb in ("run", "pretrain", "evaluate", "data", "data pack", "ablate", "published-files read", "import", "export"):
    assert main([*verb.split(), "--help"]) == 0
print("torch" in sys.modules, file=sys.stderr)
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stderr == "False\n"


@pytest.mark.parametrize("name", ["orl", "orl.recipes"])
def test_examples_of_a_module_run(name: str) -> None:
    module = importlib.import_module(name)
    found = doctest.testmod(module, raise_on_error=True)
    assert found.attempted > 0


def test_examples_of_the_documentation_run(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").symlink_to(scenes)
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(api, extraglobs={"orl": orl})
    assert (found.failed, found.attempted > 5) == (0, True)
    page = doctest.testfile(str(ROOT / "docs/python.md"), module_relative=False)
    assert (page.failed, page.attempted > 15) == (0, True)


@pytest.mark.slow
def test_stages_alone_give_the_weights_of_a_complete_run(scenes: Path, tmp_path: Path) -> None:
    changes = {"recipe": "demo", "epochs": 1, "batch_size": 4}
    complete = orl.run(images=scenes, out=tmp_path / "complete", **changes, options=TINY)
    first = orl.pretrain(images=str(scenes), out=str(tmp_path / "parts"), **changes, options=TINY)
    config = load_config(RunDir(tmp_path / "parts").config)
    assert (config.stage1.epochs, config.stage3.epochs, config.recipe) == (1, 20, "demo")
    assert first.read_bytes() == RunDir(tmp_path / "complete").backbone("stage1").read_bytes()
    assert complete == RunDir(tmp_path / "complete").backbone("stage3")
    assert RunDir(tmp_path / "complete").report.exists()


def test_a_module_is_trained_and_gets_the_trained_weights(scenes: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = SmallNetwork()
    before = module.layers[0].weight.clone()
    path = orl.run(
        images=scenes, out=tmp_path / "run", backbone=module, recipe="demo", epochs=1, batch_size=4, options=TINY
    )
    assert not torch.equal(module.layers[0].weight, before)
    loaded = orl.load_backbone(path)
    assert loaded.num_channels == 8
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images), module.eval()(images))


def test_a_module_without_a_feature_map_is_refused(tmp_path: Path) -> None:
    flat = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(
        ValueError, match=r"a backbone gives a feature map \(N, C, h, w\), and Sequential gave \(2, 8\)"
    ):
        orl.pretrain(images="images", out=tmp_path / "run", backbone=flat)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({}, "images must be given: there is no run in"),
        ({"images": "x", "backbone": "resnet51"}, "did you mean 'resnet50'?"),
        ({"images": "x", "options": {"stage1.epoch": 3}}, "no field 'stage1.epoch'; did you mean 'stage1.epochs'?"),
        ({"images": "x", "options": {"device": "gpu"}}, "device must be one of auto, cpu, cuda"),
        ({"images": "x", "recipe": "quik"}, "did you mean 'quick'?"),
        ({"images": "/no/such/folder"}, "/no/such/folder"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_written(
    given: dict[str, object], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        orl.pretrain(out=tmp_path / "run", **given)  # type: ignore[arg-type]
    assert complaint in str(error.value)
    assert not (tmp_path / "run").exists()


def test_an_unknown_evaluation_or_option_is_refused(scenes: Path) -> None:
    with pytest.raises(ValueError, match="'svn'"):
        orl.evaluate("random", scenes, "svn")
    with pytest.raises(ValueError, match="no option 'size'; did you mean 'size_px'"):
        orl.evaluate("random", scenes, "svm", options={"size": 32})
