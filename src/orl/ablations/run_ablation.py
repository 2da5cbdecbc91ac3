"""Run of an ablation: for each seed a base run and the variants derived from it; finished work is kept."""

import logging
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from orl.ablations.records import VariantRecord, read_variant_record, write_ablation
from orl.ablations.variants import ABLATIONS, Ablation, BaseRun, Variant
from orl.config import RunConfig
from orl.datasets.sources import read_labels
from orl.evaluation.run_evaluations import RunDatasets, evaluate_backbone, run_datasets
from orl.pipeline.record import record_stage
from orl.pipeline.run import run_discover, run_pretrain
from orl.processes import num_processes
from orl.progress import progress_bar
from orl.provenance import MANIFEST
from orl.rundir import RunDir
from orl.weights.find import find_weights_file

logger = logging.getLogger(__name__)

LINKED_TABLES = ("embeddings", "neighbours", "proposals", "rois", "roi_embeddings", "correspondences")


@dataclass(frozen=True, kw_only=True)
class AblationOptions:
    """Options of `orl ablate`."""

    seeds: int = 3
    """Number of seeds, from --seed on."""
    outside: Path | None = None
    """External weights for the ablation of the feature extractor; convert them with 'orl import' if needed."""
    discovery_only: bool = False
    """Leave out stage 3 and the evaluations: variants are compared by their discovery score."""


def run_ablation(name: str, config: RunConfig, options: AblationOptions) -> Path:
    """Run all variants of an ablation at every seed and write `NAME.json` after each seed.

    Stage 1, and the parts of stage 2 that a variant does not change, are linked from the base run, `seedN/base`.

    Args:
        name: one of `ABLATIONS`.
        config: config of the base run; `out` is the folder of the ablation.
        options: number of seeds, and parts to skip.

    Returns:
        Path of the result.

    Raises:
        ValueError: if nothing could be compared: without a labelled data set, or without a discovery score.
        FileNotFoundError: if there are no such images, or the external weights do not exist.
        RuntimeError: if it was started as several processes.
    """
    ablation = ABLATIONS[name]
    _check(name, ablation, config, options)
    data = None if options.discovery_only else run_datasets(config)
    path = config.out / f"{name}.json"
    records: list[VariantRecord] = []
    for seed in range(config.seed, config.seed + options.seeds):
        base = replace(config, seed=seed, out=config.out / f"seed{seed}" / "base")
        run_pretrain(base, "stage1")
        run_discover(base)
        variants = ablation.variants(BaseRun(config=base, outside=options.outside))
        with progress_bar(total=len(variants), title=f"{name}, seed {seed}", unit="variants") as bar:
            for variant in variants:
                logger.info("%s, seed %d: %s", name, seed, variant.label)
                _run_variant(variant, base, data)
                records.append(read_variant_record(variant, config.out, evaluated=data is not None))
                bar.update(1)
        write_ablation(path, ablation, config, records)
    return path


def _check(name: str, ablation: Ablation, config: RunConfig, options: AblationOptions) -> None:
    if options.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {options.seeds}")
    if num_processes() > 1:
        raise RuntimeError(
            f"orl ablate runs in one process, but {num_processes()} were started; start one, or train the runs of "
            "its variants one by one with 'orl run'"
        )
    if not options.discovery_only and config.eval_data is None:
        raise ValueError(f"ablation {name} evaluates backbones: give a VOC devkit with --eval-data")
    if options.discovery_only and ablation.same_discovery:
        raise ValueError(f"the variants of ablation {name} do not differ in stage 2; leave --discovery-only out")
    if options.outside is not None and name != "feature-extractor":
        raise ValueError(f"external weights have no effect on ablation {name}; leave --outside out")
    if name == "stages" and config.method.name != "byol":
        raise ValueError(
            f"ablation stages compares ORL with BYOL, but the method of stage 1 is {config.method.name}; use byol"
        )
    # Checks of the last variant's inputs, which would otherwise fail after hours.
    if options.outside is not None:
        find_weights_file(options.outside)
    needs_labels = name == "proposals" or options.discovery_only
    if needs_labels and read_labels(config.images, config.split) is None:
        raise ValueError(
            f"ablation {name} needs the objects of its images, and {config.images} has no labels; give a VOC devkit "
            "or a COCO JSON with annotations"
        )


def _run_variant(variant: Variant, base: RunConfig, data: RunDatasets | None) -> None:
    config = variant.config
    if variant.backbone == "stage3":
        if config.out != base.out:
            _link_base(RunDir(base.out), RunDir(config.out))
        run_discover(config)
        if data is not None:
            run_pretrain(config, "stage3")
    elif variant.backbone == "stage1":
        run_pretrain(config, "stage1")
    if data is not None:
        started = time.monotonic()
        evaluate_backbone(config, variant.backbone, data)
        record_stage(RunDir(config.out), "evaluation", "done", time.monotonic() - started)


def _link_base(base: RunDir, variant: RunDir) -> None:
    """Link stage 1 and the tables of the base run into a variant's folder; stale tables are rebuilt there."""
    for path in (base.backbone("stage1"), base.projector("stage1")):
        _link(path, variant.root / path.relative_to(base.root))
    for name in LINKED_TABLES:
        table = variant.table(name)
        if not (table / MANIFEST).exists():
            # The manifest is written last: a folder without one is filled again.
            shards = sorted(path for path in base.table(name).iterdir() if path.name != MANIFEST)
            for path in (*shards, base.table(name) / MANIFEST):
                _link(path, table / path.name)


def _link(path: Path, target: Path) -> None:
    """Make a hard link, or a copy where the disk allows no link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:
        shutil.copy2(path, target)
