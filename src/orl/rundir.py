"""Paths of the files of a run, and readers of its record and of its discovery score."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orl import files, tables

TRAINED_STAGES = {"stage1": "stage 1", "stage3": "stage 3"}
"""Training stages: name of the folder -> label."""
BACKBONES = {"random": "random weights", **TRAINED_STAGES}
"""Backbones that are evaluated: name in the file of a result -> label."""


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
        """Return the folder of 'stage1' or 'stage3': metrics.jsonl, tensorboard/, checkpoints/, weights."""
        return self.root / name

    def backbone(self, stage: str) -> Path:
        return self.root / stage / "backbone.safetensors"

    def projector(self, stage: str) -> Path:
        return self.root / stage / "projector.safetensors"

    def metrics(self, stage: str) -> Path:
        return self.root / stage / "metrics.jsonl"

    def table(self, name: str) -> Path:
        """Return the folder of a table of stage 2: embeddings, neighbours, proposals, rois, ..."""
        return self.root / "discover" / name

    @property
    def discovery_score(self) -> Path:
        return self.root / "discover" / "score.json"

    def evaluation(self, task: str, backbone: str) -> Path:
        """Return the file of one evaluation, such as 'roi-knn', of a backbone ('random', 'stage1', 'stage3')."""
        return self.root / "evaluation" / f"{task}_{backbone}.json"

    @property
    def figures(self) -> Path:
        """Folder of the output of `orl figures`."""
        return self.root / "figures"

    @property
    def report(self) -> Path:
        return self.root / "report" / "index.html"


def read_record(run: RunDir) -> dict[str, Any]:
    """Read `run.json`; return an empty dict if there is none yet.

    Raises:
        ValueError: if the file is not JSON, or its `stages` are not states and seconds.
    """
    record = files.read_json(run.record) if run.record.exists() else {}
    stages = record.get("stages", {})
    for stage in stages.values() if isinstance(stages, dict) else [None]:
        if not isinstance(stage, dict) or not isinstance(stage.get("elapsed_s"), int | float):
            raise ValueError(f"{run.record} has damaged stages ({stages!r:.80}); delete it and run again")
    return record


def read_discovery_score(run: RunDir) -> dict[str, Any] | None:
    """Read the score of the correspondences; None if there is none, or if it is of earlier correspondences.

    Raises:
        ValueError: if the file is not JSON.
    """
    if not run.discovery_score.exists():
        return None
    score = files.read_json(run.discovery_score)
    scored = score.get("correspondences")
    return score if scored in (None, tables.finished_fingerprint(run.table("correspondences"))) else None
