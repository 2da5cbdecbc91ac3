"""The report's words and numbers: what was run, how it scored, what discovery is worth."""

import csv
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orl.figures import page
from orl.figures.page import Html
from orl.images.table import load_images
from orl.rundir import RunDir

BACKBONES = {
    "random": "Random weights",
    "stage1": "Stage 1, whole photos",
    "stage3": "Stage 3, objects",
}
TASKS = {"svm": "Linear SVM", "knn": "Weighted kNN"}
STAGES = {
    "scan": "Scan of the photos",
    "stage1": "Stage 1: pre-training on whole photos",
    "exchange": "Stage 2: read from published files",
    "discover": "Stage 2: discovery of correspondences",
    "stage3": "Stage 3: pre-training on objects",
    "transfer": "Transfer: scoring the backbones",
}
MAX_REASONS = 8


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; nothing if there is no such file.

    Raises:
        ValueError: if the file is torn or holds something else.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it and run again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an object; delete it and run again")
    return content


def read_results(run: RunDir) -> dict[tuple[str, str], dict[str, Any]]:
    """Transfer results by task and backbone, those that there are."""
    found = {(task, label): read_json(run.transfer(task, label)) for task in TASKS for label in BACKBONES}
    return {key: result for key, result in found.items() if result is not None}


def how_to_go_on(run: RunDir) -> Html:
    """The command that makes what is missing."""
    command = (read_json(run.record) or {}).get("command")
    if command:
        return page.join("The same command goes on where it stopped: ", page.code(command))
    return page.join("To make it: ", page.code(f"orl run --images DIR --out {run.root}"))


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def header(run: RunDir) -> Html:
    """The title, one line of what was run and the numbers to take home."""
    record = read_json(run.record) or {}
    total_s = sum(stage.get("elapsed_s") or 0 for stage in record.get("stages", {}).values())
    parts = [
        f"recipe {record['recipe']}" if record.get("recipe") else "",
        f"{len(load_images(run.images)):,} photos, no labels" if run.images.exists() else "",
        duration(total_s) if total_s else "",
    ]
    results = read_results(run)
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
    """Recipe, photos, machine, versions and the time of each stage."""
    record = read_json(run.record)
    if record is None:
        return page.section("Run", page.missing("Nothing has run here yet. ", how_to_go_on(run)), photos_facts(run))
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
    return page.section("Run", page.facts(told), photos_facts(run), _stage_table(record.get("stages") or {}))


def photos_facts(run: RunDir) -> Html:
    """How many photos were used and why others were not."""
    used = f"{len(load_images(run.images)):,}" if run.images.exists() else None
    reasons = _rejection_reasons(run.rejected)
    rejected = f"{sum(reasons.values()):,}" if run.rejected.exists() else None
    told = page.facts({"Photos used": used, "Photos rejected": rejected})
    if not reasons:
        return told
    rows = [(reason, f"{count:,}") for reason, count in reasons.most_common(MAX_REASONS)]
    others = sum(reasons.values()) - sum(count for _, count in reasons.most_common(MAX_REASONS))
    if others:
        rows.append(("other reasons", f"{others:,}"))
    return page.join(told, page.table("Rejected photos; rejected.csv names each", ["Reason", "Photos"], rows))


def results_section(run: RunDir) -> tuple[str, Html]:
    """Mean average precision of each backbone by each judge, and of each class on demand."""
    title, results = "Results", read_results(run)
    if not results:
        return page.section(
            title,
            page.missing(
                "No backbone has been scored: that needs a labelled set, ",
                page.code("--transfer-data"),
                ". ",
                how_to_go_on(run),
            ),
        )
    tasks = [task for task in TASKS if any(key[0] == task for key in results)]
    rows = [
        [name, *(page.share_bar(_mean_ap(results, task, label)) for task in tasks)]
        for label, name in BACKBONES.items()
        if any(key[1] == label for key in results)
    ]
    unscored = [name for label, name in BACKBONES.items() if not any(key[1] == label for key in results)]
    return page.section(
        title,
        page.paragraph(
            "Each backbone is frozen and its features of labelled photos are judged: how well do they tell "
            "the classes apart? Mean average precision (mAP) over the classes, out of 100; higher is "
            "better."
        ),
        page.table("mAP of the frozen backbones", ["Backbone", *(f"{TASKS[task]} mAP" for task in tasks)], rows),
        *(page.paragraph(sentence) for sentence in _comparisons(results)),
        *(page.missing(f"{name}: not scored yet. ", how_to_go_on(run)) for name in unscored),
        *(_per_class_table(results, task) for task in tasks),
    )


