"""Preflight: read and check every input of a run once, before the scan and before any training.

`preflight` returns `RunInputs`; scan, pretrain, discover and evaluate use it without further checks.
"""

import importlib.util
import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from orl import files, provenance, tables
from orl.config import DenseCLConfig, MoCoV2Config, RunConfig, differences, load_config
from orl.datasets.packs import is_pack, open_pack
from orl.datasets.sources import find_images
from orl.discovery.faiss_neighbours import load_faiss
from orl.discovery.nearest_neighbours import too_few_images
from orl.discovery.opencv_search import new_opencv_search
from orl.evaluation.run_evaluations import RunDatasets, check_run_datasets
from orl.networks.backbones import Backbone, build_backbone
from orl.networks.device import compute_device
from orl.own_boxes.box_file import detect_box_format
from orl.pipeline.feature_extractor import FeatureExtractor, load_external_extractor
from orl.pipeline.proposal_tables import boxes_file, own_function
from orl.pipeline.training_setup import stage_config
from orl.processes import Processes
from orl.rundir import TRAINED_STAGES, RunDir
from orl.weights.find import find_weights_file
from orl.weights.importing import import_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """The checked inputs of a run."""

    config: RunConfig
    run: RunDir
    stages: tuple[str, ...]
    """Stages to run, of 'stage1', 'discover' and 'stage3'."""
    root: Path
    """Folder that the names start from, or a pack."""
    names: Sequence[str]
    """Path of each listed image below the root; the scan rejects those that cannot be read."""
    min_images: int
    """Fewest usable images: the largest batch, and for stage 2 one more than the neighbours of an image."""
    device_name: str
    start: Backbone | None
    """Weights that training starts from; None for random ones."""
    start_digest: str | None
    feature_extractor: FeatureExtractor | None
    """External network of stage 2; None for stage 1's."""
    eval_data: RunDatasets | None
    """Labelled data of the evaluations; None without --eval-data, and in all processes but the first."""


@dataclass(frozen=True)
class Problem:
    """A reason why a run cannot start, and its remedy."""

    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}"


def preflight(config: RunConfig, stages: Sequence[str] = (), processes: Processes | None = None) -> RunInputs:
    """Read and check all inputs of these stages; write nothing.

    The first process checks first. The others follow when its checks have passed.

    Args:
        config: the run.
        stages: stages to run, of 'stage1', 'discover' and 'stage3'.
        processes: all processes of the run; this one alone if not given.

    Raises:
        ValueError: if the folder holds a run of another config, or an input does not fit the config.
        FileNotFoundError: if images, weights, boxes or the output of an earlier stage are missing.
        ImportError: if a package that the config needs is missing.
    """
    processes = processes or Processes()
    if not processes.is_first:
        processes.wait("the checks of the inputs")
    run = RunDir(config.out)
    device = compute_device(config.device)
    feature_extractor = _read_feature_extractor(config, run) if "discover" in stages else None
    _check_saved_config(config, run, stages)
    _check_packages(config, stages, device)
    if any(stage in stages for stage in TRAINED_STAGES):
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            build_backbone(config.network.backbone)
    start = _read_start(config)
    start_digest = files.file_digest(find_weights_file(config.init_from)) if config.init_from else None
    _check_start_unchanged(config, run, start_digest)
    _check_earlier_stages(config, run, stages)
    root, names = find_images(config.images, config.split, config.out)
    _check_image_source(config, stages, root)
    if "discover" in stages and len(names) <= config.discover.num_neighbours:
        raise too_few_images(config.discover.num_neighbours, len(names))
    for stage in TRAINED_STAGES:
        for problem in batch_problems(config, stage, len(names), processes.count) if stage in stages else ():
            raise ValueError(str(problem))
    inputs = RunInputs(
        config=config,
        run=run,
        stages=tuple(stages),
        root=root,
        names=names,
        min_images=_min_images(config, stages),
        device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        start=start,
        start_digest=start_digest,
        feature_extractor=feature_extractor,
        eval_data=_read_eval_data(config, stages) if processes.is_first else None,
    )
    if processes.is_first:
        processes.wait("the checks of the inputs")
    return inputs


