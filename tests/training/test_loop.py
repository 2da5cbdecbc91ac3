import json
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image

from orl.images.colour import ColourDistribution
from orl.images.datasets import EpochBatches, ImageViews, Loaded, Samples, ViewRules
from orl.images.table import ImageTable
from orl.methods.byol import BYOL
from orl.networks.backbones import build_backbone
from orl.networks.mlp import mlp
from orl.networks.online_target import Encoder
from orl.schedules import ema_momentum, warmup_cosine
from orl.training.checkpoints import load_newest, save_checkpoint
from orl.training.interrupts import Stopped
from orl.training.loop import train
from orl.training.metrics import MetricsLog, feature_spread

NUM_STEPS = 6


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    names = tuple(f"{index}.png" for index in range(8))
    for name in names:
        Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(root / name)
    return ImageTable(root=root, names=names, sizes_wh=((48, 40),) * 8, digests=names)


class Interrupting(Samples):
    """A data set that sends a signal to its own process when a photo of one step is read."""

    interrupt_at: tuple[int, int] | None = None
    signal_number = signal.SIGINT

    def __getitem__(self, key: tuple[int, int]) -> Loaded:
        if key == self.interrupt_at:
            os.kill(os.getpid(), self.signal_number)
        return super().__getitem__(key)


def dataset(images: ImageTable) -> Interrupting:
    colours = (ColourDistribution(blur_sigma_px=(0.1, 0.5)), ColourDistribution(solarise_probability=0.5))
    rules = ViewRules(size_px=32, area_range=(0.2, 1.0), aspect_ratio_range=(0.75, 1.33), colours=colours)
    return Interrupting(ImageViews(images, rules, seed=0))


def new_method() -> BYOL:
    torch.manual_seed(0)
    return BYOL(Encoder(build_backbone("resnet10"), mlp(512, 16, 8)), mlp(8, 16, 8))


def run(method: BYOL, data: Samples, folder: Path, lr: float = 0.05) -> BYOL:
    optimiser = torch.optim.SGD([w for w in method.parameters() if w.requires_grad], lr=0.05, momentum=0.9)
    train(
        Fabric(accelerator="cpu", devices=1),
        method,
        optimiser,
        data,
        EpochBatches(num_images=8, batch_size=4, epochs=3, seed=0),
        lr_at=partial(warmup_cosine, num_steps=NUM_STEPS, num_warmup_steps=2, peak=lr),
        ema_momentum_at=partial(ema_momentum, num_steps=NUM_STEPS, start=0.9),
        folder=folder,
        workers=0,
        checkpoint_minutes=60,
        title="test",
    )
    return method


