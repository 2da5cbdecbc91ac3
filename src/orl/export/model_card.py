"""The model card beside an export: how to load the weights, their training, scores and limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orl import files
from orl.datasets.image_table import load_image_table
from orl.networks.backbones import Backbone, network_digest, read_notes
from orl.rundir import BACKBONES, TRAINED_STAGES, RunDir, read_record
from orl.views.colour import IMAGENET_MEAN, IMAGENET_STD

SCORED_EVALUATIONS = {"svm": "linear SVM", "knn": "weighted kNN"}
OBJECT_EVALUATIONS = ("roi-knn", "dense-retrieval", "rank")
"""Evaluations of objects that runs make; each result has rows with an interval."""
SHORT_RECIPES = ("demo", "quick", "small")
UNKNOWN = "unknown"
HUB_HEADER = """\
---
# Fill in the licence before you publish: it depends on the images, and you must choose it.
license: unknown
library_name: timm
pipeline_tag: image-feature-extraction
tags:
- self-supervised
- object-level-representation-learning
---

"""

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Notes of a weights file and the records of its run; empty where there are none."""

    digest: str
    """Short digest of the weights file."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Notes in the header of the weights file."""
    stage: str | None = None
    """The stage that wrote the file; None for a file outside a run."""
    config: Json = field(default_factory=dict)
    """The run's config.yaml."""
    record: Json = field(default_factory=dict)
    """The run's run.json."""
    num_images: int | None = None
    """Number of images that the run used."""
    scores: Mapping[tuple[str, str], Json] = field(default_factory=dict)
    """Results by evaluation and network; results of weights that the run no longer has are left out."""


def read_origin(backbone_file: Path) -> Origin:
    """Read the notes of a backbone.safetensors and, if it lies in a run's folder, the records of the run.

    Raises:
        ValueError: if a file of the run is damaged.
    """
    digest, notes = files.file_digest(backbone_file), read_notes(backbone_file)
    folder = backbone_file.resolve().parent
    run = RunDir(folder.parent)
    if folder.name not in TRAINED_STAGES or not (run.config.exists() or run.record.exists()):
        return Origin(digest=digest, notes=notes)
    return Origin(
        digest=digest,
        notes=notes,
        stage=folder.name,
        config=_read_yaml(run.config),
        record=read_record(run),
        num_images=len(load_image_table(run.images)) if run.images.exists() else None,
        scores=_read_scores(run),
    )


def write_card(backbone: Backbone, origin: Origin, loading_code: str, content: str, *, header: str = "") -> bytes:
    """Return the card in Markdown; unknown values are written as unknown.

    Args:
        backbone: the exported backbone.
        origin: notes of the weights file and records of its run.
        loading_code: Python lines.
        content: what this format contains and lacks, as prose.
        header: text above the card.
    """
    title = {"stage1": "stage 1", "stage3": "stage 3, ORL"}.get(origin.stage or "", "backbone")
    parts = [
        f"# {backbone.name}, {title}",
        f"Images in, feature map out: `(N, 3, H, W)` to `(N, {backbone.num_channels}, H / 32, W / 32)`. "
        f"{'Pre-trained without labels, and written' if origin.stage else 'Written'} by orl {version('orl')}.",
        f"## How to load\n\n```python\n{loading_code}\n```\n\n{content}",
        f"Images are RGB in [0, 1], less the mean {list(IMAGENET_MEAN)}, divided by the std {list(IMAGENET_STD)}. For "
        "one embedding per image: short side to 256 px, centre crop of 224 px, mean over all positions.",
        f"## Training\n\n{_training(backbone, origin)}",
        f"## Scores\n\n{_scores(origin)}",
        f"## Limits\n\n{_limits(origin)}",
        f"## Licence\n\n{UNKNOWN.capitalize()}: it depends on the images; state it before you publish these weights.",
    ]
    return (header + "\n\n".join(parts) + "\n").encode()


def _training(backbone: Backbone, origin: Origin) -> str:
    stage_config = origin.config.get(origin.stage or "") or {}
    method = (origin.config.get("method") or {}).get("name")
    versions = origin.record.get("versions") or {}
    facts = {
        "method": {"stage1": method, "stage3": "ORL"}.get(origin.stage or ""),
        "recipe": origin.config.get("recipe") or origin.record.get("recipe"),
        "images": None if origin.num_images is None else f"{origin.num_images:,}, without labels",
        "epochs": stage_config.get("epochs") or origin.notes.get("epochs"),
        "batch": stage_config.get("batch_size"),
        "started from": _start(origin),
        "architecture": backbone.name,
        "seed": origin.record.get("seed", origin.config.get("seed")),
        "device": origin.record.get("device"),
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "orl": origin.record.get("orl"),
        "git commit": origin.record.get("git"),
        "digest of the weights file": origin.digest,
    }
    if origin.stage == "stage3":
        facts["objects found by"] = _feature_extractor(origin)
    facts |= {
        f"note in the file: {key}": value for key, value in origin.notes.items() if key not in ("kind", "backbone")
    }
    rows = [f"| {name} | {UNKNOWN if value in (None, '') else value} |" for name, value in facts.items()]
    return "\n".join(["| item | value |", "| --- | --- |", *rows])