def discovery_section(run: RunDir) -> tuple[str, Html]:
    """The discovery score: are the matched boxes objects, and of one class?"""
    title, score = "Discovery score", read_json(run.discovery_score)
    if score is None:
        reason = "Discovery has not been scored: that needs photos whose objects are known (boxes with classes). "
        return page.section(title, page.missing(reason, how_to_go_on(run)))
    columns = ["Pairs", "Number", "Both on an object (%)", "Of those, one class (%)"]
    kinds = {"Matched by discovery": "", "Paired at random": "random_"}
    rows = [
        [
            name,
            f"{score[f'{kind}num_pairs']:,}",
            page.share_bar(score[f"{kind}object_share"]),
            page.share_bar(score.get(f"{kind}same_class_share")),
        ]
        for name, kind in kinds.items()
    ]
    return page.section(
        title,
        page.paragraph(
            "Before any training on objects: are the pairs that stage 2 finds worth learning from? A box is "
            "on an object when their IoU is at least 0.5. The yardstick pairs random RoIs of the same two "
            "photos."
        ),
        page.table("Matched pairs against random pairs", columns, rows),
        page.paragraph(_discovery_sentence(score)),
    )


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


def _mean_ap(results: Mapping[tuple[str, str], Mapping[str, Any]], task: str, label: str) -> float | None:
    return results[task, label]["mean_ap"] if (task, label) in results else None


def _comparisons(results: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[str]:
    sentences = []
    for task, name in TASKS.items():
        before, after = _mean_ap(results, task, "stage1"), _mean_ap(results, task, "stage3")
        if before is not None and after is not None:
            points = round(100 * after, 1) - round(100 * before, 1)
            side = "above" if points > 0 else "below"
            how = f"{abs(points):.1f} points {side}" if abs(points) >= 0.05 else "level with"
            sentences.append(f"By the {name[0].lower() + name[1:]}, stage 3 is {how} stage 1.")
    return sentences


def _per_class_table(results: Mapping[tuple[str, str], Mapping[str, Any]], task: str) -> Html:
    scored = {label: results[task, label].get("per_class_ap", {}) for label in BACKBONES if (task, label) in results}
    classes = list(dict.fromkeys(name for per_class in scored.values() for name in per_class))
    rows = [
        [
            name,
            *(f"{100 * per_class[name]:.1f}" if name in per_class else "–" for per_class in scored.values()),
        ]
        for name in classes
    ]
    table = page.table(f"AP of each class, {TASKS[task]}", ["Class", *(BACKBONES[label] for label in scored)], rows)
    return page.details(f"{TASKS[task]}: AP of each of {len(classes)} classes", table) if classes else Html("")


def _discovery_sentence(score: Mapping[str, Any]) -> str:
    matched, chance = score["object_share"], score["random_object_share"]
    sentence = (
        f"Of the matched pairs {100 * matched:.1f}% have an object under both boxes, "
        f"of random pairs {100 * chance:.1f}%"
    )
    same, same_chance = score.get("same_class_share"), score.get("random_same_class_share")
    if same is not None and same_chance is not None:
        sentence += (
            f"; where they do, the two objects are of one class in {100 * same:.1f}% against {100 * same_chance:.1f}%"
        )
    if matched <= chance:
        return f"{sentence}. Discovery does not beat chance here: stage 3 learns from noise."
    return f"{sentence}. The further above chance, the more stage 3 has to learn from."