def equal_weights(one: BYOL, other: BYOL) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def steps(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(images: ImageTable, tmp_path_factory: pytest.TempPathFactory) -> tuple[BYOL, Path]:
    """Training that went through."""
    folder = tmp_path_factory.mktemp("straight")
    return run(new_method(), dataset(images), folder), folder


@pytest.mark.parametrize("key_of", [0, 3, 4])
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_resumed_equals_one_that_went_through(
    images: ImageTable, straight: tuple[BYOL, Path], tmp_path: Path, key_of: int, signal_number: int
) -> None:
    batches = list(EpochBatches(num_images=8, batch_size=4, epochs=3, seed=0))
    data = dataset(images)
    data.interrupt_at, data.signal_number = batches[key_of][1], signal_number
    with pytest.raises(Stopped, match=rf"after step {key_of + 1} of {NUM_STEPS} and saved") as stopped:
        run(new_method(), data, tmp_path)
    assert stopped.value.exit_code == 128 + signal_number
    assert len(steps(tmp_path)) == key_of + 1
    data.interrupt_at = None
    resumed = run(new_method(), data, tmp_path)
    assert equal_weights(resumed, straight[0])
    timeless = [{key: v for key, v in row.items() if key.endswith("_s") is False} for row in steps(tmp_path)]
    expected = [{key: v for key, v in row.items() if key.endswith("_s") is False} for row in steps(straight[1])]
    assert timeless == expected


def test_a_finished_run_does_nothing_more(images: ImageTable, straight: tuple[BYOL, Path]) -> None:
    before = (straight[1] / "metrics.jsonl").read_bytes()
    assert equal_weights(run(new_method(), dataset(images), straight[1]), straight[0])
    assert (straight[1] / "metrics.jsonl").read_bytes() == before


def test_a_torn_checkpoint_is_passed_over_for_the_one_before(
    images: ImageTable, straight: tuple[BYOL, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = dataset(images)
    data.interrupt_at = list(EpochBatches(num_images=8, batch_size=4, epochs=3, seed=0))[2][0]
    with pytest.raises(Stopped):
        run(new_method(), data, tmp_path)
    whole = tmp_path / "checkpoints" / "step_00000003.ckpt"
    (tmp_path / "checkpoints" / "step_00000005.ckpt").write_bytes(whole.read_bytes()[:1000])
    data.interrupt_at = None
    assert equal_weights(run(new_method(), data, tmp_path), straight[0])
    assert "step_00000005.ckpt cannot be read" in caplog.text


def test_the_schedules_and_the_loss_are_in_the_log(straight: tuple[BYOL, Path]) -> None:
    rows = steps(straight[1])
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    assert [row["epoch"] for row in rows] == [0.5, 1, 1.5, 2, 2.5, 3]
    assert [row["lr"] for row in rows] == [
        pytest.approx(warmup_cosine(step, NUM_STEPS, 2, 0.05), abs=1e-6) for step in range(NUM_STEPS)
    ]
    assert rows[0]["ema_momentum"] == 0.9
    assert all(row["loss"] == row["loss_global"] and 0 < row["loss"] < 8 for row in rows)
    assert all(0 < row["spread"] <= 1.01 for row in rows)
    assert list((straight[1] / "tensorboard").iterdir())


def test_training_changes_the_online_network_and_drags_the_target_after(straight: tuple[BYOL, Path]) -> None:
    before, after = new_method(), straight[0]
    moved_online = (after.online.backbone.conv1.weight - before.online.backbone.conv1.weight).norm()
    moved_target = (after.target.backbone.conv1.weight - before.target.backbone.conv1.weight).norm()
    assert 0 < moved_target < moved_online


def test_the_rate_of_the_schedule_is_the_one_that_steps(images: ImageTable, tmp_path: Path) -> None:
    before, after = new_method(), run(new_method(), dataset(images), tmp_path, lr=0.0)
    for one, other in zip(before.online.parameters(), after.online.parameters()):
        assert torch.equal(one, other)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(images: ImageTable, tmp_path: Path) -> None:
    method = new_method()
    method.predictor[0].weight.data[0, 0] = float("nan")
    with pytest.raises(RuntimeError, match=r"not finite at step 1: .*'loss_global': nan"):
        run(method, dataset(images), tmp_path)


def test_only_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"method": {"w": torch.full((2,), float(step))}})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000002.ckpt", "step_00000003.ckpt"]
    state, complaints = load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 3
    assert complaints == []


def test_foreign_checkpoints_are_refused_and_none_is_no_state(tmp_path: Path) -> None:
    assert load_newest(tmp_path) == (None, [])
    torch.save({"weights": 1}, tmp_path / "step_00000001.ckpt")
    with pytest.raises(ValueError, match=r"step_00000001.ckpt is not a checkpoint of orl"):
        load_newest(tmp_path)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"orl_checkpoint": 1, "step": 1, "surprise": os.system}, tmp_path / "step_00000001.ckpt")
    with pytest.raises(ValueError, match="cannot be read"):
        load_newest(tmp_path)


def test_steps_after_the_checkpoint_are_dropped_from_the_log(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "lo')
    with MetricsLog(tmp_path, first_step=2) as log:
        log.write({"step": 3, "loss": 0.5})
    assert [row["step"] for row in steps(tmp_path)] == [1, 2, 3]
    assert steps(tmp_path)[2]["loss"] == 0.5


def test_spread_is_zero_after_collapse_and_about_one_on_the_sphere() -> None:
    assert feature_spread(torch.ones(16, 8)).item() == pytest.approx(0, abs=1e-6)
    even = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    assert feature_spread(even).item() == pytest.approx(1, abs=0.02)
    # Two opposite points on an axis of two: deviations 1 and 0, mean 1/2, times the root of 2.
    assert feature_spread(torch.tensor([[5.0, 0.0], [-2.0, 0.0]])).item() == pytest.approx(0.5 * 2**0.5)
