"""Jobs as the command line offers them: the three stages, the judges, the score of discovery, the report."""

import copy
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from orl import files, provenance, tables
from orl.config import RunConfig, differences, load_config, save_config
from orl.datasets.image_table import ImageTable, load_image_table
from orl.datasets.labels import LabelledSplit
from orl.datasets.object_regions import ObjectRegions, read_object_regions
from orl.datasets.sources import find_images, read_labels
from orl.discovery.faiss_neighbours import load_faiss
from orl.evaluation.correspondences import score_correspondences
from orl.evaluation.knn import score_knn
from orl.evaluation.run_evaluations import check_run_dataset, evaluate_backbone, run_dataset
from orl.evaluation.voc07 import embed_labelled
from orl.figures.attention_figure import attention_side_px
from orl.networks.backbones import Backbone
from orl.networks.device import compute_device
from orl.pipeline.assemble import check_batch, load_start, stage_settings
from orl.pipeline.discover import discover
from orl.pipeline.feature_extractor import load_feature_extractor
from orl.pipeline.pretrain import Probe, pretrain_images, pretrain_objects
from orl.pipeline.proposal_tables import check_proposals
from orl.pipeline.record import log_to_file, record_run, recorded_stage
from orl.pipeline.scan import scan
from orl.pipeline.view_samplers import build_view_sampler
from orl.processes import Processes, joined_processes
from orl.report.comparison import compare_runs
from orl.report.options import Annotations, GalleryOptions
from orl.report.report import write_report
from orl.rundir import TRAINED_STAGES, RunDir
from orl.synthetic.scenes import draw_scenes
from orl.training.batches import epoch_batches
from orl.views.view_samplers import GlobalViewSampler, ObjectViewSampler
from orl.weights.find import find_weights_file

logger = logging.getLogger(__name__)

DEMO_TRAINVAL, DEMO_TEST = 400, 200


def run_demo(config: RunConfig) -> Path | None:
    """Draw labelled scenes, then do everything with them; returns the path of the report."""
    return run_all(
        config,
        begin=lambda: draw_scenes(config.images, num_trainval=DEMO_TRAINVAL, num_test=DEMO_TEST, seed=config.seed),
    )


def run_all(config: RunConfig, begin: Callable[[], None] | None = None) -> Path | None:
    """Three stages, the judges where labels are given, and the report; whatever is done already is kept.

    Where stage 2 looks with weights from outside, and stage 3 starts anew, stage 1 is left out.

    Started by torchrun or srun, all processes train and discover together, and the first does the rest.

    Args:
        config: the run.
        begin: what the first process does before anything else.

    Returns:
        The path of the report; none in a process that is not the first.
    """
    trained = ("stage1", "stage3") if config.needs_stage1 else ("stage3",)
    with _joined(config, *trained, discovers=True, begin=begin) as (images, processes):
        probe = _probe(config, *trained) if processes.is_first else None
        if config.needs_stage1:
            with recorded_stage(RunDir(config.out), "stage1", processes):
                pretrain_images(config, images, processes, probe)
        elif processes.is_first:
            logger.info("stage 1 is left out: stage 2 looks with %s", config.discover.feature_extractor)
        with recorded_stage(RunDir(config.out), "discover", processes):
            discover(config, images, processes)
            if processes.is_first:
                score_discovery(config, images)
        with recorded_stage(RunDir(config.out), "stage3", processes):
            pretrain_objects(config, images, processes, probe)
        is_first = processes.is_first
    if not is_first:
        return None
    if config.eval_data is not None:
        with recorded_stage(RunDir(config.out), "evaluation"):
            evaluate_run(config)
    return report_run(config)


def report_run(config: RunConfig) -> Path:
    """Write the report from whatever the run has left so far; returns its path."""
    return write_report(RunDir(config.out), _gallery_options(config), _known(config))


def compare_reports(roots: Sequence[Path], path: Path | None = None) -> Path:
    """Write one page that compares runs, by the seed and device of the first; returns its path.

    Args:
        roots: folders of the runs.
        path: the file to write; `report/compare.html` of the first run if not given.

    Raises:
        FileNotFoundError, ValueError: as `orl.report.comparison.compare_runs`.
    """
    first = RunDir(roots[0])
    options = _gallery_options(load_config(first.config)) if first.config.exists() else None
    return compare_runs(roots, path or first.report.with_name("compare.html"), options)


def _gallery_options(config: RunConfig) -> GalleryOptions:
    side_px = attention_side_px(config)
    # A run of a GPU is looked at on other machines too.
    device = compute_device("cpu" if config.device == "cpu" else "auto")
    return GalleryOptions(seed=config.seed, device=str(device), attention_side_px=side_px)


