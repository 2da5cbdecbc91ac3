"""The section about the runs themselves: images, training, machine, times and configs."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orl.config import flat, to_plain
from orl.figures.sheets import count_text
from orl.report.content import Cell, Code, Note, ScoreTable, Section
from orl.report.runs import ReportedRun, ReportInputs

STAGES = {
    "scan": "Scan of the images",
    "stage1": "Stage 1: image-level pre-training",
    "exchange": "Stage 2: read from published files",
    "discover": "Stage 2: discovery of correspondences",
    "stage3": "Stage 3: object-level pre-training",
    "evaluation": "Evaluation of the backbones",
}
METHOD_NAMES = {"byol": "BYOL", "mocov2": "MoCo v2", "simclr": "SimCLR", "densecl": "DenseCL", "selfemd": "Self-EMD"}
MAX_REASONS = 8
UNCOMPARED_OPTIONS = {"out", "overwrite"}
"""Options that differ between any two runs and have no effect on results."""


@dataclass(frozen=True, kw_only=True)
class Overview(Section):
    """Facts of each run; with several runs, also how their configs differ."""

    template = "overview.html"
    shared_images: str
    """Sentence about the images that several runs share; empty for one run."""
    facts: ScoreTable
    """A row for each fact, a column for each run."""
    rejections: Sequence[ScoreTable]
    """Reasons of rejected images, a table for each run that has some."""
    times: ScoreTable | None
    machine_warning: str
    differing_options: ScoreTable | None
    """None for one run, or if no config can be read."""
    configs: Sequence[tuple[str, str]]
    """Summary and text of each config.yaml."""


def overview_section(inputs: ReportInputs) -> Overview:
    """Gather what was run, on which images and machine, and for how long."""
    runs = inputs.runs
    names = [each.label for each in runs]
    columns = [_facts(each) for each in runs]
    facts = {name: [column.get(name) or "–" for column in columns] for column in columns for name in column}
    rows = [(name, *cells) for name, cells in facts.items() if any(cell != "–" for cell in cells)]
    return Overview(
        title="Runs" if inputs.is_comparison else "Run",
        notes=[note for each in runs if (note := _note(each)) is not None],
        shared_images=_shared_images(inputs) if inputs.is_comparison else "",
        facts=ScoreTable(caption="What was run", columns=["", *names], rows=rows),
        rejections=[table for each in runs if (table := _rejection_table(each)) is not None],
        times=_times(runs),
        machine_warning=_machine_warning(runs),
        differing_options=_differing_options(runs) if inputs.is_comparison else None,
        configs=[
            (each.titled("all options: config.yaml, a recipe for the next run"), path.read_text(errors="replace"))
            for each in runs
            if (path := each.run.config).exists()
        ],
    )


def duration(seconds: float) -> str:
    """Return a duration in hours, minutes and seconds, as far as they matter."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def total_seconds(run: ReportedRun) -> float:
    """Return the time of all stages together."""
    return sum(stage.get("elapsed_s") or 0 for stage in run.record.get("stages", {}).values())


def _note(run: ReportedRun) -> Note | None:
    if not run.record:
        return run.note("Nothing has run here yet")
    return run.note("There is no readable config.yaml") if run.config is None else None


def _facts(run: ReportedRun) -> dict[str, Cell | None]:
    record = run.record
    versions = ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items())
    reasons = _rejection_reasons(run.run.rejected)
    return {
        "Recipe": record.get("recipe"),
        "Command": Code(record["command"]) if record.get("command") else None,
        "Seed": str(record.get("seed", "")),
        "Device": record.get("device"),
        "Machine": record.get("machine"),
        "orl": record.get("orl"),
        "Versions": versions,
        "Commit": Code(_short_commit(record["git"])) if record.get("git") else None,
        "Images used": None if run.thumbnails is None else f"{len(run.thumbnails.images):,}",
        "Images rejected": f"{sum(reasons.values()):,}" if run.run.rejected.exists() else None,
        **_training_facts(run),
    }


