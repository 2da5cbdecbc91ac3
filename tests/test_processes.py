"""Several processes, and processes that are killed, leave the tables of one that is left alone, byte for byte."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from orl import processes as module
from orl.cli import main
from orl.networks.backbones import build_backbone, save_backbone
from orl.networks.mlp import byol_mlp, save_projector
from orl.processes import Processes, joined_processes, local_device
from orl.rundir import RunDir
from orl.synthetic.scenes import draw_scenes

NUM_SHARDS = 6 * 6
TIME_LIMIT_S = 300


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_scenes(folder, num_trainval=12, num_test=1, size_wh=(96, 72), seed=0, quiet=True)
    return folder


@pytest.fixture(scope="module")
def undisturbed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the tables that one process makes without a break."""
    out = tmp_path_factory.mktemp("undisturbed")
    stage_1(out)
    assert main(discovery(scenes, out)) == 0
    found = files(out)
    assert sum(name.endswith(".arrow") for name in found) == NUM_SHARDS
    return found


def stage_1(out: Path) -> None:
    """Write the files of a finished stage 1, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_backbone(build_backbone("resnet10"), RunDir(out).backbone("stage1"))
        save_projector(byol_mlp(512, 16, 8), RunDir(out).projector("stage1"))


def discovery(scenes: Path, out: Path) -> list[str]:
    config = {"embed-px": "32", "roi-embed-px": "32", "num-neighbours": "3", "shard-size": "2"}
    given = [part for name, value in config.items() for part in (f"--discover.{name}", value)]
    return ["discover", "demo", "--images", str(scenes), "--out", str(out), "--device", "cpu", "--workers", "0", *given]


def files(out: Path) -> dict[str, bytes]:
    """Shards and manifests of all tables; nothing else may be there."""
    folder = out / "discover"
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if name not in ("summary.json", "score.json")}


def start(scenes: Path, out: Path, **environment: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "orl", *discovery(scenes, out)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def start_two(scenes: Path, out: Path) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [start(scenes, out, RANK=str(rank), **together) for rank in range(2)]


def kill_after(process: subprocess.Popen[str], out: Path, num_shards: int, delay_s: float) -> None:
    """Kill a process, without warning, some time after so many shards are there."""
    give_up_at = time.monotonic() + TIME_LIMIT_S
    while len(list((out / "discover").glob("*/*.arrow"))) < num_shards:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up_at
        time.sleep(0.002)
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=TIME_LIMIT_S)


def test_two_processes_make_the_tables_of_one(scenes: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    stage_1(tmp_path)
    first, second = start_two(scenes, tmp_path)
    (first_out, first_log), (second_out, second_log) = (
        process.communicate(timeout=TIME_LIMIT_S) for process in (first, second)
    )
    assert (first.returncode, second.returncode) == (0, 0), first_log + second_log
    assert files(tmp_path) == undisturbed
    assert "12 images" in first_out
    assert "correspondences: " in first_out
    assert (second_out, "images" in second_log) == ("", False), "only the first process speaks"


def test_a_process_whose_partner_is_killed_ends_with_an_error_and_one_process_finishes(
    scenes: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    stage_1(tmp_path)
    first, second = start_two(scenes, tmp_path)
    kill_after(second, tmp_path, 1, 0.0)
    _, log = first.communicate(timeout=TIME_LIMIT_S)
    assert first.returncode == 1
    assert "process 0 of 2 stops: while it waited for" in log
    assert "Finished shards are kept: give the same command again" in log
    assert len(files(tmp_path)) < len(undisturbed)
    assert main(discovery(scenes, tmp_path)) == 0
    assert files(tmp_path) == undisturbed


def test_a_run_killed_at_any_moment_ends_with_the_tables_of_one_that_was_not(
    scenes: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    stage_1(tmp_path)
    chance = random.Random(0)
    for num_shards in sorted(chance.sample(range(1, NUM_SHARDS), 3)):
        kill_after(start(scenes, tmp_path), tmp_path, num_shards, chance.uniform(0, 0.05))
    # What a kill in the middle of a write leaves.
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "discover" / "proposals" / f".00003.arrow.{dead.pid}.tmp").write_bytes(b"half")
    assert main(discovery(scenes, tmp_path)) == 0
    assert files(tmp_path) == undisturbed


def test_each_item_goes_to_one_process() -> None:
    store = dist.HashStore()
    first, second = (Processes(rank=rank, count=2, store=store) for rank in range(2))
    for items in (["a", "b", "c", "d", "e"], ["f"], []):
        dealt = []
        waiting = [first.deal(items), second.deal(items)]
        while waiting:
            turn = waiting.pop(0)
            item = next(turn, None)
            if item is not None:
                dealt.append(item)
                waiting.append(turn)
        assert dealt == list(enumerate(items))


def test_one_process_has_every_item_and_waits_for_nobody() -> None:
    alone = Processes()
    assert list(alone.deal(["a", "b"])) == [(0, "a"), (1, "b")]
    assert alone.from_first(lambda: 3, "three") == 3
    alone.wait("nobody")
    assert alone.is_first


def test_the_error_of_a_wait_names_the_reason_of_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(**_: object) -> None:
        raise RuntimeError("Connection closed by peer\nat some address")

    monkeypatch.setattr(dist, "monitored_barrier", closed)
    with pytest.raises(
        RuntimeError, match=r"1 of 2 stops: while it waited for the rest of rois.*\(Connection closed by"
    ):
        Processes(rank=1, count=2).wait("the rest of rois")


def test_a_start_without_an_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with (
        pytest.raises(ValueError, match=r"WORLD_SIZE is 2, but MASTER_ADDR, MASTER_PORT is not set"),
        joined_processes(torch.device("cpu")),
    ):
        pass


def test_processes_of_a_machine_take_its_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(module, "compute_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert local_device("cuda") == torch.device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "4")
    for rank, gpu in enumerate((0, 1, 0)):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert local_device("cuda") == torch.device("cuda", gpu)


def test_sruns_variables_are_translated_to_torchruns_and_the_environment_is_only_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    step = {
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_STEP_NODELIST": "gpu[07-08]",
        "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_JOB_ID": "1234567",
    }
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert module.num_processes() == 8
    assert module.torchrun_variables() == {
        "WORLD_SIZE": "8",
        "RANK": "5",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": "19567",
    }
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert module.torchrun_variables()["MASTER_PORT"] == "29500", "an address that is given is kept"
    monkeypatch.delenv("MASTER_PORT")
    assert dict(os.environ) == before


def test_a_batch_script_of_slurm_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert module.num_processes() == 1


def test_one_process_gathers_its_own() -> None:
    assert Processes().gather(3, 4) == [(3, 4)]
    assert Processes().gather_lists(["a", "b"]) == ["a", "b"]