def batch_problems(config: RunConfig, stage: str, num_images: int, num_processes: int) -> Iterator[Problem]:
    """Yield the reasons why a batch of a stage cannot be split as configured.

    Args:
        config: the run.
        stage: 'stage1' or 'stage3'.
        num_images: images of the run.
        num_processes: processes that train together.
    """
    train, method = stage_config(config, stage), config.method
    batch_size, steps = train.batch_size, train.accumulation_steps
    if batch_size > num_images:
        yield Problem(
            f"a batch of {batch_size} needs as many images, and there are {num_images}",
            f"set --{stage}.batch-size {_smaller_batch(config, num_images)} or another smaller one",
        )
    per_process, rest = divmod(batch_size, num_processes)
    if rest:
        yield Problem(
            f"a batch of {batch_size} is not a multiple of {num_processes} processes",
            f"set another --{stage}.batch-size, which is over all processes",
        )
        return
    if per_process % steps or per_process // steps < 2:
        yield Problem(
            f"the {per_process} images that a process has of a batch of {batch_size} cannot be split into {steps} "
            "equal gradient accumulation steps of two images or more",
            f"set another --{stage}.accumulation-steps or --{stage}.batch-size",
        )
        return
    if stage == "stage3" or not isinstance(method, MoCoV2Config | DenseCLConfig):
        return
    per_step, groups = batch_size // steps, method.num_groups
    if per_step % groups or per_step // groups < 2 or groups % num_processes:
        yield Problem(
            f"the {per_step} images of a forward pass on {num_processes} processes cannot be split into {groups} equal "
            "groups of two or more, with as many groups in each process",
            f"set another --method.num-groups or --{stage}.batch-size",
        )
    if method.queue_size % batch_size:
        yield Problem(
            f"a queue of {method.queue_size} keys is not a multiple of the batch of {batch_size}",
            f"set another --method.queue-size or --{stage}.batch-size",
        )


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return the config as it is saved: absolute paths, which are found from any folder, and no `overwrite`."""
    discover = config.discover
    return replace(
        config,
        images=_absolute(config.images),
        eval_data=_absolute(config.eval_data),
        init_from=_absolute(config.init_from),
        discover=replace(
            discover,
            feature_extractor=_absolute(discover.feature_extractor),
            proposals_file=_absolute(discover.proposals_file),
        ),
        overwrite=False,
    )


def _check_saved_config(config: RunConfig, run: RunDir, stages: Sequence[str]) -> None:
    """Refuse a folder whose run has a config with other results."""
    if config.overwrite or not run.config.exists():
        return
    saved, now = with_absolute_paths(load_config(run.config)), with_absolute_paths(config)
    # Files of boxes and weights may have moved: their content is compared elsewhere.
    discover = saved.discover
    if discover.proposals == now.discover.proposals == "file":
        discover = replace(discover, proposals_file=now.discover.proposals_file)
    if now.discover.feature_extractor is not None:
        discover = replace(
            discover, feature_extractor=now.discover.feature_extractor, architecture=now.discover.architecture
        )
    changed = differences(replace(saved, discover=discover), now)
    changed = [line for line in changed if line.partition(".")[0] not in _free_sections(run)]
    if changed:
        raise ValueError(
            f"{run.root} holds a run of another config ({'; '.join(changed)}); use another --out, or rebuild "
            f"what depends on these options with --overwrite{_way_to_more_epochs(saved, config, run, changed, stages)}"
        )


def _way_to_more_epochs(
    saved: RunConfig, config: RunConfig, run: RunDir, changed: Sequence[str], stages: Sequence[str]
) -> str:
    """Return the command that trains on from finished weights, if only epochs were added to finished stages."""
    added = {
        stage: stage_config(config, stage).epochs - stage_config(saved, stage).epochs
        for stage in TRAINED_STAGES
        if any(line.startswith(f"{stage}.epochs:") for line in changed) and run.backbone(stage).exists()
    }
    if not added or len(added) < len(changed) or min(added.values()) < 1:
        return ""
    verb = "pretrain" if tuple(stages) == ("stage1",) else "run"
    options = [f"--{stage}.epochs={epochs}" for stage, epochs in added.items()]
    options.append(f"--init-from={run.backbone(next(iter(added)))}")
    if list(added) == ["stage3"]:  # stage 1 is not trained again: its weights embed, and stage 3 starts from its own
        extractor = config.discover.feature_extractor or run.backbone("stage1")
        options += [f"--discover.feature-extractor={extractor}", "--objects.no-warm-start"]
    words = ["orl", verb, str(run.config), f"--out={run.root}-more", *options]
    return (
        ". The learning rate reached its end with the last epoch. To train on from these weights, with a warm-up and a "
        f"schedule of its own: {shlex.join(words)}"
    )


def _free_sections(run: RunDir) -> set[str]:
    """Return the sections of the config that may still change: those of stages that have not started."""
    sections = {"stage1": ("stage1", "method"), "discover": ("discover",), "stage3": ("stage3", "objects")}
    return {
        section
        for stage, names in sections.items()
        for section in names
        if not any((run.root / stage).glob(f"**/{provenance.MANIFEST}"))
    }


def _check_packages(config: RunConfig, stages: Sequence[str], device: torch.device) -> None:
    if "discover" in stages and config.discover.neighbour_search == "faiss":
        load_faiss()
    if "discover" in stages and config.discover.proposals == "opencv":
        new_opencv_search()
    if "discover" in stages:
        own_function(config.discover)
    if config.wandb != "off" and importlib.util.find_spec("wandb") is None:
        raise ImportError(f"--wandb {config.wandb} needs Weights & Biases: pip install wandb, or leave it off")
    if config.precision == "16-mixed" and device.type == "cpu":
        raise ValueError("--precision 16-mixed needs a GPU; on a CPU use bf16-mixed or 32-true")


def _read_start(config: RunConfig) -> Backbone | None:
    if config.init_from is None:
        return None
    imported = import_weights(find_weights_file(config.init_from))
    start = imported.backbone
    if imported.choice:
        logger.info("--init-from %s: %s", config.init_from, imported.choice)
    if start.name != config.network.backbone:
        raise ValueError(
            f"--init-from {config.init_from} holds a {start.name}, and --backbone is {config.network.backbone}"
        )
    return start


def _check_start_unchanged(config: RunConfig, run: RunDir, start_digest: str | None) -> None:
    """Refuse to resume a training that started from other weights."""
    for stage, label in TRAINED_STAGES.items():
        inputs = provenance.read_inputs(run.stage(stage))
        if config.overwrite or inputs is None or inputs.get("init_from") == start_digest:
            continue
        raise ValueError(
            f"{label} of {run.root} started from {'other' if inputs.get('init_from') else 'random'} weights, and "
            f"--init-from is {config.init_from} now; give the weights that it started from, use another --out, or "
            "start from scratch with --overwrite"
        )


def _read_feature_extractor(config: RunConfig, run: RunDir) -> FeatureExtractor | None:
    if config.discover.feature_extractor is None:
        return None
    extractor = load_external_extractor(config.discover)
    inputs = provenance.read_inputs(run.table("embeddings"))
    if not config.overwrite and inputs is not None and inputs.get("backbone") != extractor.backbone_digest:
        raise ValueError(
            f"the images of {run.root} are embedded with other weights than {config.discover.feature_extractor}; "
            "use another --out, or embed them again with --overwrite"
        )
    return extractor


def _check_earlier_stages(config: RunConfig, run: RunDir, stages: Sequence[str]) -> None:
    """Refuse a stage whose inputs are the output of an earlier one that is missing or has changed."""
    backbone = run.backbone("stage1")
    lacks_stage1 = "stage1" not in stages and not backbone.exists()
    if "discover" in stages and config.discover.feature_extractor is None and lacks_stage1:
        raise FileNotFoundError(
            f"no backbone at {backbone}; train stage 1 with 'orl pretrain', or embed with other weights: "
            "--feature-extractor FILE"
        )
    if "stage3" not in stages:
        return
    if config.objects.warm_start and lacks_stage1:
        raise FileNotFoundError(
            f"stage 3 starts from stage 1's weights, and there is no {backbone}; train it with 'orl pretrain', or "
            "start from random weights with --objects.no-warm-start"
        )
    if "discover" in stages:
        return
    tables.load(run.table("correspondences"))
    embedded_with = (provenance.read_inputs(run.table("embeddings")) or {}).get("backbone")
    if config.discover.feature_extractor is not None or embedded_with is None or not backbone.exists():
        return
    if embedded_with != files.file_digest(backbone):
        raise ValueError(
            f"stage 2 of {run.root} was made with another stage 1 than there is now; rebuild it with "
            "'orl discover --overwrite'"
        )


def _check_image_source(config: RunConfig, stages: Sequence[str], root: Path) -> None:
    """Refuse a kind of image source that does not fit the config."""
    if config.cache != "disk" and any(stage in stages for stage in TRAINED_STAGES) and not is_pack(root):
        raise ValueError(
            f"--cache {config.cache} takes packed images only, and {root} is not a pack: make one with "
            "'orl data pack', or leave --cache at disk"
        )
    if "discover" not in stages or config.discover.proposals != "file":
        return
    box_format = detect_box_format(boxes_file(config.discover))
    if box_format.in_pixels and is_pack(root) and open_pack(root).is_reduced:
        raise ValueError(
            f"boxes from a file are in pixels of the original images, and pack {root} has reduced them: "
            "pack them with --short-side None, or give the images themselves"
        )


def _read_eval_data(config: RunConfig, stages: Sequence[str]) -> RunDatasets | None:
    if config.eval_data is None:
        if any(stage_config(config, stage).probe_epochs for stage in TRAINED_STAGES if stage in stages):
            raise ValueError("probe_epochs needs a labelled data set to evaluate on: give a VOC devkit by --eval-data")
        return None
    return check_run_datasets(config)


def _min_images(config: RunConfig, stages: Sequence[str]) -> int:
    batches = [stage_config(config, stage).batch_size for stage in TRAINED_STAGES if stage in stages]
    return max([1, *batches, *([config.discover.num_neighbours + 1] if "discover" in stages else [])])


def _smaller_batch(config: RunConfig, num_images: int) -> int:
    """Return a quarter of the images, or less, so that the groups of a batch are equal."""
    method = config.method
    groups = method.num_groups if isinstance(method, MoCoV2Config | DenseCLConfig) else 1
    return max(2, num_images // 4 // groups) * groups


SomePath = TypeVar("SomePath", Path, None, Path | None)


def _absolute(path: SomePath) -> SomePath:
    return None if path is None else Path(os.path.abspath(path.expanduser()))
