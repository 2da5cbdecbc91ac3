"""A complete run that is stopped again and again, in any stage, ends with the bits of a run that never stopped."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orl.rundir import RunDir
from orl.synthetic.scenes import draw_scenes

pytestmark = pytest.mark.slow
NUM_STOPS = 6
"""Stops, spread over the files that the run writes."""
TIME_LIMIT_S = 600
SIGNALS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
"""Signals and the exit code after each."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_scenes(folder, num_trainval=24, num_test=8, size_wh=(96, 72), seed=0, quiet=True)
    return folder


def start(scenes: Path, out: Path) -> subprocess.Popen[str]:
    options = {
        "images": scenes,
        "eval-data": scenes,
        "out": out,
        "workers": 2,
        "epochs": 2,
        "batch-size": 4,
        "stage1.views.size-px": 32,
        "stage3.views.size-px": 32,
        "stage1.checkpoint-minutes": 0.01,
        "stage3.checkpoint-minutes": 0.01,
        "discover.embed-px": 32,
        "discover.roi-embed-px": 32,
        "discover.num-neighbours": 3,
        "discover.shard-size": 4,
        "evaluation.size-px": 32,
        "evaluation.knn-neighbours": 5,
    }
    named = [f"--{name}={value}" for name, value in options.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "orl", "run", "demo", *named],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(out: Path) -> dict[str, bytes]:
    """Return weights, shards of tables and lists of a run; times stand in the other files."""
    kinds = (".safetensors", ".arrow", ".npy", ".parquet", ".csv")
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.suffix in kinds}


def log_size(out: Path) -> int:
    log = RunDir(out).log
    return log.stat().st_size if log.exists() else 0


def processes_of(out: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"ORL_TEST_RUN={out}\0".encode() in entry.read_bytes():
                found.append(entry.parent.name)
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def undisturbed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    process = start(scenes, out)
    errors = process.communicate(timeout=TIME_LIMIT_S)[1]
    assert process.returncode == 0, errors[-3000:]
    return out


@pytest.mark.skipif(sys.platform != "linux", reason="looks for left processes in /proc")
@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_stopped_at_random_moments_ends_with_the_same_bits(
    scenes: Path, undisturbed: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, choose = tmp_path / "run", random.Random(seed)
    monkeypatch.setenv("ORL_TEST_RUN", str(out))
    num_files = len(list(undisturbed.rglob("*")))
    for stop in range(NUM_STOPS):
        before = log_size(out)
        process, number = start(scenes, out), choose.choice(list(SIGNALS))
        target = num_files * (stop + choose.uniform(0, 1)) / NUM_STOPS
        deadline = time.monotonic() + TIME_LIMIT_S
        # A signal while Python itself starts says nothing about orl, so the first line of the log is waited for.
        while process.poll() is None and (log_size(out) == before or len(list(out.rglob("*"))) < target):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(choose.uniform(0, 0.3))
        process.send_signal(number)
        errors = process.communicate(timeout=TIME_LIMIT_S)[1]
        assert process.returncode in (SIGNALS[number], 0), errors[-3000:]
        assert "Traceback" not in errors, errors[-3000:]
        deadline = time.monotonic() + 30
        while left := processes_of(out):
            assert time.monotonic() < deadline, f"processes {left} go on after {number.name}"
            time.sleep(0.1)
    process = start(scenes, out)
    errors = process.communicate(timeout=TIME_LIMIT_S)[1]
    assert process.returncode == 0, errors[-3000:]
    ours, expected = results(out), results(undisturbed)
    assert ours.keys() == expected.keys()
    assert [name for name in expected if ours[name] != expected[name]] == []