def run_pretrain(config: RunConfig, stage: str) -> Path | None:
    """One training stage, 'stage1' or 'stage3', in one process or several.

    Returns:
        The path of the backbone; none in a process that is not the first.
    """
    pretrain = {"stage1": pretrain_images, "stage3": pretrain_objects}[stage]
    with _joined(config, stage) as (images, processes):
        probe = _probe(config, stage) if processes.is_first else None
        with recorded_stage(RunDir(config.out), stage, processes):
            pretrain(config, images, processes, probe)
        return RunDir(config.out).backbone(stage) if processes.is_first else None


def run_discover(config: RunConfig) -> Path | None:
    """Stage 2 alone, in one process or, started by torchrun or srun, in several on one machine or more.

    Returns:
        The folder of the correspondences; none in a process that is not the first.
    """
    with _joined(config, discovers=True) as (images, processes):
        with recorded_stage(RunDir(config.out), "discover", processes):
            discover(config, images, processes)
            if processes.is_first:
                score_discovery(config, images)
        return RunDir(config.out).table("correspondences") if processes.is_first else None


@contextmanager
def _joined(
    config: RunConfig, *trained: str, discovers: bool = False, begin: Callable[[], None] | None = None
) -> Iterator[tuple[ImageTable, Processes]]:
    """The images of the run and the processes that work on it; the first of them scans."""
    with joined_processes(compute_device(config.device)) as processes:
        images = None
        if processes.is_first:
            if begin is not None:
                begin()
            images = prepare(config, *trained, discovers=discovers, num_processes=processes.count)
        processes.wait("the scan of the images")
        yield images or load_image_table(RunDir(config.out).images), processes


def _probe(config: RunConfig, *trained: str) -> Probe | None:
    """Judges a backbone by kNN on the labelled set, if the settings ask for it."""
    if not any(stage_settings(config, stage).probe_epochs for stage in trained):
        return None
    images, settings = run_dataset(config), config.evaluation
    train, test = images.readable(workers=config.workers)

    def probe(backbone: nn.Module) -> dict[str, float]:
        assert isinstance(backbone, Backbone)
        try:
            # It is put into evaluation mode.
            features = embed_labelled(
                copy.deepcopy(backbone).float(),
                train,
                test,
                size_px=settings.size_px,
                device=compute_device(config.device),
                workers=config.workers,
            )
            result = score_knn(
                *features.arrays, train.classes, k=settings.knn_neighbours, temperature=settings.knn_temperature
            )
            return {"probe_knn_map": result.mean_ap}
        except (ValueError, OSError, RuntimeError) as error:
            logger.warning("the backbone is not judged this time, and training goes on: %s", error)
            return {}

    return probe


def prepare(config: RunConfig, *trained: str, discovers: bool = False, num_processes: int = 1) -> ImageTable:
    """Scan the images and take the folder of the run for these settings.

    What can be wrong is found here, and not hours later. The settings are saved last, so that a command that was
    refused can be mended and given again.

    Args:
        config: the run.
        trained: the training stages to come: stage1, stage3.
        discovers: whether stage 2 is to come.
        num_processes: how many will work on it.

    Raises:
        ValueError: if the run was begun with settings that give other results and `overwrite` is off, if the labelled
            set or weights that it is given cannot be read, or if a batch needs more images than there are, or cannot be
            shared evenly.
        FileNotFoundError: if there is no file of weights to start from.
    """
    run = RunDir(config.out)
    if discovers and config.discover.feature_extractor is not None:
        _check_feature_extractor(config, run)
    if run.config.exists() and not config.overwrite:
        begun, now = (_found_from_anywhere(each) for each in (load_config(run.config), config))
        # What they hold counts, which is compared, and not where they lie.
        same = begun.discover
        if same.proposals == now.discover.proposals == "file":
            same = replace(same, proposals_file=now.discover.proposals_file)
        if now.discover.feature_extractor is not None:
            same = replace(
                same, feature_extractor=now.discover.feature_extractor, architecture=now.discover.architecture
            )
        changed = differences(replace(begun, discover=same), now)
        if changed:
            raise ValueError(
                f"{run.root} was begun with other settings ({'; '.join(changed)}); take another --out, or rebuild "
                "what depends on them with --overwrite"
            )
    device = _device_name(config)
    if discovers and config.discover.neighbour_search == "faiss":
        load_faiss()
    load_start(config)
    _check_start(config, run)
    if any(stage_settings(config, stage).probe_epochs for stage in trained) and config.eval_data is None:
        raise ValueError("probe_epochs needs a labelled set to judge on: give a VOC devkit with --eval-data")
    find_images(config.images, config.split)
    if config.eval_data is not None:
        check_run_dataset(config)
    run.root.mkdir(parents=True, exist_ok=True)
    for folder in (run.root, run.table("")):
        files.remove_stale_temporaries(folder)
    log_to_file(run)
    record_run(run, {"recipe": config.recipe, "seed": config.seed, "device": device})
    with recorded_stage(RunDir(config.out), "scan"):
        images = scan(config)
    if discovers:
        check_proposals(config, images)
    for stage in trained:
        settings = stage_settings(config, stage)
        epoch_batches(len(images), settings.batch_size, settings.epochs, config.seed, num_processes=num_processes)
        check_batch(config, stage, num_processes)
    save_config(_found_from_anywhere(config), run.config)
    return images