def _start(origin: Origin) -> str | None:
    if not origin.config:
        return None
    if origin.stage == "stage3" and (origin.config.get("objects") or {}).get("warm_start"):
        return "stage 1 of the run"
    given = origin.config.get("init_from")
    # The name alone: a folder may name its owner.
    return f"the weights {Path(given).name}" if given else "random weights"


def _feature_extractor(origin: Origin) -> str | None:
    """Return the weights with which stage 2 found objects and neighbours."""
    if not origin.config:
        return None
    given = (origin.config.get("discover") or {}).get("feature_extractor")
    return f"the weights {Path(given).name}" if given else "stage 1 of the run"


def _scores(origin: Origin) -> str:
    if not origin.scores:
        return f"{UNKNOWN.capitalize()}: these weights were not evaluated (`orl evaluate`)."
    rows = [
        "| evaluation | data | " + " | ".join(BACKBONES.values()) + " |",
        "| --- | --- |" + " --- |" * len(BACKBONES),
    ]
    for evaluation, name in SCORED_EVALUATIONS.items():
        results = {
            label: origin.scores[evaluation, label] for label in BACKBONES if (evaluation, label) in origin.scores
        }
        if results:
            first = next(iter(results.values()))
            on = f"{Path(first.get('data', UNKNOWN)).name}, {first.get('test_split', UNKNOWN)}"
            numbers = [f"{100 * results[label]['mean_ap']:.1f}" if label in results else UNKNOWN for label in BACKBONES]
            # Results of version 0.1 do not name their features, which were pooled.
            rows.append(f"| {name}, {first.get('features', 'pooled')}, mAP in % | {on} | {' | '.join(numbers)} |")
    return "\n".join([*rows, *_object_rows(origin)])


def _object_rows(origin: Origin) -> list[str]:
    """Return a row for each score of objects, with its 95% interval."""
    lines = []
    for evaluation in OBJECT_EVALUATIONS:
        results = {
            label: origin.scores[evaluation, label] for label in BACKBONES if (evaluation, label) in origin.scores
        }
        cells: dict[str, dict[str, str]] = {}
        for label, result in results.items():
            for row in result["rows"]:
                cells.setdefault(row["name"], {})[label] = _estimate(row)
        on = ", ".join(
            f"{Path(each.get('data', UNKNOWN)).name}, {each.get('test_split', UNKNOWN)}"
            for each in list(results.values())[:1]
        )
        lines += [
            f"| {evaluation}, {name} | {on} | {' | '.join(own.get(label, UNKNOWN) for label in BACKBONES)} |"
            for name, own in cells.items()
        ]
    return lines


def _estimate(row: Json) -> str:
    """Return a score and its interval, fractions in per cent."""
    scale, decimals = (100, 1) if row["unit"] == "fraction" else (1, 2)
    value, low, high = (f"{scale * row['estimate'][key]:.{decimals}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _limits(origin: Origin) -> str:
    limits = [
        "- No classifier: it gives features, and no class names.",
        "- It learned from its images, with their gaps and biases, which have not been examined.",
    ]
    if origin.num_images is None:
        limits.append("- The training images are unknown.")
    if not any(label == origin.stage for _, label in origin.scores):
        limits.append("- Its scores on any task are unknown.")
    if (recipe := origin.config.get("recipe")) in SHORT_RECIPES:
        limits.append(
            f"- The recipe {recipe!r} is for trying things out: some hundred to a few thousand steps per stage, "
            "where the paper takes 185,000."
        )
    return "\n".join(limits)


def _read_scores(run: RunDir) -> dict[tuple[str, str], Json]:
    digests = {
        stage: network_digest(files.file_digest(path), read_notes(path).get("backbone", ""))
        for stage in TRAINED_STAGES
        if (path := run.backbone(stage)).exists()
    }
    scores: dict[tuple[str, str], Json] = {}
    for evaluation in (*SCORED_EVALUATIONS, *OBJECT_EVALUATIONS):
        for label in BACKBONES:
            path = run.evaluation(evaluation, label)
            if not path.exists():
                continue
            result = files.read_json(path)
            key, kind = ("mean_ap", int | float) if evaluation in SCORED_EVALUATIONS else ("rows", list)
            if not isinstance(result.get(key), kind):
                raise ValueError(f"{path} is not a result of an evaluation: it has no {key}; delete it and run again")
            digest = (result.get("inputs") or {}).get("backbone")
            if digest in (None, digests.get(label, digest)):
                scores[evaluation, label] = result
    return scores


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = files.read_yaml(path)
    except ValueError as error:
        raise ValueError(f"{error}; restore it, or export the backbone.safetensors alone") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds no config but {content!r}; restore it, or export the backbone.safetensors alone"
        )
    return content
