"""The top of the report: what was run, on which images and machine, and for how long."""

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orl.config import load_config
from orl.datasets.image_table import load_image_table
from orl.report import html as page
from orl.report.html import Html
from orl.report.results import BACKBONES, TASKS, duration, how_to_go_on, read_json, read_results
from orl.rundir import RunDir

STAGES = {
    "scan": "Scan of the images",
    "stage1": "Stage 1: pre-training on whole images",
    "exchange": "Stage 2: read from published files",
    "discover": "Stage 2: discovery of correspondences",
    "stage3": "Stage 3: pre-training on objects",
    "evaluation": "Transfer: scoring the backbones",
}
METHOD_NAMES = {"byol": "BYOL", "mocov2": "MoCo v2", "simclr": "SimCLR", "densecl": "DenseCL", "selfemd": "Self-EMD"}
MAX_REASONS = 8


def header(run: RunDir) -> Html:
    """The title, one line of what was run and the numbers to take home."""
    record = read_json(run.record) or {}
    total_s = sum(stage.get("elapsed_s") or 0 for stage in record.get("stages", {}).values())
    parts = [
        f"recipe {record['recipe']}" if record.get("recipe") else "",
        f"{len(load_image_table(run.images)):,} images, no labels" if run.images.exists() else "",
        duration(total_s) if total_s else "",
    ]
    results = next(iter(read_results(run).values()), {})
    numbers = [
        (f"{TASKS['svm']} mAP, {name.lower()}", f"{100 * results['svm', label]['mean_ap']:.1f}")
        for label, name in BACKBONES.items()
        if ("svm", label) in results
    ]
    return page.join(
        Html('<p class="over">ORL report</p>'),
        Html(f"<h1>{page.markup(run.root.resolve().name)}</h1>"),
        Html(f'<p class="lead">{page.markup(" · ".join(part for part in parts if part))}</p>'),
        page.tiles(numbers),
    )


def run_section(run: RunDir) -> tuple[str, Html]:
    """Recipe, images, machine, versions and the time of each stage."""
    record = read_json(run.record)
    if record is None:
        return page.section("Run", page.missing("Nothing has run here yet. ", how_to_go_on(run)), images_facts(run))
    versions = ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items())
    told = {
        "Recipe": record.get("recipe"),
        "Command": page.code(record["command"]) if record.get("command") else None,
        "Seed": str(record.get("seed", "")),
        "Device": record.get("device"),
        "Machine": record.get("machine"),
        "orl": record.get("orl"),
        "Versions": versions,
        "Commit": page.code(record["git"]) if record.get("git") else None,
    }
    return page.section(
        "Run",
        page.facts(told),
        images_facts(run),
        _trained_facts(run),
        _stage_table(record.get("stages") or {}),
        _all_settings(run),
    )


def images_facts(run: RunDir) -> Html:
    """How many images were used and why others were not."""
    used = f"{len(load_image_table(run.images)):,}" if run.images.exists() else None
    reasons = _rejection_reasons(run.rejected)
    rejected = f"{sum(reasons.values()):,}" if run.rejected.exists() else None
    told = page.facts({"Images used": used, "Images rejected": rejected})
    if not reasons:
        return told
    rows = [(reason, f"{count:,}") for reason, count in reasons.most_common(MAX_REASONS)]
    others = sum(reasons.values()) - sum(count for _, count in reasons.most_common(MAX_REASONS))
    if others:
        rows.append(("other reasons", f"{others:,}"))
    return page.join(told, page.table("Rejected images; rejected.csv names each", ["Reason", "Images"], rows))


def _trained_facts(run: RunDir) -> Html:
    """What was trained, for how long and in which batches; nothing where no settings were saved."""
    try:
        config = load_config(run.config)
    except (FileNotFoundError, ValueError):
        return Html("")
    trained = {
        f"Stage {stage[-1]}": f"{method}, {settings.epochs} epochs, batches of {settings.batch_size}, views of "
        f"{settings.views.size_px} px"
        for stage, method, settings in (
            ("stage1", METHOD_NAMES[config.method.name], config.stage1),
            ("stage3", "ORL", config.stage3),
        )
    }
    looks_with = config.discover.feature_extractor
    if not config.needs_stage1:
        trained["Stage 1"] = f"left out: stage 2 looks with {looks_with}"
    elif looks_with is not None:
        trained["Stage 2"] = f"looks with {looks_with}"
    if config.objects.warm_start:
        trained["Stage 3"] += ", from stage 1's weights"
    told = {"Images from": str(config.images), "Network": config.network.backbone, **trained}
    return page.facts(told)


def _all_settings(run: RunDir) -> Html:
    if not run.config.exists():
        return Html("")
    text = run.config.read_text(errors="replace")
    return page.details("All settings: config.yaml, a recipe for the next run", Html(f"<pre>{page.markup(text)}</pre>"))


def _stage_table(stages: Mapping[str, Mapping[str, Any]]) -> Html:
    rows = [
        [
            STAGES.get(name, name),
            stage.get("state", "–"),
            duration(stage["elapsed_s"]) if stage.get("elapsed_s") is not None else "–",
        ]
        for name, stage in stages.items()
    ]
    return page.table("What ran, and for how long", ["Stage", "State", "Time"], rows) if rows else Html("")


def _rejection_reasons(path: Path) -> Counter[str]:
    if not path.exists():
        return Counter()
    with open(path, newline="", errors="replace") as file:
        return Counter((row.get("reason") or "no reason given").split(":")[0] for row in csv.DictReader(file))
