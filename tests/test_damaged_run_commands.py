"""Damaged files in the folder of a finished run: every command ends with one line, or repairs the run."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from orl.cli import main
from orl.synthetic.scenes import draw_scenes

pytestmark = pytest.mark.slow
NUM_DAMAGES = 60
"""Damages of each seed; each takes one to three seconds."""


def options(images: Path, out: Path) -> list[str]:
    values = {
        "images": images,
        "eval-data": images,
        "out": out,
        "workers": 0,
        "epochs": 1,
        "batch-size": 4,
        "stage1.views.size-px": 32,
        "stage3.views.size-px": 32,
        "discover.embed-px": 32,
        "discover.roi-embed-px": 32,
        "discover.num-neighbours": 3,
        "discover.shard-size": 8,
        "evaluation.size-px": 32,
        "evaluation.knn-neighbours": 5,
    }
    return [f"--{name}={value}" for name, value in values.items()]


COMMANDS: dict[str, Callable[[Path, Path], list[str]]] = {
    "run": lambda images, run: ["run", "demo", *options(images, run)],
    "discover": lambda images, run: ["discover", f"--out={run}"],
    "export": lambda images, run: ["export", str(run), "--to", "torchvision", f"--out={run.parent / 'x.pth'}"],
    "curves": lambda images, run: ["figures", "curves", str(run), f"--to={run.parent / 'curves.png'}"],
    "pairs": lambda images, run: ["figures", "correspondences", str(run), f"--to={run.parent / 'pairs.png'}"],
    "report": lambda images, run: ["report", str(run)],
}


def damages(content: bytes, choose: random.Random) -> bytes:
    """Return another content of a file."""
    flipped = bytearray(content)
    if flipped:
        flipped[choose.randrange(len(flipped))] ^= 1 << choose.randrange(8)
    with pa.BufferOutputStream() as sink:
        table = pa.table({"name": np.arange(3), "box": np.arange(3.0)})
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        arrow = sink.getvalue().to_pybytes()
    values = [None, [], {}, 7, "text", [{}], {"version": 1}, {"stages": {"stage1": 3}}, {"shards": [None]}, [1e400]]
    others = [json.dumps(value).encode() for value in values]
    return choose.choice([b"", b"{", b"\xff\xfe", content[: len(content) // 2], bytes(flipped), arrow, *others])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    images, out = tmp_path_factory.mktemp("scenes"), tmp_path_factory.mktemp("runs") / "run"
    draw_scenes(images, num_trainval=16, num_test=8, size_wh=(96, 72), seed=0, quiet=True)
    assert main(COMMANDS["run"](images, out)) == 0
    return images, out


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_file_is_one_line_or_repaired(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    images, reference = finished
    choose, faults = random.Random(seed), []
    for index in range(NUM_DAMAGES):
        run = tmp_path / str(index) / "run"
        shutil.copytree(reference, run)
        names = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
        name, command = choose.choice(names), choose.choice(list(COMMANDS))
        path = run / name
        damaged = damages(path.read_bytes(), choose)
        path.write_bytes(damaged)
        capsys.readouterr()
        try:
            code = main(COMMANDS[command](images, run))
        except Exception as error:  # every escape is a fault to be listed
            faults.append(f"{command}, {name}, {damaged[:40]!r}: {type(error).__name__}: {error}")
            continue
        errors = capsys.readouterr().err
        if code not in (0, 1) or "Traceback" in errors:
            faults.append(f"{command}, {name}, {damaged[:40]!r}: exit code {code}: {errors[-300:]}")
        elif code == 1 and not errors.splitlines()[-1].startswith("orl: "):
            faults.append(f"{command}, {name}, {damaged[:40]!r}: last line {errors.splitlines()[-1]!r}")
        shutil.rmtree(run.parent)
    assert faults == []
