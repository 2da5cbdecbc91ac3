import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from orl.training.metrics import MetricsLog


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_steps_after_the_checkpoint_are_dropped_from_the_log(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "lo')
    with MetricsLog(tmp_path, first_step=2) as log:
        log.write({"step": 3, "loss": 0.5})
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]
    assert rows(tmp_path)[2]["loss"] == 0.5


def test_an_infinite_number_is_null_in_json(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, first_step=0) as log:
        log.write({"step": 1, "gradient_norm": float("inf")})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "gradient_norm": null}\n'


def test_a_quiet_log_writes_nothing(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, first_step=0, quiet=True) as log:
        log.write({"step": 1, "loss": 0.5})
    assert list(tmp_path.iterdir()) == []


def test_weights_and_biases_gets_every_step_when_it_is_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple] = []
    run = SimpleNamespace(
        log=lambda metrics, step: calls.append(("log", metrics, step)),
        finish=lambda exit_code: calls.append(("finish", exit_code)),
    )
    logged = {}

    def init(**config: object) -> SimpleNamespace:
        logged.update(config)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=lambda **config: config))
    with MetricsLog(tmp_path / "stage1", first_step=0, wandb_mode="offline") as log:
        log.write({"step": 1, "epoch": 0.5, "loss": 0.5})
    assert calls == [("log", {"loss": 0.5}, 1), ("finish", 0)]
    assert (logged["mode"], logged["name"], logged["dir"]) == (
        "offline",
        f"{tmp_path.name}-stage1",
        str(tmp_path / "stage1"),
    )


def test_missing_weights_and_biases_is_an_error_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="--wandb offline needs Weights & Biases: pip install wandb"):
        MetricsLog(tmp_path, first_step=0, wandb_mode="offline")


def test_an_offline_run_of_weights_and_biases_is_kept_beside_the_stage(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="Weights & Biases is optional: pip install wandb")
    folder = tmp_path / "stage1"
    folder.mkdir()
    with MetricsLog(folder, first_step=0, wandb_mode="offline") as log:
        for step in (1, 2):
            log.write({"step": step, "epoch": step / 2, "loss": 1 / step})
    assert list(folder.glob("wandb/offline-run-*/run-*.wandb"))
