"""Plan of a run, logged at its start: its stages, their steps, and the expected time."""

import logging
import time
from collections.abc import Callable

from orl.config import RunConfig, TrainConfig
from orl.pipeline.preflight import RunInputs
from orl.pipeline.training_setup import stage_config
from orl.processes import Processes
from orl.rundir import TRAINED_STAGES
from orl.training.batches import num_steps_per_epoch

logger = logging.getLogger(__name__)

NUM_STAGES = 4
FEW_STEPS = 200
"""Steps of a training stage below which a warning is logged: a rule of thumb (docs/decisions.md, 86)."""
WARMUP_STEPS, TIMED_STEPS, TIMED_S = 2, 5, 10.0
"""Untimed first steps, and the fewest steps and seconds from which an expected time is computed."""


def log_plan(inputs: RunInputs, num_images: int, processes: Processes) -> None:
    """Log each planned stage with its number of steps, and warn of a training that is too short to learn.

    Only the first process logs.
    """
    if not processes.is_first:
        return
    for line in plan_lines(inputs, num_images):
        logger.info(line)
    for line in step_warnings(inputs, num_images):
        logger.warning(line)


def plan_lines(inputs: RunInputs, num_images: int) -> list[str]:
    """Describe the stages of a run, a line each."""
    config = inputs.config
    lines = [f"plan for {num_images:,} images in {inputs.run.root}, on {inputs.device_name}:"]
    for number, (stage, method) in enumerate((("stage1", config.method.name), ("discover", ""), ("stage3", "orl")), 1):
        title = f"  stage {number} of {NUM_STAGES}"
        if stage not in inputs.stages:
            continue
        if stage == "discover":
            extractor = config.discover.feature_extractor or "stage 1's backbone"
            lines.append(f"{title}: discover correspondences of objects, embedding images and boxes with {extractor}")
            continue
        train = stage_config(config, stage)
        steps = _steps_per_epoch(train, num_images)
        lines.append(
            f"{title}: pretrain {config.network.backbone} with {method}: {train.epochs * steps:,} steps "
            f"({train.epochs} x {steps:,} at batch {train.batch_size})"
        )
    if inputs.stages == run_stages(config):
        last = f"evaluate on {config.eval_data} and write the report"
        lines.append(
            f"  stage {NUM_STAGES} of {NUM_STAGES}: "
            + (last if config.eval_data else "write the report; without --eval-data nothing is evaluated")
        )
    trained = [stage for stage in inputs.stages if stage in TRAINED_STAGES]
    if trained and _num_steps(config, trained[0], num_images) > TIMED_STEPS + WARMUP_STEPS:
        lines.append(f"  expected time: follows after the first steps of {TRAINED_STAGES[trained[0]]}")
    return lines


def step_warnings(inputs: RunInputs, num_images: int) -> list[str]:
    """Name each training stage with fewer than `FEW_STEPS` steps, and the ways out."""
    found = []
    for stage, label in TRAINED_STAGES.items():
        train = stage_config(inputs.config, stage)
        steps = _steps_per_epoch(train, num_images)
        if stage in inputs.stages and train.epochs * steps < FEW_STEPS:
            found.append(
                f"WARNING: {label} has only {train.epochs * steps} steps ({train.epochs} x {steps}), too "
                f"few to learn anything useful: use more images, a smaller --{stage}.batch-size or more "
                f"--{stage}.epochs, for at least {FEW_STEPS} steps"
            )
    return found


def run_stages(config: RunConfig) -> tuple[str, ...]:
    """Return the stages of a complete run: stage 1 is left out where nothing uses its weights."""
    return ("stage1", "discover", "stage3") if config.needs_stage1 else ("discover", "stage3")


def expected_time_logger(inputs: RunInputs, stage: str, num_images: int) -> Callable[[int], None]:
    """Build a function that takes the number of steps done, after each step, and logs the expected time once.

    The time of stage 3 is extrapolated from a step of stage 1 by the pixels of their views, so it is rough.
    """
    num_steps = _num_steps(inputs.config, stage, num_images)
    num_calls, is_logged, first_step, started_s = 0, False, 0, 0.0

    def after_step(step: int) -> None:
        nonlocal num_calls, is_logged, first_step, started_s
        now, num_calls = time.monotonic(), num_calls + 1
        if num_calls <= WARMUP_STEPS:
            first_step, started_s = step, now
        steps, elapsed_s = step - first_step, now - started_s
        if is_logged or steps < TIMED_STEPS or elapsed_s < TIMED_S:
            return
        is_logged = True
        step_s = elapsed_s / steps
        line = f"expected time: {TRAINED_STAGES[stage]} about {format_duration(step_s * (num_steps - step))} more"
        if stage == "stage1" and "stage3" in inputs.stages:
            rest_s = step_s * _pixel_ratio(inputs.config) * _num_steps(inputs.config, "stage3", num_images)
            line += f"; stage 3 roughly {format_duration(rest_s)}, by the pixels of its views; stage 2 not yet measured"
        logger.info(line)

    return after_step


def format_duration(seconds: float) -> str:
    """Format a duration in one unit: seconds, minutes, hours or days."""
    for limit, divisor, unit in ((90, 1, "s"), (5400, 60, "min"), (72 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:.0f} days"


def _num_steps(config: RunConfig, stage: str, num_images: int) -> int:
    train = stage_config(config, stage)
    return _steps_per_epoch(train, num_images) * train.epochs


def _steps_per_epoch(train: TrainConfig, num_images: int) -> int:
    return num_steps_per_epoch(num_images, train.batch_size, drop_last=train.drop_last)


def _pixel_ratio(config: RunConfig) -> float:
    """Divide the pixels of a batch of views of stage 3 by those of stage 1."""
    stage1 = config.stage1.batch_size * 2 * config.stage1.views.size_px**2
    stage3 = config.stage3.batch_size * (2 * config.stage3.views.size_px**2 + 4 * config.objects.roi_size_px**2)
    return stage3 / stage1
