"""Carry a study out: for every seed a base run, and from it the arms; what is done already is kept."""

import logging
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orl.config import RunConfig
from orl.images.sources import read_labels
from orl.processes import num_processes
from orl.progress import progress_bar
from orl.run import run_discover, run_pretrain
from orl.rundir import RunDir, record_stage
from orl.studies.arms import STUDIES, Arm, Base, Study
from orl.studies.record import Record, record_of, write_study
from orl.tables import MANIFEST
from orl.transfer.run_judges import judge_backbone, transfer_photos
from orl.transfer.voc_photos import VocPhotos
from orl.weights.loading import weights_file

logger = logging.getLogger(__name__)

SHARED_TABLES = ("embeddings", "neighbours", "proposals", "rois", "roi_embeddings", "correspondences")


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """How much of a study is carried out."""

    seeds: Sequence[int]
    outside: Path | None = None
    """Weights from elsewhere, for the arms that look with them."""
    trains: bool = True
    """Whether stage 3 is trained and backbones are judged; else arms are told apart by their discovery score."""


def carry_out(name: str, config: RunConfig, options: StudyOptions) -> Path:
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
        FileNotFoundError: if there are no such photos, or no such weights from outside.
        RuntimeError: if it was started as several processes.
    """
    study = STUDIES[name]
    _check(name, study, config, options)
    photos = transfer_photos(config) if options.trains else None
    path = config.out / f"{name}.json"
    records: list[Record] = []
    for seed in options.seeds:
        base = _base_run(replace(config, seed=seed, out=config.out / f"seed{seed}" / "base"))
        arms = study.arms(Base(config=base, outside=options.outside))
        with progress_bar(total=len(arms), title=f"{name}, seed {seed}", unit="arms") as bar:
            for arm in arms:
                logger.info("%s, seed %d: %s", name, seed, arm.label)
                _run_arm(arm, base, photos)
                records.append(record_of(arm, config.out, judged=options.trains))
                bar.update(1)
        write_study(path, study, config, records)
    return path


def _check(name: str, study: Study, config: RunConfig, options: StudyOptions) -> None:
    if num_processes() > 1:
        raise RuntimeError(
            f"orl ablate works in one process, and {num_processes()} were started; start one, or train the runs of "
            "its arms one by one with 'orl run'"
        )
    if options.trains and config.transfer_data is None:
        raise ValueError(f"study {name} judges backbones: give a VOC devkit with --transfer-data")
    if not options.trains and study.judges_only:
        raise ValueError(f"the arms of study {name} do not differ in stage 2, so --discovery-only leaves nothing of it")
    if options.outside is not None and name != "prior":
        raise ValueError(f"weights from outside have no effect on study {name}; leave --outside out")
    if name == "stages" and config.method.name != "byol":
        raise ValueError(f"study stages compares ORL with BYOL, and stage 1 is by {config.method.name}; leave it BYOL")
    # What the last arm alone would tell after hours.
    if options.outside is not None:
        weights_file(options.outside)
    if (name == "proposals" or not options.trains) and read_labels(config.images, config.split) is None:
        raise ValueError(
            f"study {name} needs to know the objects of its photos, and {config.images} has no labels; give a VOC "
            "devkit or a COCO JSON with annotations"
        )


def _base_run(config: RunConfig) -> RunConfig:
    run_pretrain(config, "stage1")
    run_discover(config)
    return config


def _run_arm(arm: Arm, base: RunConfig, photos: VocPhotos | None) -> None:
    config = arm.config
    if arm.backbone == "stage3":
        if config.out != base.out:
            _share(RunDir(base.out), RunDir(config.out))
        run_discover(config)
        if photos is not None:
            run_pretrain(config, "stage3")
    elif arm.backbone == "stage1":
        run_pretrain(config, "stage1")
    if photos is not None:
        started = time.monotonic()
        judge_backbone(config, arm.backbone, photos)
        record_stage(RunDir(config.out), "transfer", "done", time.monotonic() - started)


def _share(base: RunDir, arm: RunDir) -> None:
    """Give an arm the base's stage 1 and tables, as links where the disk allows; what does not fit is rebuilt there."""
    for path in (base.backbone("stage1"), base.projector("stage1")):
        _link(path, arm.root / path.relative_to(base.root))
    for name in SHARED_TABLES:
        table = arm.table(name)
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
