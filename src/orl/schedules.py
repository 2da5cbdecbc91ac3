"""Schedules of the learning rate and of the target's EMA momentum, as pure functions of the step."""

import math
from collections.abc import Sequence


def warmup_cosine(step: int, num_steps: int, num_warmup_steps: int, peak: float) -> float:
    """Rise linearly to the peak, then fall by half a cosine to 0, both at every step.

    Args:
        step: steps already done, from 0.
        num_steps: steps in all.
        num_warmup_steps: steps of the warm-up; the step after them has the peak.
        peak: the highest value.

    Returns:
        In (0, peak] during training, 0 at `num_steps`.

    Source:
        SGDR (arXiv 1608.03983), without restarts, after a warm-up. `epoch_cosine` is ORL's published schedule.
    """
    if step < num_warmup_steps:
        return peak * (step + 1) / (num_warmup_steps + 1)
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def epoch_cosine(
    step: int, steps_per_epoch: int, num_epochs: int, warmup_epochs: float, peak: float, warmup_factor: float = 1e-4
) -> float:
    """Fall by half a cosine to 0 over all epochs, in one stair per epoch, and multiply by a warm-up of every step.

    Args:
        step: steps already done, from 0.
        steps_per_epoch: steps of an epoch.
        num_epochs: epochs in all; the last one does not reach 0.
        warmup_epochs: epochs of the warm-up.
        peak: the value without a warm-up in the first epoch.
        warmup_factor: factor at the first step; the warm-up rises linearly from it to 1.

    Source:
        ORL's published configuration: mmcv's `CosineAnnealing` by epoch, with `warmup_by_epoch`. There the number of
        epochs is only the unit of the warm-up's length, and its factor rises at every step.
    """
    stair = peak * 0.5 * (1 + math.cos(math.pi * (step // steps_per_epoch) / num_epochs))
    return stair * linear_warmup(step, round(warmup_epochs * steps_per_epoch), warmup_factor)


def linear_warmup(step: int, num_warmup_steps: int, start: float) -> float:
    """Return a factor that rises linearly from `start` at the first step to 1 at the step after the warm-up."""
    if step >= num_warmup_steps:
        return 1.0
    done = step / num_warmup_steps
    return start * (1 - done) + done


def ema_momentum(step: int, num_steps: int, start: float) -> float:
    """Raise the EMA momentum of the target network from `start` to 1 by half a cosine over all steps.

    Source:
        BYOL (arXiv 2006.07733), Section 3.3.
    """
    return 1 - (1 - start) * (math.cos(math.pi * step / num_steps) + 1) / 2


def step_decay(step: int, milestones: Sequence[int], base: float, factor: float) -> float:
    """Multiply a value by a factor at each milestone.

    Args:
        step: steps already done, from 0.
        milestones: numbers of steps after which the value falls.
        base: the value before the first milestone.
        factor: the factor.
    """
    return base * factor ** sum(step >= milestone for milestone in milestones)


def warmup_step_decay(
    step: int, num_warmup_steps: int, milestones: Sequence[int], peak: float, factor: float, warmup_factor: float
) -> float:
    """Rise linearly from a fraction of the peak, then follow `step_decay`.

    Args:
        step: steps already done, from 0.
        num_warmup_steps: steps of the warm-up; the step after them has the peak.
        milestones: numbers of steps after which the value falls.
        peak: the highest value.
        factor: factor of each fall.
        warmup_factor: fraction of the peak at the first step.

    Source:
        Detectron2's `WarmupMultiStepLR` with linear warm-up.
    """
    return step_decay(step, milestones, peak, factor) * linear_warmup(step, num_warmup_steps, warmup_factor)
