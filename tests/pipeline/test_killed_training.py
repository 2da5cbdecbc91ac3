"""Training by the command line: killed at any moment, or shared by two processes, it is the same training."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.ports import free_port

from orl.rundir import RunDir
from orl.synthetic.scenes import draw_scenes

NUM_IMAGES, BATCH_SIZE, EPOCHS = 12, 4, 8
NUM_STEPS = EPOCHS * NUM_IMAGES // BATCH_SIZE
TIME_LIMIT_S = 240


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_scenes(folder, num_trainval=NUM_IMAGES, num_test=1, size_wh=(96, 72), seed=0, quiet=True)
    return folder


def command(scenes: Path, out: Path, verb: str = "pretrain", *options: str) -> list[str]:
    given = {
        "images": scenes,
        "out": out,
        "workers": 1,
        "stage1.views.size-px": 32,
        "stage3.views.size-px": 32,
        "stage1.epochs": EPOCHS,
        "stage1.batch-size": BATCH_SIZE,
        "stage1.checkpoint-minutes": 1e-9,
        "stage3.epochs": 2,
        "stage3.batch-size": BATCH_SIZE,
    }
    named = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    return [sys.executable, "-m", "orl", verb, "demo", *named, *options]


def start(arguments: list[str], **environment: str) -> subprocess.Popen:
    environ = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(arguments, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> str:
    output, errors = process.communicate(timeout=TIME_LIMIT_S)
    assert process.returncode == 0, errors[-3000:]
    return output


def rows(out: Path, stage: str = "stage1") -> list[dict]:
    path = RunDir(out).metrics(stage)
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def kill_after(process: subprocess.Popen, out: Path, step: int, delay_s: float) -> None:
    give_up = time.monotonic() + TIME_LIMIT_S
    while (found := rows(out)) == [] or found[-1]["step"] < step:
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < give_up
        time.sleep(0.01)
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=TIME_LIMIT_S)


@pytest.fixture(scope="module")
def undisturbed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(command(scenes, out)))
    return out


def test_a_process_killed_three_times_ends_with_the_same_bits(scenes: Path, undisturbed: Path, tmp_path: Path) -> None:
    delay, out = random.Random(0), tmp_path / "run"
    for step in (3, 9, 16):
        process = start(command(scenes, out))
        kill_after(process, out, step, delay.uniform(0, 0.2))
        assert process.returncode == -signal.SIGKILL
        assert not RunDir(out).backbone("stage1").exists()
    finish(start(command(scenes, out)))
    for name in ("backbone.safetensors", "projector.safetensors"):
        assert (out / "stage1" / name).read_bytes() == (undisturbed / "stage1" / name).read_bytes(), name
    last = f"checkpoints/step_{NUM_STEPS:08d}.ckpt"
    ours, expected = (torch.load(folder / "stage1" / last) for folder in (out, undisturbed))
    assert ours["optimiser"]["state"].keys() == expected["optimiser"]["state"].keys()
    for key, state in expected["optimiser"]["state"].items():
        assert torch.equal(ours["optimiser"]["state"][key]["momentum_buffer"], state["momentum_buffer"])
    for name, weight in expected["network"].items():
        assert torch.equal(ours["network"][name], weight), name
    assert [row["step"] for row in rows(out)] == list(range(1, NUM_STEPS + 1))
    assert [row["loss"] for row in rows(out)] == [row["loss"] for row in rows(undisturbed)]


def test_a_changed_setting_is_refused_with_the_difference_and_free_ones_are_not(
    scenes: Path, undisturbed: Path
) -> None:
    refused = start([*command(scenes, undisturbed), "--stage1.base-lr", "0.123"])
    errors = refused.communicate(timeout=TIME_LIMIT_S)[1]
    assert refused.returncode == 1
    assert "stage1.base_lr: was 0.4, now 0.123" in errors
    free = ("--workers", "0", "--stage1.keep-checkpoints", "5", "--stage1.accumulation-steps", "2")
    finish(start([*command(scenes, undisturbed), *free]))


def test_two_processes_complete_a_run_together(scenes: Path, undisturbed: Path, tmp_path: Path) -> None:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    together = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", **place}
    out = tmp_path / "run"
    started = [
        start(command(scenes, out, "run"), RANK=str(rank), LOCAL_RANK=str(rank), **together) for rank in range(2)
    ]
    first, second = [finish(process) for process in started]
    assert str(RunDir(out).report.resolve()) in first
    assert second == ""
    assert RunDir(out).report.exists()
    assert [row["step"] for row in rows(out)] == list(range(1, NUM_STEPS + 1))
    assert len(rows(out, "stage3")) == 2 * NUM_IMAGES // BATCH_SIZE
    # The first step is that of one process up to float32's rounding through ten layers; later ones grow apart.
    ours, expected = rows(out)[0], rows(undisturbed)[0]
    for name in ("loss", "gradient_norm", "alignment"):
        assert ours[name] == pytest.approx(expected[name], rel=1e-3), name
