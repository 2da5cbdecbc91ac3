"""One training step: forward pass, loss, backward pass, optimiser, then the moving average of the target network.

`TrainingStep.update` is the step. `SSLStep` computes the gradients of a self-supervised method: the views of a batch go
through the method (`orl.methods.byol.BYOL.forward`, `orl.methods.orl.ORL.forward`, ...), which returns its losses.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from orl.networks.feature_rank import effective_rank
from orl.networks.sync_bn import sync_batch_norm
from orl.training.collapse import alignment, feature_std, uniformity
from orl.views.augment import augment
from orl.views.colour import ColourParameters
from orl.views.cut import Sample, View


class NotFiniteError(RuntimeError):
    """A loss or the gradient norm is infinite or not a number; the weights are unchanged."""

    def __init__(self, metrics: dict[str, float]) -> None:
        self.terms = {name: value for name, value in metrics.items() if not np.isfinite(value)}
        super().__init__(", ".join(f"{name} is {value}" for name, value in self.terms.items()))


class TrainingStep(ABC):
    """A network and its optimiser on a device. Subclasses compute the gradients of a batch."""

    model: Any
    """The network as Fabric wraps it: forward passes go through this one."""

    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        *,
        seed: int = 0,
        compile: bool = False,
    ) -> None:
        """Move the network to the device, in the memory layout in which convolutions are fastest.

        Args:
            fabric: a launched Fabric.
            network: trained in place; its parts keep their modes, training or evaluation.
            optimiser: over the weights that are trained.
            seed: seed of the random numbers that are sampled within a step.
            compile: compile the forward and backward pass at the first step.
        """
        self.fabric, self.seed = fabric, seed
        self.network: Any = network.to(memory_format=torch.channels_last)
        wrapped: Any = torch.compile(network) if compile else network
        self.model, self.optimiser = fabric.setup(wrapped, optimiser)
        self.is_complete = True
        """Whether no step is half done, so that the state may be saved."""
        self._buffers_before = [buffer.clone() for buffer in self.network.buffers()]

    @abstractmethod
    def backward(self, batch: Any) -> dict[str, Tensor]:
        """Add the gradients of a batch; return the loss, named `loss`, and further metrics by name."""

    @abstractmethod
    def finish(self, schedule: Mapping[str, float]) -> None:
        """Do what follows the optimiser's step, such as the update of a target network."""

    def update(self, step: int, batch: Any, schedule: Mapping[str, float]) -> dict[str, float]:
        """Do one step.

        Args:
            step: number of the step. Random numbers depend on it, on the seed and on the process alone.
            batch: the part of the batch that belongs to this process, as its workers made it.
            schedule: the scheduled values of this step: `lr`, which the `lr_scale` of a parameter group multiplies,
                and for a method with a target network `ema_momentum`.

        Returns:
            The metrics of `backward` and the gradient norm, as means over all processes.

        Raises:
            NotFiniteError: if the loss or the gradient norm is not finite.
        """
        torch.manual_seed(self._step_seed(step))
        torch._foreach_copy_(self._buffers_before, list(self.network.buffers()))
        try:
            metrics = self._compute_gradients(batch)
        except BaseException:
            # The forward pass has moved the running statistics of a step that is not done.
            torch._foreach_copy_(list(self.network.buffers()), self._buffers_before)
            raise
        self.is_complete = False
        for group in self.optimiser.param_groups:
            group["lr"] = schedule["lr"] * group.get("lr_scale", 1.0)
        self.optimiser.step()
        self.finish(schedule)
        self.is_complete = True
        return metrics

    def state(self) -> dict[str, Any]:
        """Return the state that a checkpoint keeps: network, optimiser and the scaler of half precision."""
        precision = self.fabric.strategy.precision.state_dict()
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(), "precision": precision}

    def load_state(self, state: dict[str, Any]) -> None:
        """Load what `state` returned."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        if state["precision"]:
            self.fabric.strategy.precision.load_state_dict(state["precision"])

    def _compute_gradients(self, batch: Any) -> dict[str, float]:
        self.optimiser.zero_grad()
        metrics = self.backward(batch)
        metrics["gradient_norm"] = self._gradient_norm()
        # One transfer from the device for all numbers of a step.
        local = torch.stack([value.detach().double() for value in metrics.values()])
        mean: Any = self.fabric.all_reduce(local, reduce_op="mean")
        means = dict(zip(metrics, mean.tolist()))
        self._check_finite(means)
        return means

    def _gradient_norm(self) -> Tensor:
        self.fabric.strategy.precision.unscale_gradients(self.optimiser.optimizer)
        gradients = [weight.grad for weight in self.network.parameters() if weight.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def _check_finite(self, metrics: dict[str, float]) -> None:
        # With fp16 the scaler skips a step whose gradient is infinite, and scales less from then on.
        has_scaler = bool(self.fabric.strategy.precision.state_dict())
        checked = {name: value for name, value in metrics.items() if name != "gradient_norm" or not has_scaler}
        if not np.isfinite(list(checked.values())).all():
            raise NotFiniteError(checked)

    def _step_seed(self, step: int) -> int:
        words = np.random.SeedSequence([self.seed, step, self.fabric.global_rank]).generate_state(1, np.uint64)
        return int(words[0] >> np.uint64(1))


class SSLStep(TrainingStep):
    """The training step of a self-supervised method."""

    def __init__(
        self,
        fabric: Fabric,
        method: nn.Module,
        optimiser: torch.optim.Optimizer,
        *,
        seed: int = 0,
        accumulation_steps: int = 1,
        compile: bool = False,
    ) -> None:
        """Move the method to the device.

        Args:
            fabric: a launched Fabric.
            method: trained in place. With several processes its batch normalisation uses the images of all of them,
                unless its `shares_batch_statistics` is False.
            optimiser: over the method's trained weights.
            seed: seed of the random numbers that the method samples within a step.
            accumulation_steps: gradient accumulation: a batch passes in this many equal parts, each with its own batch
                statistics, and their gradients are averaged.
            compile: compile the forward and backward pass at the first step.
        """
        if fabric.world_size > 1 and method.shares_batch_statistics:
            method = sync_batch_norm(method, fabric.device)
        super().__init__(fabric, method.train(), optimiser, seed=seed, compile=compile)
        self.method, self.accumulation_steps = self.network, accumulation_steps

    def backward(self, batch: Sample) -> dict[str, Tensor]:
        """Add the gradients of a batch of views; return the loss, its terms and the collapse metrics."""
        parts = [self._backward_part(part, is_last) for part, is_last in self._parts(batch)]
        return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}

    def finish(self, schedule: Mapping[str, float]) -> None:
        """Update the target network's moving average."""
        self.method.update_target(schedule["ema_momentum"])

    def _backward_part(self, part: Sample, is_last: bool) -> dict[str, Tensor]:
        device = self.fabric.device
        views = {name: augment(crops, colours, device) for name, (crops, colours) in part.items()}
        # Processes exchange gradients once, with the last part.
        with self.fabric.no_backward_sync(self.model, enabled=not is_last):
            losses, projections = self.model(views)
            loss = torch.stack(list(losses.values())).sum()
            self.fabric.backward(loss / self.accumulation_steps)
        with torch.no_grad():
            collapse_metrics = {
                "feature_std": feature_std(projections[0]),
                "alignment": alignment(*projections),
                "uniformity": uniformity(projections[0]),
                "effective_rank": effective_rank(projections[0]),
            }
        return {"loss": loss.detach(), **{name: term.detach() for name, term in losses.items()}, **collapse_metrics}

    def _parts(self, batch: Sample) -> Iterator[tuple[Sample, bool]]:
        """Split a batch into consecutive parts of equal size; the flag marks the last one."""
        count = self.accumulation_steps
        size = len(next(iter(batch.values())).crop) // count
        for index in range(count):
            rows = slice(index * size, (index + 1) * size)
            part = {
                name: View(crops[rows], ColourParameters(*(field[rows] for field in colours)))  # type: ignore[index]
                for name, (crops, colours) in batch.items()
            }
            yield part, index == count - 1
