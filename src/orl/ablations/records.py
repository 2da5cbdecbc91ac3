"""The result file of an ablation: one record per variant and seed, and their provenance, in JSON."""

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
from orl.evaluation.evaluations import RUN_EVALUATIONS
from orl.rundir import RunDir, read_discovery_score, read_record

ABLATION, RECORDED = "ablation", "recorded"
"""Kinds of result files: of `orl ablate`, and numbers that were written down by hand."""
DISCOVERY_KEYS = (
    *("object_fraction", "same_class_fraction", "both_fraction", "lift", "roi_object_fraction"),
    *("random_object_fraction", "random_same_class_fraction", "random_both_fraction", "lift_interval_95"),
    *("kept_object_fraction", "kept_same_class_fraction"),
    *("size_matched_lift", "size_matched_lift_interval_95", "size_matched_both_fraction", "by_size"),
)
"""Parts of the discovery score that are recorded; scores of before 0.2 lack the size-matched ones."""


@dataclass(frozen=True, kw_only=True)
class VariantRecord:
    """Numbers of one variant at one seed."""

    variant: str
    seed: int
    run: str
    """Folder of the run below that of the ablation; variants without changes have the base run."""
    backbone: str
    """Backbone that was evaluated: 'random', 'stage1' or 'stage3'."""
    epochs: dict[str, int]
    """Epochs of each stage that the backbone depends on."""
    images_seen: int
    """Images in all epochs that its weights were trained on; before ORL, stage 1 counts only with a warm start."""
    gigapixels: float
    """Pixels that passed the network in all stages it depends on, see `orl.ablations.compute`."""
    discovery: dict[str, Any] | None
    """Discovery score; None if the loss uses no pairs."""
    scores: dict[str, Any]
    """Mean AP in [0, 1] by the name of the evaluation; of low-shot a mean AP by shots, of objects a value by row."""
    elapsed_s: dict[str, float]
    """Time of each stage that was run for this variant."""


def read_variant_record(variant: Variant, folder: Path, *, evaluated: bool) -> VariantRecord:
    """Read the numbers of a variant from its finished run.

    Args:
        variant: a variant whose run is done.
        folder: folder of the ablation.
        evaluated: whether the ablation evaluates backbones; otherwise scores of other ablations in the same run are
            left out.
    """
    config, run = variant.config, RunDir(variant.config.out)
    num_images = len(load_image_table(run.images)) if run.images.exists() else 0
    return VariantRecord(
        variant=variant.label,
        seed=config.seed,
        run=config.out.relative_to(folder).as_posix(),
        backbone=variant.backbone,
        epochs=_epochs(config, variant.backbone),
        images_seen=num_images * _epochs_of_weights(config, variant.backbone),
        gigapixels=float(f"{num_images * _pixels(config, variant.backbone) / 1e9:.4g}"),
        discovery=_discovery(run) if variant.backbone == "stage3" and uses_pairs(config) else None,
        scores=_scores(run, variant.backbone) if evaluated else {},
        elapsed_s={name: stage["elapsed_s"] for name, stage in read_record(run).get("stages", {}).items()},
    )


def write_ablation(path: Path, ablation: Ablation, config: RunConfig, records: Sequence[VariantRecord]) -> None:
    """Write the result of an ablation atomically.

    Commit, machine and command are those of the last call, even if earlier seeds were run on another machine.

    Args:
        path: NAME.json.
        ablation: the ablation.
        config: config of the base run.
        records: records of all variants and seeds that are done.
    """
    base = RunDir(config.out / f"seed{records[0].seed}" / "base")
    record = read_record(base)
    result = {
        "kind": ABLATION,
        "name": path.stem,
        "question": ablation.question,
        "reference": ablation.reference,
        "command": without_folders(record.get("command", "")),
        "commit": record.get("git"),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": record.get("machine"),
        "device": record.get("device"),
        "versions": record.get("versions"),
        "seeds": sorted({record.seed for record in records}),
        "elapsed_s": _elapsed_s(config.out, records),
        "images": config.images.name,
        "num_images": len(load_image_table(base.images)),
        "evaluated_on": _evaluation_data(config),
        "config": _portable_config(config),
        "records": [asdict(record) for record in records],
    }
    files.write_atomically(path, json.dumps(result, indent=1) + "\n")


def without_folders(command: str) -> str:
    """Shorten the absolute paths in a command to their last part, because folders differ between machines."""
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
    """Return the pixels per image in all stages that the backbone depends on."""
    epochs = _epochs(config, backbone)
    pixels = epochs.get("stage1", 0) * float(stage1_pixels(config))
    if backbone == "stage3":
        pixels += discover_pixels(config) + epochs["stage3"] * stage3_pixels(config)
    return pixels


def _discovery(run: RunDir) -> dict[str, Any] | None:
    score = read_discovery_score(run)
    return None if score is None else {name: score.get(name) for name in DISCOVERY_KEYS}


def _scores(run: RunDir, backbone: str) -> dict[str, Any]:
    paths = {evaluation.name: run.evaluation(evaluation.name, backbone) for evaluation in RUN_EVALUATIONS}
    results = {name: files.read_json(path) for name, path in paths.items() if path.exists()}
    return {
        name: {row["name"]: row["estimate"]["value"] for row in result["rows"]}
        if "rows" in result
        else result["mean_ap"]
        for name, result in results.items()
    }


def _evaluation_data(config: RunConfig) -> Mapping[str, Any] | None:
    if config.eval_data is None:
        return None
    own = config.evaluation
    return {
        "data": config.eval_data.name,
        "train_split": own.train_split,
        "test_split": own.test_split,
        "size_px": own.size_px,
        "features": own.features,
    }


def _portable_config(config: RunConfig) -> dict[str, Any]:
    """Return the config with the names of files in place of their paths, because folders differ between machines."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
        return value.name if isinstance(value, Path) else to_plain(value)

    return {
        key: value for key, value in plain(config).items() if key not in ("images", "out", "eval_data", "overwrite")
    }


def _elapsed_s(folder: Path, records: Sequence[VariantRecord]) -> float:
    """Return the time of all runs of an ablation and of its base runs, in seconds."""
    runs = {f"seed{record.seed}/base" for record in records} | {record.run for record in records}
    stages = [stage for run in runs for stage in read_record(RunDir(folder / run)).get("stages", {}).values()]
    return round(sum(stage["elapsed_s"] for stage in stages), 1)


def read_result(path: Path) -> dict[str, Any]:
    """Read a result file of `orl ablate`, or one of numbers that were written down by hand.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not JSON, or of another kind.
    """
    result = files.read_json(path)
    kind = result.get("kind")
    if kind not in (ABLATION, RECORDED):
        raise ValueError(
            f"{path} is not a result: its kind is {kind!r}, and known kinds are {ABLATION!r} and {RECORDED!r}"
        )
    needed = {ABLATION: ("question", "reference", "seeds", "records"), RECORDED: ("title", "tables")}[kind]
    missing = [key for key in needed if key not in result]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}, which a result of kind {kind!r} has")
    return result