def _found_from_anywhere(config: RunConfig) -> RunConfig:
    """The settings as they are kept: all that is read again lies at whole paths."""
    found = config.discover
    return replace(
        config,
        images=_whole(config.images),
        eval_data=_whole(config.eval_data),
        init_from=_whole(config.init_from),
        discover=replace(
            found, feature_extractor=_whole(found.feature_extractor), proposals_file=_whole(found.proposals_file)
        ),
        overwrite=False,
    )


SomePath = TypeVar("SomePath", Path, None, Path | None)


def _whole(path: SomePath) -> SomePath:
    return None if path is None else Path(os.path.abspath(path.expanduser()))


def _check_start(config: RunConfig, run: RunDir) -> None:
    """Refuse to go on with a training from other weights than it began with."""
    asked = files.file_digest(find_weights_file(config.init_from)) if config.init_from else None
    for stage, label in TRAINED_STAGES.items():
        inputs = provenance.read_inputs(run.stage(stage))
        if config.overwrite or inputs is None:
            continue
        began = inputs.get("init_from")
        if began != asked:
            raise ValueError(
                f"{label} of {run.root} began with {'random' if began is None else 'other'} weights, and --init-from "
                f"is {config.init_from} now; give what it began with, take another --out, or begin anew with "
                "--overwrite"
            )


def _check_feature_extractor(config: RunConfig, run: RunDir) -> None:
    """Refuse to look with other weights than those that the run's images are embedded with."""
    feature_extractor, inputs = load_feature_extractor(config), provenance.read_inputs(run.table("embeddings"))
    if config.overwrite or inputs is None:
        return
    if inputs.get("backbone") != feature_extractor.backbone_digest:
        raise ValueError(
            f"the images of {run.root} are embedded with other weights than {config.discover.feature_extractor}; "
            "take another --out, or look again with --overwrite"
        )


def score_discovery(config: RunConfig, images: ImageTable) -> None:
    """Write how often correspondences join objects of one class, where the images' source has labels.

    A source without labels, or with damaged ones, does not stop the run: nothing else needs them.
    """
    run, labels = RunDir(config.out), _labels(config)
    if labels is None:
        run.discovery_score.unlink(missing_ok=True)
        logger.info("discovery is not scored: the images' source has no labels")
        return
    correspondences, rois = tables.load(run.table("correspondences")), tables.load(run.table("rois"))
    score = score_correspondences(
        labels,
        images.names,
        {name: rois.column(name) for name in ("image_id", "box")},
        {
            name: correspondences.column(name)
            for name in ("image_id", "neighbour_id", "roi", "neighbour_roi", "similarity")
        },
        seed=config.seed,
    )
    told = score.to_json() | {"correspondences": correspondences.fingerprint}
    files.write_atomically(run.discovery_score, json.dumps(told, indent=1))


def _labels(config: RunConfig) -> LabelledSplit | None:
    """The labels of the images' own source, which only scores and pictures use."""
    try:
        return read_labels(config.images, config.split)
    except (ValueError, OSError) as error:
        logger.warning("the labels of the images cannot be used: %s", error)
        return None


def _known(config: RunConfig) -> Annotations:
    """What pictures use beside the run's folder."""

    def view_sampler(stage: str) -> GlobalViewSampler | ObjectViewSampler:
        return build_view_sampler(config, stage, load_image_table(RunDir(config.out).images))

    return Annotations(labels=_labels(config), regions=_regions(config), view_sampler=view_sampler)


def _regions(config: RunConfig) -> ObjectRegions | None:
    """Where the objects of the images' own source lie, which only pictures use."""
    try:
        return read_object_regions(config.images, config.split)
    except (ValueError, OSError) as error:
        logger.warning("the masks and boxes of the images cannot be used: %s", error)
        return None


def evaluate_run(config: RunConfig) -> None:
    """Score random weights, stage 1 and stage 3 side by side; what is scored already is kept."""
    images = run_dataset(config)
    evaluate_backbone(config, "random", images)
    for stage in ("stage1", "stage3"):
        if RunDir(config.out).backbone(stage).exists():
            evaluate_backbone(config, stage, images)


def _device_name(config: RunConfig) -> str:
    device = compute_device(config.device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