def _training_facts(run: ReportedRun) -> dict[str, Cell | None]:
    config = run.config
    if config is None:
        return {}
    stages = {"Stage 1": (METHOD_NAMES[config.method.name], config.stage1), "Stage 3": ("ORL", config.stage3)}
    trained = {
        name: f"{method}, {count_text(stage.epochs, 'epoch')}, batches of {stage.batch_size}, "
        f"views of {stage.views.size_px} px"
        for name, (method, stage) in stages.items()
    }
    extractor = config.discover.feature_extractor
    if not config.needs_stage1:
        trained["Stage 1"] = f"left out: the feature extractor of stage 2 is {extractor}"
    if config.objects.warm_start:
        trained["Stage 3"] += ", from the weights of stage 1"
    stage2 = "" if extractor is None or not config.needs_stage1 else f"the feature extractor is {extractor}"
    return {
        "Images from": str(config.images),
        "Network": config.network.backbone,
        "Stage 1": trained["Stage 1"],
        "Stage 2": stage2,
        "Stage 3": trained["Stage 3"],
    }


def _short_commit(git: str) -> str:
    """Return the first digits of the commit, and whether the checkout was changed."""
    commit, _, changes = git.partition(" ")
    return f"{commit[:12]} {changes}".strip()


def _rejection_table(run: ReportedRun) -> ScoreTable | None:
    reasons = _rejection_reasons(run.run.rejected)
    if not reasons:
        return None
    rows = [(reason, f"{count:,}") for reason, count in reasons.most_common(MAX_REASONS)]
    others = sum(count for _, count in reasons.most_common()[MAX_REASONS:])
    if others:
        rows.append(("other reasons", f"{others:,}"))
    caption = run.titled("rejected images by reason; rejected.csv lists each")
    return ScoreTable(caption=caption, columns=["Reason", "Images"], rows=rows)


def _rejection_reasons(path: Path) -> Counter[str]:
    if not path.exists():
        return Counter()
    with open(path, newline="", errors="replace") as file:
        return Counter((row.get("reason") or "no reason given").split(":")[0] for row in csv.DictReader(file))


def _times(runs: Sequence[ReportedRun]) -> ScoreTable | None:
    stages = list(dict.fromkeys(stage for each in runs for stage in each.record.get("stages", {})))
    if not stages:
        return None
    rows = [[STAGES.get(stage, stage), *(_time(each, stage) for each in runs)] for stage in stages]
    rows.append(["Total", *(duration(total) if (total := total_seconds(each)) else "–" for each in runs)])
    caption = "Time of each stage, and its state unless it is done"
    return ScoreTable(caption=caption, columns=["Stage", *(each.label for each in runs)], rows=rows)


def _time(run: ReportedRun, stage: str) -> str:
    known = run.record.get("stages", {}).get(stage, {})
    elapsed_s, state = known.get("elapsed_s"), known.get("state") or "done"
    time = "–" if elapsed_s is None else duration(elapsed_s)
    return time if state == "done" else f"{time} ({state})"


def _machine_warning(runs: Sequence[ReportedRun]) -> str:
    machines = {(each.record.get("machine"), each.record.get("device")) for each in runs}
    return "The runs used different machines: their times cannot be compared." if len(machines) > 1 else ""


def _shared_images(inputs: ReportInputs) -> str:
    sizes = {len(thumbnails.images) for _, thumbnails in inputs.runs_with_images}
    shared = len(inputs.shared_images())
    if sizes == {shared}:
        return f"All runs have the same {shared:,} images."
    if shared:
        return f"The runs share {shared:,} images, and each has others: compare only scores on the same data set."
    return "The runs share no images: compare only scores on the same data set."


def _differing_options(runs: Sequence[ReportedRun]) -> ScoreTable | None:
    configs = {each.label: flat(to_plain(each.config)) for each in runs if each.config is not None}
    if not configs:
        return None
    names = dict.fromkeys(name for config in configs.values() for name in config if name not in UNCOMPARED_OPTIONS)
    rows = [
        [name, *(_option(config.get(name)) for config in configs.values())]
        for name in names
        if len({str(config.get(name)) for config in configs.values()}) > 1
    ]
    return ScoreTable(caption="All other options are the same", columns=["Option", *configs], rows=rows)


def _option(value: object) -> str:
    return "–" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
