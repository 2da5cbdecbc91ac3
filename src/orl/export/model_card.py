"""What is known of a backbone, and the page that tells it: where it comes from, how it scored, what it is not."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from orl import files
from orl.datasets.image_table import load_image_table
from orl.networks.backbones import Backbone, network_digest, read_notes
from orl.rundir import TRAINED_STAGES, RunDir, read_record
from orl.views.colour import IMAGENET_MEAN, IMAGENET_STD

COMPARED = {"random": "random weights", **TRAINED_STAGES}
JUDGES = {"svm": "linear SVM", "knn": "weighted kNN"}
SHORT_RECIPES = ("demo", "quick", "small")
UNKNOWN = "unknown"
HUB_HEADER = """\
---
# Fill in the licence before you publish: it depends on the images and is yours to say.
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
    """What a weights file and the run around it say; empty where there is nothing."""

    digest: str
    """Short digest of the weights file."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What the weights file says of itself."""
    stage: str | None = None
    """The stage of the run that left it; None for a file that lies in no run."""
    config: Json = field(default_factory=dict)
    """The run's config.yaml."""
    record: Json = field(default_factory=dict)
    """The run's run.json."""
    num_images: int | None = None
    """Images that the run used."""
    scores: Mapping[tuple[str, str], Json] = field(default_factory=dict)
    """Results by judge and by what was judged, those of other weights than the run's left out."""


def read_origin(backbone_file: Path) -> Origin:
    """Collect what is known of a backbone.safetensors, in a run's folder or by itself.

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


def write_card(backbone: Backbone, origin: Origin, how_to_load: str, about: str, *, header: str = "") -> bytes:
    """The page beside an export, in Markdown; what is not known is said to be unknown.

    Args:
        backbone: the exported one.
        origin: what is known of it.
        how_to_load: Python lines.
        about: what this form holds, and what it lacks.
        header: what stands above the page.
    """
    title = {"stage1": "stage 1", "stage3": "stage 3, ORL"}.get(origin.stage or "", "backbone")
    parts = [
        f"# {backbone.name}, {title}",
        f"Images in, feature map out: `(N, 3, H, W)` to `(N, {backbone.num_channels}, H / 32, W / 32)`. "
        f"{'Pre-trained without labels, and written' if origin.stage else 'Written'} by orl {version('orl')}.",
        f"## How to load\n\n```python\n{how_to_load}\n```\n\n{about}",
        "Images are red, green, blue in [0, 1], less the mean "
        f"{list(IMAGENET_MEAN)}, over the std {list(IMAGENET_STD)}. For one embedding an image: short side to 256 px, "
        "centre crop of 224 px, mean over all positions.",
        f"## Training\n\n{_training(backbone, origin)}",
        f"## Scores\n\n{_scores(origin)}",
        f"## Limits\n\n{_limits(origin)}",
        f"## Licence\n\n{UNKNOWN.capitalize()}: it depends on the images; say it before you publish these weights.",
    ]
    return (header + "\n\n".join(parts) + "\n").encode()


def _training(backbone: Backbone, origin: Origin) -> str:
    settings = origin.config.get(origin.stage or "") or {}
    method = (origin.config.get("method") or {}).get("name")
    versions = origin.record.get("versions") or {}
    told = {
        "method": {"stage1": method, "stage3": "ORL"}.get(origin.stage or ""),
        "recipe": origin.config.get("recipe") or origin.record.get("recipe"),
        "images": None if origin.num_images is None else f"{origin.num_images:,}, without labels",
        "epochs": settings.get("epochs") or origin.notes.get("epochs"),
        "batch": settings.get("batch_size"),
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
        told["objects found by"] = _looked_with(origin)
    told |= {f"the file says: {key}": value for key, value in origin.notes.items() if key not in ("kind", "backbone")}
    rows = [f"| {name} | {UNKNOWN if value in (None, '') else value} |" for name, value in told.items()]
    return "\n".join(["| what | value |", "| --- | --- |", *rows])


def _start(origin: Origin) -> str | None:
    if not origin.config:
        return None
    if origin.stage == "stage3" and (origin.config.get("objects") or {}).get("warm_start"):
        return "stage 1 of the run"
    given = origin.config.get("init_from")
    # The name alone: a folder may tell of its owner.
    return f"the weights {Path(given).name}" if given else "random weights"


def _looked_with(origin: Origin) -> str | None:
    """Which weights stage 2 found objects and neighbours with."""
    if not origin.config:
        return None
    given = (origin.config.get("discover") or {}).get("backbone")
    return f"the weights {Path(given).name}" if given else "stage 1 of the run"


def _scores(origin: Origin) -> str:
    if not origin.scores:
        return f"{UNKNOWN.capitalize()}: no judge has seen these weights (`orl evaluate`)."
    rows = ["| judge | on | " + " | ".join(COMPARED.values()) + " |", "| --- | --- |" + " --- |" * len(COMPARED)]
    for judge, name in JUDGES.items():
        results = {label: origin.scores[judge, label] for label in COMPARED if (judge, label) in origin.scores}
        if results:
            first = next(iter(results.values()))
            on = f"{Path(first.get('data', UNKNOWN)).name}, {first.get('test_split', UNKNOWN)}"
            numbers = [f"{100 * results[label]['mean_ap']:.1f}" if label in results else UNKNOWN for label in COMPARED]
            rows.append(f"| {name}, mAP in % | {on} | {' | '.join(numbers)} |")
    return "\n".join(rows)


def _limits(origin: Origin) -> str:
    limits = [
        "- No classifier: it gives features, and no names of what is seen.",
        "- It knows what its images showed, with their gaps and biases; nobody has looked at these here.",
    ]
    if origin.num_images is None:
        limits.append("- On which images it was trained is unknown.")
    if not any(label == origin.stage for _, label in origin.scores):
        limits.append("- How well it does on any task is unknown.")
    if (recipe := origin.config.get("recipe")) in SHORT_RECIPES:
        limits.append(
            f"- The recipe {recipe!r} is for trying things out: some hundred to a few thousand steps a stage, "
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
    for judge in JUDGES:
        for label in COMPARED:
            path = run.evaluation(judge, label)
            if not path.exists():
                continue
            result = _read_json(path)
            judged = (result.get("inputs") or {}).get("backbone")
            if judged in (None, digests.get(label, judged)):
                scores[judge, label] = result
    return scores


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it and run again") from error
    if not isinstance(content, dict) or not isinstance(content.get("mean_ap"), int | float):
        raise ValueError(f"{path} is no result of a judge: it has no mean_ap; delete it and run again")
    return content


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(
            f"{path} is not YAML ({error}); restore it, or export the backbone.safetensors alone"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds no settings but {content!r}; restore it, or export the backbone.safetensors alone"
        )
    return content
