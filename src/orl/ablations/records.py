"""What is kept of a study: one record an arm and seed, and what they were made with, in one JSON file."""

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orl import files
from orl.ablations.compute import discover_pixels, stage1_pixels, stage3_pixels, uses_pairs, uses_stage1
from orl.ablations.variants import Ablation, Variant
from orl.config import RunConfig, to_plain
from orl.datasets.image_table import load_image_table
from orl.rundir import RunDir, read_discovery_score, read_record

KIND, RECORDED = "ablation", "recorded"
DISCOVERY = (
    *("object_fraction", "same_class_fraction", "both_fraction", "lift", "roi_object_fraction"),
    *("random_object_fraction", "random_same_class_fraction", "random_both_fraction", "lift_interval_95"),
    *("kept_object_fraction", "kept_same_class_fraction"),
)
"""What is kept of the discovery score."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One arm at one seed."""

    variant: str
    seed: int
    run: str
    """Folder of the run below that of the study; arms that change nothing share the base's."""
    backbone: str
    """What was judged: 'random', 'stage1' or 'stage3'."""
    epochs: dict[str, int]
    """Of each stage that the backbone came from."""
    images_seen: int
    """Images in all epochs that its weights have learned from: stage 1 before an ORL counts with a warm start alone."""
    gigapixels: float
    """What passed the network, a forward pass alone as a quarter, everything before it counted; see `compute`."""
    discovery: dict[str, Any] | None
    scores: dict[str, Any]
    """Mean AP in [0, 1] by judge; of low-shot by the number of images."""
    elapsed_s: dict[str, float]
    """Of each part of the run that the arm itself went through."""


def record_of(variant: Variant, folder: Path, *, judged: bool) -> Record:
    """Read what the run of an arm has left, below the folder of its study.

    Args:
        arm: whose run is done.
        folder: of the study.
        judged: whether the study judges backbones; else scores that another study left in a shared run do not count.
    """
    config, run = variant.config, RunDir(variant.config.out)
    num_images = len(load_image_table(run.images)) if run.images.exists() else 0
    return Record(
        variant=variant.label,
        seed=config.seed,
        run=config.out.relative_to(folder).as_posix(),
        backbone=variant.backbone,
        epochs=_epochs(config, variant.backbone),
        images_seen=num_images * _epochs_of_weights(config, variant.backbone),
        gigapixels=float(f"{num_images * _pixels(config, variant.backbone) / 1e9:.4g}"),
        discovery=_discovery(run) if variant.backbone == "stage3" and uses_pairs(config) else None,
        scores=_scores(run, variant.backbone) if judged else {},
        elapsed_s={name: stage["elapsed_s"] for name, stage in read_record(run).get("stages", {}).items()},
    )


def write_ablation(path: Path, ablation: Ablation, config: RunConfig, records: Sequence[Record]) -> None:
    """Write the result of a study, whole or not at all.

    Args:
        path: NAME.json.
        study: what was asked.
        config: settings of the base run.
        records: of all arms and seeds that are done.

    Commit, machine and command are those of the last call: a study that goes on elsewhere says where it ended.
    """
    base = RunDir(config.out / f"seed{records[0].seed}" / "base")
    made = read_record(base)
    result = {
        "kind": KIND,
        "name": path.stem,
        "question": ablation.question,
        "reference": ablation.reference,
        "command": portable(made.get("command", "")),
        "commit": made.get("git"),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": made.get("machine"),
        "device": made.get("device"),
        "versions": made.get("versions"),
        "seeds": sorted({record.seed for record in records}),
        "elapsed_s": _elapsed_s(config.out, records),
        "images": config.images.name,
        "num_images": len(load_image_table(base.images)),
        "judged_on": _judged_on(config),
        "settings": _settings(config),
        "records": [asdict(record) for record in records],
    }
    files.write_atomically(path, json.dumps(result, indent=1) + "\n")


def portable(command: str) -> str:
    """A command without the folders of this machine: of an absolute path its last part stays."""
    words = []
    for word in shlex.split(command):
        option, joined, value = word.rpartition("=")
        words.append(f"{option}{joined}{Path(value).name if Path(value).is_absolute() else value}")
    return shlex.join(words)


def _epochs(config: RunConfig, backbone: str) -> dict[str, int]:
    if backbone == "random":
        return {}
    epochs = {"stage1": config.stage1.epochs}
    if backbone == "stage1":
        return epochs
    own = {"stage3": config.stage3.epochs}
    return {**epochs, **own} if uses_stage1(config) else own


def _epochs_of_weights(config: RunConfig, backbone: str) -> int:
    epochs = _epochs(config, backbone)
    return sum(epochs.values()) if config.objects.warm_start else epochs.get(backbone, 0)


def _pixels(config: RunConfig, backbone: str) -> float:
    """An image's, as `compute` counts them."""
    epochs = _epochs(config, backbone)
    pixels = epochs.get("stage1", 0) * float(stage1_pixels(config))
    if backbone == "stage3":
        pixels += discover_pixels(config) + epochs["stage3"] * stage3_pixels(config)
    return pixels


def _discovery(run: RunDir) -> dict[str, Any] | None:
    score = read_discovery_score(run)
    return None if score is None else {name: score[name] for name in DISCOVERY}


def _scores(run: RunDir, backbone: str) -> dict[str, Any]:
    found = {}
    for task in ("svm", "knn", "low-shot"):
        path = run.evaluation(task, backbone)
        if path.exists():
            found[task] = json.loads(path.read_text())["mean_ap"]
    return found


def _judged_on(config: RunConfig) -> Mapping[str, Any] | None:
    if config.eval_data is None:
        return None
    own = config.evaluation
    return {
        "data": config.eval_data.name,
        "train_split": own.train_split,
        "test_split": own.test_split,
        "size_px": own.size_px,
    }


def _settings(config: RunConfig) -> dict[str, Any]:
    """Without folders, which are of one machine: of a file its name stays."""

    def without_folders(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {item.name: without_folders(getattr(value, item.name)) for item in dataclasses.fields(value)}
        return value.name if isinstance(value, Path) else to_plain(value)

    plain = without_folders(config)
    return {key: value for key, value in plain.items() if key not in ("images", "out", "eval_data", "overwrite")}


def _elapsed_s(folder: Path, records: Sequence[Record]) -> float:
    """Seconds of all runs of a study, those of its bases too; a run that several studies share counts in each."""
    runs = {f"seed{record.seed}/base" for record in records} | {record.run for record in records}
    stages = [stage for run in runs for stage in read_record(RunDir(folder / run)).get("stages", {}).values()]
    return round(sum(stage["elapsed_s"] for stage in stages), 1)


def read_result(path: Path) -> dict[str, Any]:
    """A result file: of a study, or numbers that were written down.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not JSON, or of neither kind.
    """
    try:
        result = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    kind = result.get("kind") if isinstance(result, dict) else None
    if kind not in (KIND, RECORDED):
        raise ValueError(f"{path} is no result: its kind is {kind!r}, and known are {KIND!r} and {RECORDED!r}")
    needed = {KIND: ("question", "reference", "seeds", "records"), RECORDED: ("title", "tables")}[kind]
    missing = [key for key in needed if key not in result]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}, which a result of kind {kind!r} has")
    return result
