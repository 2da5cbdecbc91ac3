"""The examples run: each script for real, on synthetic scenes, with stubs in place of SLURM's commands."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orl.rundir import RunDir
from orl.synthetic.scenes import draw_scenes

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = sorted([*EXAMPLES.glob("*.sh"), *EXAMPLES.glob("*.sbatch")])
TINY = [
    *("--stage1.batch-size", "8", "--stage3.batch-size", "8", "--stage1.epochs", "1", "--stage3.epochs", "1"),
    *(
        "--stage1.views.size-px",
        "32",
        "--stage3.views.size-px",
        "32",
        "--objects.roi-size-px",
        "16",
        "--stage1.hidden-features",
        "32",
        "--stage3.hidden-features",
        "32",
    ),
    *("--discover.embed-px", "32", "--discover.roi-embed-px", "32", "--discover.num-neighbours", "4"),
    *("--discover.proposals", "grid", "--discover.max-rois", "4", "--device", "cpu"),
]
SRUN_STUB = '#!/bin/sh\nshift\nexec "$@"\n'
SCONTROL_STUB = '#!/bin/sh\necho "$@" >> "$SCONTROL_LOG"\n'
MAX_WAIT_S = 240


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_scenes(folder, num_trainval=16, num_test=0, size_wh=(96, 72), quiet=True)
    return folder


def environment(scenes: Path, out: Path, **more: str) -> dict[str, str]:
    """Return the environment of a script, in which the commands of this Python come first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    options = {"IMAGES": str(scenes), "OUT": str(out), "RECIPE": "demo", "WORKERS": "1", "PATH": path}
    return {**os.environ, **options, "OMP_NUM_THREADS": "1", **more}


def load_example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_in_the_list() -> None:
    listed = set(re.findall(r"^\| `(\S+)` \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE))
    assert listed == {path.name for path in EXAMPLES.iterdir() if path.is_file() and path.name != "README.md"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_stop_at_the_first_error(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "\nset -euo pipefail\n" in script.read_text()
    assert os.access(script, os.X_OK)


@pytest.mark.slow
def test_own_images_from_python(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = load_example("own_images.py")
    arguments = ["--images", str(scenes), "--out", str(tmp_path / "run"), "--recipe", "demo"]
    module.main([*arguments, "--epochs", "1", "--batch-size", "8"])
    assert "backbone: resnet10, 512 channels" in capsys.readouterr().out
    assert RunDir(tmp_path / "run").report.exists()


@pytest.mark.slow
def test_a_network_of_ones_own_is_trained(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = load_example("own_network.py")
    options = {"workers": 0, "device": "cpu", "stage1.views.size_px": 32, "stage1.hidden_features": 32}
    module.main(scenes, tmp_path / "run", recipe="demo", epochs=1, batch_size=8, options=options)
    assert "features: (1, 64)" in capsys.readouterr().out


@pytest.mark.slow
def test_one_node_trains_with_two_processes(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["bash", str(EXAMPLES / "one_node.sh"), *TINY]
    subprocess.run(command, check=True, env=environment(scenes, out, PROCESSES="2"), timeout=MAX_WAIT_S)
    run = RunDir(out)
    assert run.backbone("stage3").exists()
    assert run.report.exists()
    # 16 images at a batch of 8 over both processes.
    assert len(run.metrics("stage1").read_text().splitlines()) == 2


@pytest.mark.slow
def test_several_nodes_meet_on_one(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    variables = environment(scenes, out, PROCESSES="1", NODES="2", FIRST_NODE="localhost", PORT="29517", JOB="test")
    command = ["bash", str(EXAMPLES / "several_nodes.sh"), *TINY]
    nodes = [subprocess.Popen(command, env=variables) for _ in range(2)]
    assert [node.wait(MAX_WAIT_S) for node in nodes] == [0, 0]
    assert RunDir(out).backbone("stage3").exists()


@pytest.mark.slow
def test_a_job_saves_and_requeues_itself_before_its_time_is_over(scenes: Path, tmp_path: Path) -> None:
    for name, text in (("srun", SRUN_STUB), ("scontrol", SCONTROL_STUB)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    variables = environment(scenes, tmp_path / "run", SLURM_JOB_ID="17", SCONTROL_LOG=str(tmp_path / "scontrol.log"))
    variables["PATH"] = os.pathsep.join([str(tmp_path), variables["PATH"]])
    command = ["bash", str(EXAMPLES / "slurm.sbatch"), *TINY, "--stage1.epochs", "5000"]
    steps = [0]
    for _ in range(2):  # the second part resumes where the first one was stopped
        job = subprocess.Popen(command, env=variables)
        wait_for_step(RunDir(tmp_path / "run").metrics("stage1"), steps[-1] + 3, job)
        job.send_signal(signal.SIGUSR1)
        assert job.wait(MAX_WAIT_S) == 0
        steps.append(last_step(RunDir(tmp_path / "run").metrics("stage1")))
    assert steps[2] > steps[1] > 0
    assert (tmp_path / "scontrol.log").read_text() == "requeue 17\n" * 2


@pytest.mark.slow
def test_a_job_that_fails_is_not_requeued(tmp_path: Path) -> None:
    (tmp_path / "srun").write_text(SRUN_STUB)
    (tmp_path / "srun").chmod(0o755)
    variables = environment(tmp_path / "nowhere", tmp_path / "run", SLURM_JOB_ID="17")
    variables["PATH"] = os.pathsep.join([str(tmp_path), variables["PATH"]])
    job = subprocess.run(["bash", str(EXAMPLES / "slurm.sbatch")], env=variables, capture_output=True, text=True)
    assert job.returncode == 1
    assert "no images at" in job.stderr


def wait_for_step(metrics: Path, step: int, job: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + MAX_WAIT_S
    while last_step(metrics) < step:
        assert job.poll() is None, f"the job ended with {job.returncode} before step {step}"
        assert time.monotonic() < end, f"step {step} was not reached in {MAX_WAIT_S} s"
        time.sleep(0.2)


def last_step(metrics: Path) -> int:
    lines = [line for line in metrics.read_text().splitlines() if line.endswith("}")] if metrics.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0
