"""Carry a study out: for every seed a base run, and from it the arms; what is done already is kept."""

import logging
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orl.ablations.records import Record, record_of, write_ablation
from orl.ablations.variants import ABLATIONS, Ablation, Base, Variant
from orl.config import RunConfig
from orl.datasets.sources import read_labels
from orl.evaluation.run_evaluations import evaluate_backbone, run_dataset
from orl.evaluation.voc_dataset import VocDataset
from orl.pipeline.record import record_stage
from orl.pipeline.run import run_discover, run_pretrain
from orl.processes import num_processes
from orl.progress import progress_bar
from orl.provenance import MANIFEST
from orl.rundir import RunDir
from orl.weights.find import find_weights_file

logger = logging.getLogger(__name__)

SHARED_TABLES = ("embeddings", "neighbours", "proposals", "rois", "roi_embeddings", "correspondences")


@dataclass(frozen=True, kw_only=True)
class AblationOptions:
    """How much of a study is carried out."""

    seeds: Sequence[int]
    outside: Path | None = None
    """Weights from elsewhere, for the arms that look with them."""
    trains: bool = True
    """Whether stage 3 is trained and backbones are judged; else arms are told apart by their discovery score."""


def run_ablation(name: str, config: RunConfig, options: AblationOptions) -> Path:
    """Run all arms of a study at every seed and write `NAME.json`, which is also written after every seed.

    Stage 1 and whatever of stage 2 an arm leaves as it is are taken from the base run, `seedN/base`.

    Args:
        name: one of `STUDIES`.
        config: settings of the base run; `out` is the folder of the study.
        options: seeds, and what is left out.

    Returns:
        The path of the result.

    Raises:
        ValueError: if it would be trained for nothing: without a labelled set, or without a discovery score.
        FileNotFoundError: if there are no such images, or no such weights from outside.
        RuntimeError: if it was started as several processes.
    """
    ablation = ABLATIONS[name]
    _check(name, ablation, config, options)
    images = run_dataset(config) if options.trains else None
    path = config.out / f"{name}.json"
    records: list[Record] = []
    for seed in options.seeds:
        base = _base_run(replace(config, seed=seed, out=config.out / f"seed{seed}" / "base"))
        variants = ablation.variants(Base(config=base, outside=options.outside))
        with progress_bar(total=len(variants), title=f"{name}, seed {seed}", unit="variants") as bar:
            for variant in variants:
                logger.info("%s, seed %d: %s", name, seed, variant.label)
                _run_variant(variant, base, images)
                records.append(record_of(variant, config.out, judged=options.trains))
                bar.update(1)
        write_ablation(path, ablation, config, records)
    return path


def _check(name: str, ablation: Ablation, config: RunConfig, options: AblationOptions) -> None:
    if num_processes() > 1:
        raise RuntimeError(
            f"orl ablate works in one process, and {num_processes()} were started; start one, or train the runs of "
            "its arms one by one with 'orl run'"
        )
    if options.trains and config.eval_data is None:
        raise ValueError(f"study {name} judges backbones: give a VOC devkit with --eval-data")
    if not options.trains and ablation.discovery_only:
        raise ValueError(f"the arms of study {name} do not differ in stage 2, so --discovery-only leaves nothing of it")
    if options.outside is not None and name != "feature_extractor":
        raise ValueError(f"weights from outside have no effect on study {name}; leave --outside out")
    if name == "stages" and config.method.name != "byol":
        raise ValueError(f"study stages compares ORL with BYOL, and stage 1 is by {config.method.name}; leave it BYOL")
    # What the last arm alone would tell after hours.
    if options.outside is not None:
        find_weights_file(options.outside)
    if (name == "proposals" or not options.trains) and read_labels(config.images, config.split) is None:
        raise ValueError(
            f"study {name} needs to know the objects of its images, and {config.images} has no labels; give a VOC "
            "devkit or a COCO JSON with annotations"
        )


def _base_run(config: RunConfig) -> RunConfig:
    run_pretrain(config, "stage1")
    run_discover(config)
    return config


def _run_variant(variant: Variant, base: RunConfig, images: VocDataset | None) -> None:
    config = variant.config
    if variant.backbone == "stage3":
        if config.out != base.out:
            _share(RunDir(base.out), RunDir(config.out))
        run_discover(config)
        if images is not None:
            run_pretrain(config, "stage3")
    elif variant.backbone == "stage1":
        run_pretrain(config, "stage1")
    if images is not None:
        started = time.monotonic()
        evaluate_backbone(config, variant.backbone, images)
        record_stage(RunDir(config.out), "evaluation", "done", time.monotonic() - started)


def _share(base: RunDir, variant: RunDir) -> None:
    """Give an arm the base's stage 1 and tables, as links where the disk allows; what does not fit is rebuilt there."""
    for path in (base.backbone("stage1"), base.projector("stage1")):
        _link(path, variant.root / path.relative_to(base.root))
    for name in SHARED_TABLES:
        table = variant.table(name)
        if not (table / MANIFEST).exists():
            # The manifest comes last: a folder without one is filled again.
            shards = sorted(path for path in base.table(name).iterdir() if path.name != MANIFEST)
            for path in (*shards, base.table(name) / MANIFEST):
                _link(path, table / path.name)


def _link(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:
        shutil.copy2(path, target)
