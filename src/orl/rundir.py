"""Where every file of a run lies, and the record of what was run."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orl import files, tables

TRAINED_STAGES = {"stage1": "stage 1", "stage3": "stage 3"}
"""The stages that leave a backbone, by the names of their folders, and what they are called."""
RECORDED_PACKAGES = ("torch", "torchvision", "numpy", "numba", "scikit-learn")


@dataclass(frozen=True)
class RunDir:
    """The folder of one run, `runs/NAME`."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def record(self) -> Path:
        """Versions, seed, git commit, device and the state and seconds of each stage, as JSON."""
        return self.root / "run.json"

    @property
    def images(self) -> Path:
        return self.root / "images.parquet"

    @property
    def rejected(self) -> Path:
        return self.root / "rejected.csv"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    def stage(self, name: str) -> Path:
        """Folder of 'stage1' or 'stage3': metrics.jsonl, tensorboard/, checkpoints/, backbone.safetensors."""
        return self.root / name

    def backbone(self, stage: str) -> Path:
        return self.root / stage / "backbone.safetensors"

    def projector(self, stage: str) -> Path:
        return self.root / stage / "projector.safetensors"

    def metrics(self, stage: str) -> Path:
        return self.root / stage / "metrics.jsonl"

    def table(self, name: str) -> Path:
        """Folder of one table of stage 2: embeddings, neighbours, proposals, rois, ..."""
        return self.root / "discover" / name

    @property
    def discovery_score(self) -> Path:
        return self.root / "discover" / "score.json"

    def evaluation(self, task: str, backbone: str) -> Path:
        """Result of one judge ('svm', 'knn', 'low-shot') on one backbone ('random', 'stage1', 'stage3')."""
        return self.root / "evaluation" / f"{task}_{backbone}.json"

    @property
    def figures(self) -> Path:
        """Folder of what `orl figures` draws."""
        return self.root / "figures"

    @property
    def report(self) -> Path:
        return self.root / "report" / "index.html"


def read_record(run: RunDir) -> dict[str, Any]:
    """What `run.json` says; empty when there is none yet.

    Raises:
        ValueError: if the file is not JSON.
    """
    if not run.record.exists():
        return {}
    try:
        return json.loads(run.record.read_text())
    except ValueError as error:
        raise ValueError(f"{run.record} is not JSON ({error}); delete it and run again") from error


def record_run(run: RunDir, facts: Mapping[str, Any]) -> None:
    """Write what a run is: versions, machine and whatever the caller knows; the states of stages are kept."""
    record = {
        **facts,
        "orl": version("orl"),
        "git": _commit(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors ({cpu_name()})",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in RECORDED_PACKAGES}},
        "stages": read_record(run).get("stages", {}),
    }
    files.write_atomically(run.record, json.dumps(record, indent=1))


def forget_stage(run: RunDir, stage: str) -> None:
    """Delete what is known of a training stage that begins anew: its time, and what judges said of its weights."""
    for path in run.evaluation("*", stage).parent.glob(run.evaluation("*", stage).name):
        path.unlink(missing_ok=True)
    record = read_record(run)
    if record.get("stages", {}).pop(stage, None) is not None:
        files.write_atomically(run.record, json.dumps(record, indent=1))


def read_discovery_score(run: RunDir) -> dict[str, Any] | None:
    """The score of the correspondences that there are; None where there is none, or it is of others.

    Raises:
        ValueError: if the file is not JSON.
    """
    if not run.discovery_score.exists():
        return None
    try:
        score = json.loads(run.discovery_score.read_text())
    except ValueError as error:
        raise ValueError(f"{run.discovery_score} is not JSON ({error}); delete it and run again") from error
    scored = score.get("correspondences")
    return score if scored in (None, tables.finished_fingerprint(run.table("correspondences"))) else None


def cpu_name() -> str:
    """The processor as the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, and whether it was changed; None if installed."""
    here = Path(__file__).parent
    try:
        commit, changed = (
            subprocess.run(["git", "-C", here, *command], capture_output=True, text=True, check=True, timeout=10).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "."])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.strip() + (" with local changes" if changed.strip() else "")


def record_stage(run: RunDir, stage: str, state: str, elapsed_s: float) -> None:
    """Note the state of a stage ('done', 'stopped' or 'failed') and the seconds spent on it so far, over all calls."""
    record = read_record(run)
    stages = record.setdefault("stages", {})
    before = stages.get(stage, {})
    stages[stage] = {"state": state, "elapsed_s": round(before.get("elapsed_s", 0) + elapsed_s, 1)}
    files.write_atomically(run.record, json.dumps(record, indent=1))
