"""Every image-level method as stage 1: it trains, goes on where it was stopped, and two processes are as one."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing
from tests.ports import free_port

from orl.config import ImageMethod, RunConfig, TrainConfig, ViewConfig
from orl.datasets.image_table import load_image_table
from orl.networks.backbones import read_backbone_file
from orl.pipeline.preflight import preflight
from orl.pipeline.pretrain import pretrain
from orl.pipeline.run import run_all, run_pretrain
from orl.processes import joined_processes
from orl.recipes import demo, with_method
from orl.rundir import RunDir
from orl.synthetic.scenes import draw_scenes
from orl.training.training_step import SSLStep

CONTRASTIVE: tuple[ImageMethod, ...] = ("mocov2", "simclr", "densecl", "selfemd")
SHORT = TrainConfig(
    epochs=2,
    batch_size=4,
    warmup_epochs=1.0,
    hidden_features=32,
    projection_features=16,
    views=ViewConfig(size_px=64, area_range=(0.2, 1.0), blur_sigma_px=(0.1, 1.0)),
)
NUM_STEPS = 6


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_scenes(folder, num_trainval=12, num_test=8, size_wh=(96, 72), seed=0, quiet=True)
    return folder


def small(scenes: Path, out: Path, method: ImageMethod) -> RunConfig:
    config = with_method(replace(demo(scenes, out), workers=0, stage1=SHORT, stage3=SHORT), method)
    return replace(config, device="cpu", discover=replace(config.discover, embed_px=32, roi_embed_px=32))


def rows(config: RunConfig) -> list[dict[str, float]]:
    return [json.loads(line) for line in RunDir(config.out).metrics("stage1").read_text().splitlines()]


@pytest.mark.parametrize("method", CONTRASTIVE)
def test_a_stopped_training_resumes_to_the_same_bits(
    method: ImageMethod, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete, stopped = (small(scenes, tmp_path / name, method) for name in ("complete", "stopped"))
    run_pretrain(complete, "stage1")
    check = SSLStep._check_finite

    def broken(self: SSLStep, measured: dict[str, float]) -> None:
        if next(steps) == 4:
            raise RuntimeError("the machine fails after a forward pass")
        check(self, measured)

    steps = iter(range(1, NUM_STEPS + 1))
    with monkeypatch.context() as patch:
        patch.setattr(SSLStep, "_check_finite", broken)
        with pytest.raises(RuntimeError, match="the machine fails"):
            run_pretrain(stopped, "stage1")
    run_pretrain(stopped, "stage1")
    names = ("backbone.safetensors", "projector.safetensors")
    for name in names:
        one, other = (RunDir(config.out).stage("stage1") / name for config in (complete, stopped))
        assert one.read_bytes() == other.read_bytes(), name
    assert [row["loss"] for row in rows(complete)] == [row["loss"] for row in rows(stopped)]
    assert len(rows(complete)) == NUM_STEPS


def double(config: RunConfig) -> RunConfig:
    return replace(config, precision="64-true", stage1=replace(config.stage1, epochs=1))


def one_of_two(rank: int, port: int, scenes: Path, folder: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank))
    os.environ.update(LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    torch.set_num_threads(1)
    with joined_processes(torch.device("cpu")) as processes:
        for method in CONTRASTIVE:
            config = double(small(scenes, folder / method, method))
            inputs = preflight(config, ("stage1",), processes)
            pretrain(inputs, load_image_table(RunDir(folder / "one").images), "stage1", processes)


def test_two_processes_train_every_method_as_one(scenes: Path, tmp_path: Path) -> None:
    alone = [double(small(scenes, tmp_path / f"one-{method}", method)) for method in CONTRASTIVE]
    for config in alone:
        run_pretrain(config, "stage1")
    (tmp_path / "one").mkdir()
    RunDir(tmp_path / "one").images.write_bytes(RunDir(alone[0].out).images.read_bytes())
    multiprocessing.spawn(one_of_two, (free_port(), scenes, tmp_path), nprocs=2)
    for method, config in zip(CONTRASTIVE, alone):
        together = replace(config, out=tmp_path / method)
        for before, after in zip(rows(config), rows(together), strict=True):
            for name in ("loss", "gradient_norm"):
                # They are logged with seven digits.
                assert after[name] == pytest.approx(before[name], rel=1e-6), (method, name)
        one, two = (read_backbone_file(RunDir(each.out).backbone("stage1")) for each in (config, together))
        for (name, weight), other in zip(one.named_parameters(), two.parameters(), strict=True):
            torch.testing.assert_close(other, weight, rtol=1e-5, atol=1e-7, msg=f"{method} {name}")


def test_orl_takes_any_method_as_its_stage_1(scenes: Path, tmp_path: Path) -> None:
    config = small(scenes, tmp_path / "run", "mocov2")
    assert run_all(replace(config, discover=replace(config.discover, num_neighbours=3))) is not None
    assert RunDir(config.out).backbone("stage3").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_groups": 3}, r"the 4 images of a forward pass on 1 processes cannot be split into 3 equal groups"),
        ({"num_groups": 4}, r"into 4 equal groups of two or more"),
        ({"queue_size": 10}, r"a queue of 10 keys is not a multiple of the batch of 4"),
    ],
)
def test_groups_and_queues_that_do_not_fit_the_batch_are_refused_at_once(
    changes: dict[str, int], complaint: str, scenes: Path, tmp_path: Path
) -> None:
    config = small(scenes, tmp_path / "run", "mocov2")
    with pytest.raises(ValueError, match=complaint):
        run_pretrain(replace(config, method=replace(config.method, **changes)), "stage1")
    assert not RunDir(config.out).config.exists()


@pytest.mark.parametrize(
    ("method", "changes", "complaint"),
    [
        ("mocov2", {"stage1": replace(SHORT, join_views=True)}, "join_views has no effect on method mocov2"),
        ("mocov2", {"warm": True}, "objects.warm_start needs a stage 1 with the projector of stage 3"),
        (
            "byol",
            {"warm": True, "stage1": replace(SHORT, hidden_features=8)},
            r"with \(8, 16\) and \(32, 16\) features",
        ),
    ],
)
def test_options_that_exclude_each_other_are_refused(
    method: ImageMethod, changes: dict, complaint: str, scenes: Path, tmp_path: Path
) -> None:
    config = small(scenes, tmp_path, method)
    objects = replace(config.objects, warm_start=changes.pop("warm", False))
    with pytest.raises(ValueError, match=complaint):
        replace(config, objects=objects, **changes)
