"""The one training loop: views in, losses down, target after, state saved."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader

from orl.images.augment import augment
from orl.images.datasets import EpochBatches, Samples, collate, ignore_interrupts
from orl.images.views import Sample
from orl.progress import progress_bar
from orl.training.checkpoints import load_newest, save_checkpoint
from orl.training.interrupts import Stopped, StopRequest
from orl.training.metrics import MetricsLog, feature_spread

logger = logging.getLogger(__name__)

Schedule = Callable[[int], float]
"""Steps done to a value."""


class Method(Protocol):
    """What the loop needs of a method beside being a module."""

    def __call__(self, views: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]: ...

    def update_target(self, ema_momentum: float) -> None: ...


def train(
    fabric: Fabric,
    method: nn.Module,
    optimiser: torch.optim.Optimizer,
    dataset: Samples,
    batches: EpochBatches,
    *,
    lr_at: Schedule,
    ema_momentum_at: Schedule,
    folder: Path,
    workers: int,
    checkpoint_minutes: float,
    title: str,
) -> None:
    """Train to the end, from the newest checkpoint in the folder if there is one.

    Args:
        fabric: launched already.
        method: BYOL or ORL; changed in place.
        optimiser: over the method's parameters.
        dataset: gives the samples.
        batches: says which photo comes at which step.
        lr_at: learning rate of a step.
        ema_momentum_at: momentum of the target after a step.
        folder: of the stage; gets checkpoints, metrics.jsonl and tensorboard.
        workers: processes that read photos.
        checkpoint_minutes: time between two checkpoints.
        title: what the progress bar says.

    Raises:
        RuntimeError: if the loss is not finite; names the step and the terms.
        Stopped: after Ctrl-C or SIGTERM, when the state is saved.
    """
    method = method.to(memory_format=torch.channels_last)
    model, optimiser = fabric.setup(method, optimiser)
    checkpoints = folder / "checkpoints"
    num_steps = batches.steps_per_epoch * batches.epochs
    step = _resume(checkpoints, method, optimiser)
    if step == num_steps:
        return
    batches.first_step = step
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=ignore_interrupts,
        pin_memory=fabric.device.type == "cuda",
    )

    def save() -> None:
        state: dict[str, Any] = {"method": method.state_dict(), "optimiser": optimiser.state_dict()}
        save_checkpoint(checkpoints, step, state)

    batch_size = batches.batch_size
    method.train()
    with (
        StopRequest() as stop,
        MetricsLog(folder, step) as log,
        progress_bar(total=num_steps * batch_size, done=step * batch_size, title=title, unit="photos") as bar,
    ):
        started_s = saved_s = time.monotonic()
        first_step = step
        for batch in loader:
            lr, ema_momentum = lr_at(step), ema_momentum_at(step)
            losses, spread = _update(fabric, model, method, optimiser, batch.views, lr, ema_momentum, step + 1)
            step += 1
            elapsed_s = time.monotonic() - started_s
            metrics = {"step": step, "epoch": step / batches.steps_per_epoch, **losses}
            metrics |= {"lr": lr, "ema_momentum": ema_momentum, "spread": spread, "elapsed_s": elapsed_s}
            log.write(metrics | {"photos_per_s": (step - first_step) * batch_size / elapsed_s})
            bar.set_postfix_str(f"loss {losses['loss']:.3f}, spread {spread:.2f}", refresh=False)
            bar.update(batch_size)
            if stop.signal_number is not None:
                save()
                raise Stopped(stop.signal_number, f"stopped after step {step} of {num_steps} and saved")
            if time.monotonic() - saved_s > 60 * checkpoint_minutes and step < num_steps:
                save()
                saved_s = time.monotonic()
        save()


def _update(
    fabric: Fabric,
    model: Any,
    method: Any,
    optimiser: Any,
    batch: Sample,
    lr: float,
    ema_momentum: float,
    step: int,
) -> tuple[dict[str, float], float]:
    views = {
        name: augment(crops, parameters, fabric.device).contiguous(memory_format=torch.channels_last)
        for name, (crops, parameters) in batch.items()
    }
    terms, projections = model(views)
    loss = torch.stack(list(terms.values())).sum()
    losses = {"loss": loss.item(), **{name: value.item() for name, value in terms.items()}}
    if not torch.isfinite(loss):
        raise RuntimeError(
            f"the loss is not finite at step {step}: {losses}; try a smaller learning rate, or --precision 32-true"
        )
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.zero_grad()
    fabric.backward(loss)
    optimiser.step()
    method.update_target(ema_momentum)
    return losses, float(feature_spread(projections))


def _resume(checkpoints: Path, method: nn.Module, optimiser: Any) -> int:
    state, complaints = load_newest(checkpoints)
    for complaint in complaints:
        logger.warning("%s; taking the one before", complaint)
    if state is None:
        return 0
    method.load_state_dict(state["method"])
    optimiser.load_state_dict(state["optimiser"])
    logger.info("going on from step %d", state["step"])
    return int(state["step"])
