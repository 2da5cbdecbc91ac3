"""Runs: all stages of the method with evaluation and report, or one stage alone."""

from collections.abc import Callable
from pathlib import Path

from orl.config import RunConfig
from orl.evaluation.run_evaluations import evaluate_backbone
from orl.networks.device import compute_device
from orl.pipeline.discover import discover
from orl.pipeline.preflight import RunInputs, preflight
from orl.pipeline.pretrain import pretrain
from orl.pipeline.record import recorded_stage
from orl.pipeline.run_plan import log_plan, run_stages
from orl.pipeline.run_report import report_runs
from orl.pipeline.scan import scan
from orl.processes import joined_processes
from orl.rundir import TRAINED_STAGES
from orl.synthetic.scenes import draw_scenes

DEMO_TRAINVAL, DEMO_TEST = 400, 200


def run_demo(config: RunConfig) -> Path | None:
    """Create labelled synthetic scenes and run all stages on them; return the path of the report."""
    return run_all(
        config,
        draw_images=lambda: draw_scenes(
            config.images, num_trainval=DEMO_TRAINVAL, num_test=DEMO_TEST, seed=config.seed
        ),
    )


def run_all(config: RunConfig, draw_images: Callable[[], None] | None = None) -> Path | None:
    """Run all stages, the evaluations where labels are given, and the report; finished parts are kept.

    Stage 1 is left out where stage 2 embeds with an external network and stage 3 starts from random weights.
    Processes started by torchrun or srun train and discover together; the first evaluates and reports.

    Args:
        config: the run.
        draw_images: called by the first process before the images are searched.

    Returns:
        The path of the report; None in all processes but the first.
    """
    with joined_processes(compute_device(config.device)) as processes:
        if draw_images is not None and processes.is_first:
            draw_images()
        inputs = preflight(config, run_stages(config), processes)
        images = scan(inputs, processes)
        log_plan(inputs, len(images), processes)
        if "stage1" in inputs.stages:
            pretrain(inputs, images, "stage1", processes)
        discover(inputs, images, processes)
        pretrain(inputs, images, "stage3", processes)
        is_first = processes.is_first
    return evaluate_and_report(inputs) if is_first else None


def evaluate_and_report(inputs: RunInputs) -> Path:
    """Score random weights and each trained backbone, where labels are given, and write the report."""
    if inputs.eval_data is not None:
        trained = [stage for stage in TRAINED_STAGES if inputs.run.backbone(stage).exists()]
        with recorded_stage(inputs.run, "evaluation"):
            for label in ("random", *trained):
                evaluate_backbone(inputs.config, label, inputs.eval_data)
    return report_runs([inputs.config.out])


def run_pretrain(config: RunConfig, stage: str) -> Path | None:
    """Run 'stage1' or 'stage3' alone, in one process or several.

    Returns:
        The path of the backbone; None in all processes but the first.
    """
    with joined_processes(compute_device(config.device)) as processes:
        inputs = preflight(config, (stage,), processes)
        images = scan(inputs, processes)
        log_plan(inputs, len(images), processes)
        pretrain(inputs, images, stage, processes)
        return inputs.run.backbone(stage) if processes.is_first else None


def run_discover(config: RunConfig) -> Path | None:
    """Run stage 2 alone, in one process or several on one machine or more.

    Returns:
        The folder of the correspondences; None in all processes but the first.
    """
    with joined_processes(compute_device(config.device)) as processes:
        inputs = preflight(config, ("discover",), processes)
        images = scan(inputs, processes)
        discover(inputs, images, processes)
        return inputs.run.table("correspondences") if processes.is_first else None
