"""Stage 2 looks with stage 1's network, or with whatever weights it is given."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import mobilenet_v3_small

from orl import tables
from orl.cli import main
from orl.config import DiscoverConfig, RunConfig, TrainConfig, ViewConfig
from orl.networks.backbones import build_backbone, save_backbone
from orl.pipeline.run import run_all, run_discover, run_pretrain
from orl.recipes import demo
from orl.rundir import RunDir
from orl.synthetic.scenes import draw_scenes
from orl.weights.architectures import ExternalBackbone, ImageNetInputBackbone

SHORT = TrainConfig(epochs=1, batch_size=4, hidden_features=32, projection_features=16, views=ViewConfig(size_px=32))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_scenes(folder, num_trainval=8, num_test=2, size_wh=(96, 72), seed=0, quiet=True)
    return folder


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network that is no ResNet, as anybody saves them."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("outside") / "weights.pth"
    torch.save(mobilenet_v3_small().state_dict(), path)
    return path


def small(scenes: Path, out: Path, **discover: object) -> RunConfig:
    config = {"embed_px": 32, "roi_embed_px": 32, "num_neighbours": 3, "shard_size": 4, "min_side": 0.2, **discover}
    found = DiscoverConfig(**config)  # type: ignore[arg-type]
    return replace(demo(scenes, out), workers=0, device="cpu", stage1=SHORT, stage3=SHORT, discover=found)


def columns(config: RunConfig) -> dict[str, np.ndarray]:
    table = tables.load(RunDir(config.out).table("correspondences"))
    return {name: np.array(table.column(name)) for name in ("image_id", "neighbour_id", "roi", "neighbour_roi")}


def test_stage_1s_own_network_from_elsewhere_finds_the_same(scenes: Path, tmp_path: Path) -> None:
    first = small(scenes, tmp_path / "first")
    run_pretrain(first, "stage1")
    run_discover(first)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(RunDir(first.out).stage("stage1"), elsewhere)
    second = small(scenes, tmp_path / "second", feature_extractor=elsewhere / "backbone.safetensors")
    run_discover(second)
    for name, values in columns(first).items():
        np.testing.assert_array_equal(columns(second)[name], values, err_msg=name)


def test_a_run_without_stage_1_uses_an_external_network(scenes: Path, mobilenet: Path, tmp_path: Path) -> None:
    config = small(scenes, tmp_path / "run", feature_extractor=mobilenet)
    report = run_all(config)
    assert report is not None
    assert report.exists()
    run = RunDir(config.out)
    assert not run.backbone("stage1").exists()
    assert run.backbone("stage3").exists()
    assert tables.load(run.table("embeddings")).column("embedding").shape == (8, 576)
    torch.manual_seed(1)
    torch.save(mobilenet_v3_small().state_dict(), mobilenet)
    with pytest.raises(ValueError, match="are embedded with other weights than"):
        run_discover(config)


def test_images_are_normalised_as_the_network_knows_them() -> None:
    network = ExternalBackbone(torch.nn.Identity(), "timm/x", 3, (0.5, 0.4, 0.3), (0.5, 0.25, 0.125))
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    views = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    expected = (images - torch.tensor(network.mean).view(3, 1, 1)) / torch.tensor(network.std).view(3, 1, 1)
    torch.testing.assert_close(ImageNetInputBackbone(network)(views), expected)


def test_a_discovery_without_a_trained_network_is_refused(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train stage 1 with 'orl pretrain', or embed with other weights"):
        run_discover(small(scenes, tmp_path / "run"))


def test_the_command_line_takes_a_weights_file_and_its_architecture(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    save_file({"stem": torch.ones(3)}, tmp_path / "odd.safetensors")
    options = ["discover", "demo", "--images", str(scenes), "--out", str(tmp_path / "run"), "--device", "cpu"]
    options += ["--discover.num-neighbours", "3"]
    assert main([*options, "--feature-extractor", str(tmp_path / "odd.safetensors")]) == 1
    assert "--architecture" in capsys.readouterr().err
    assert main([*options, "--architecture", "mobilenet_v3_small"]) != 0
    capsys.readouterr()


def test_other_weights_are_refused_and_the_same_weights_in_another_file_are_accepted(
    scenes: Path, mobilenet: Path, tmp_path: Path
) -> None:
    own = small(scenes, tmp_path / "run")
    run_pretrain(own, "stage1")
    run_discover(own)
    before = RunDir(own.out).config.read_bytes()
    with pytest.raises(ValueError, match="are embedded with other weights than"):
        run_discover(small(scenes, own.out, feature_extractor=mobilenet))
    assert RunDir(own.out).config.read_bytes() == before
    run_discover(own)

    outside = small(scenes, tmp_path / "outside", feature_extractor=mobilenet)
    run_discover(outside)
    moved = shutil.copy(mobilenet, tmp_path / "moved.pth")
    run_discover(small(scenes, outside.out, feature_extractor=Path(moved)))
    Path(moved).unlink()
    # Stage 3 does not look at it any more.
    run_pretrain(small(scenes, outside.out, feature_extractor=Path(moved)), "stage3")


def test_results_are_written_beside_their_weights(scenes: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = RunDir(tmp_path / "run")
    save_backbone(build_backbone("resnet10"), run.backbone("stage1"))
    options = ["--data", str(scenes), "--train-split", "trainval", "--test-split", "test", "--size-px", "32"]
    options += ["--k", "2", "--workers", "1", "--device", "cpu"]
    assert main(["evaluate", "knn", "--backbone", str(run.root), *options]) == 0
    assert [path.name for path in (run.stage("stage1") / "backbone_evaluation").glob("*.json")] == [
        f"knn_{scenes.name}.json"
    ]
