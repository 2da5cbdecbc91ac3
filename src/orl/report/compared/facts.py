"""What the compared runs are: their settings, where these differ, and what each took."""

from collections.abc import Sequence
from typing import Any

from orl.config import flat, to_plain
from orl.report import html as page
from orl.report.compared.runs import ComparedRun, shared_images
from orl.report.html import Html
from orl.report.results import duration
from orl.report.sections.run import STAGES

OF_EVERY_RUN = {"out", "overwrite"}
"""Settings that say nothing of a run's results and always differ."""


def runs_section(runs: Sequence[ComparedRun]) -> tuple[str, Html]:
    """Recipe, images, seed, machine and versions of each run, and what they share."""
    facts: dict[str, list[object]] = {
        "Recipe": [each.record.get("recipe") or "–" for each in runs],
        "Images": [f"{len(each.images):,}" if each.images else "–" for each in runs],
        "Seed": [str(each.record.get("seed", "–")) for each in runs],
        "Network": [each.config.network.backbone if each.config else "–" for each in runs],
        "Device": [each.record.get("device") or "–" for each in runs],
        "Machine": [each.record.get("machine") or "–" for each in runs],
        "Versions": [_versions(each) for each in runs],
        "Commit": [_commit(each) for each in runs],
        "Command": [page.code(each.record["command"]) if each.record.get("command") else "–" for each in runs],
    }
    table = page.table(
        "What was run", ["", *(each.label for each in runs)], [[name, *row] for name, row in facts.items()]
    )
    return page.section("Runs", page.paragraph(_shared_told(runs)), table)


def settings_section(runs: Sequence[ComparedRun]) -> tuple[str, Html]:
    """The settings that are not the same in all runs."""
    title = "Settings that differ"
    notes = [page.missing(f"{each.label} has left no settings.") for each in runs if each.config is None]
    kept = [each for each in runs if each.config is not None]
    settings: list[dict[str, Any]] = [flat(to_plain(each.config)) for each in kept]
    names = [name for name in dict.fromkeys(key for each in settings for key in each) if name not in OF_EVERY_RUN]
    rows = [
        [name, *(_value(each.get(name)) for each in settings)]
        for name in names
        if len({str(each.get(name)) for each in settings}) > 1
    ]
    if len(kept) > 1 and not rows:
        notes.append(page.paragraph("None: all settings are the same."))
    elif rows:
        notes.append(page.table("All others are the same", ["Setting", *(each.label for each in kept)], rows))
    return page.section(title, *notes)


def times_section(runs: Sequence[ComparedRun]) -> tuple[str, Html]:
    """The time of each stage."""
    stages = list(dict.fromkeys(stage for each in runs for stage in each.record.get("stages", {})))
    if not stages:
        return page.section("Times", page.missing("No run has recorded its stages."))
    rows = [[STAGES.get(stage, stage), *(_time(each, stage) for each in runs)] for stage in stages]
    totals = [sum(stage.get("elapsed_s") or 0 for stage in each.record.get("stages", {}).values()) for each in runs]
    rows.append(["All of it", *(duration(total) if total else "–" for total in totals)])
    machines = {(each.record.get("machine"), each.record.get("device")) for each in runs}
    warning = "Not all ran on the same machine: their times cannot be compared." if len(machines) > 1 else ""
    note = page.paragraph(warning) if warning else Html("")
    return page.section(
        "Times", note, page.table("Time of each stage", ["Stage", *(each.label for each in runs)], rows)
    )


def _commit(run: ComparedRun) -> str:
    """Short, and whether the checkout was changed."""
    commit, _, rest = (run.record.get("git") or "–").partition(" ")
    return page.code(f"{commit[:12]} {rest}".strip()) if commit != "–" else commit


def _versions(run: ComparedRun) -> str:
    versions = {"orl": run.record.get("orl"), **(run.record.get("versions") or {})}
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version) or "–"


def _shared_told(runs: Sequence[ComparedRun]) -> str:
    sizes = {len(each.images) for each in runs if each.images}
    shared = len(shared_images(runs))
    if sizes == {shared}:
        return f"All runs have the same {shared:,} images."
    if shared:
        return f"The runs share {shared:,} images, and each has others: compare what is scored on the same set only."
    return "The runs share no images: compare what is scored on the same set only."


def _value(value: object) -> str:
    return "–" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _time(run: ComparedRun, stage: str) -> str:
    known = run.record.get("stages", {}).get(stage, {})
    if known.get("elapsed_s") is None:
        return "–"
    state = known.get("state")
    return duration(known["elapsed_s"]) + (f" ({state})" if state not in (None, "done") else "")
