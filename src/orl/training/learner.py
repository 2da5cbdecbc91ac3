"""One step of training: views in, losses down, the target after."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from orl.images.augment import augment
from orl.images.colour import ColourParameters
from orl.images.views import Sample, View
from orl.networks.synchronised import synchronise_batch_norm
from orl.training.watch import alignment, feature_spread, uniformity


class NotFiniteError(RuntimeError):
    """A loss or the gradient is not a number; nothing was stepped."""

    def __init__(self, measured: dict[str, float]) -> None:
        self.terms = {name: value for name, value in measured.items() if not np.isfinite(value)}
        super().__init__(", ".join(f"{name} is {value}" for name, value in self.terms.items()))


class Learner:
    """A method, its optimiser and the engine that they run on."""

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
        """Put the method on the device, in the layout that convolutions are fastest in.

        Args:
            fabric: launched already.
            method: changed in place. Among several processes batch statistics are of all their photos, unless it
                says otherwise.
            optimiser: over the method's parameters.
            seed: of what a method draws at a step.
            accumulation_steps: parts of a batch that pass the network one after the other, each with its own batch
                statistics; their gradients are averaged.
            compile: compile the forward and backward pass at the first step.
        """
        if fabric.world_size > 1 and method.shares_batch_statistics:
            method = synchronise_batch_norm(method, fabric.device)
        self.fabric, self.seed, self.accumulation_steps = fabric, seed, accumulation_steps
        self.method: Any = method.to(memory_format=torch.channels_last)
        wrapped: Any = torch.compile(method) if compile else method
        self.model: Any
        self.model, self.optimiser = fabric.setup(wrapped, optimiser)
        self.is_whole = True
        """Whether no step is half done: then the state may be saved."""
        self.method.train()
        self._kept = [buffer.clone() for buffer in self.method.buffers()]

    def update(self, step: int, views: Sample, lr: float, ema_momentum: float) -> dict[str, float]:
        """Do one step.

        Args:
            step: its number; what a method draws depends on it, on the seed and on the process alone.
            views: of a batch, as this process's workers cut them.
            lr: learning rate.
            ema_momentum: what the target keeps of itself.

        Returns:
            The loss, its terms, the gradient's norm and how the features lie, averaged over all processes.

        Raises:
            NotFiniteError: if the loss or the gradient is not finite; the weights are as they were before.
        """
        torch.manual_seed(self._seed_of(step))
        torch._foreach_copy_(self._kept, list(self.method.buffers()))
        try:
            found = self._gradients(views)
        except BaseException:
            # Statistics of a forward pass whose step is not done.
            torch._foreach_copy_(list(self.method.buffers()), self._kept)
            raise
        self.is_whole = False
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.step()
        self.method.update_target(ema_momentum)
        self.is_whole = True
        return found

    def _gradients(self, views: Sample) -> dict[str, float]:
        self.optimiser.zero_grad()
        parts = [self._backward(part, is_last) for part, is_last in self._parts(views)]
        measured = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        measured["gradient_norm"] = self._gradient_norm()
        # One transfer from the device for all numbers of a step.
        own = torch.stack([value.double() for value in measured.values()])
        together: Any = self.fabric.all_reduce(own, reduce_op="mean")
        found = dict(zip(measured, together.tolist()))
        self._check(found)
        return found

    def state(self) -> dict[str, Any]:
        """All that a step depends on beside its number and its views."""
        precision = self.fabric.strategy.precision.state_dict()
        return {"method": self.method.state_dict(), "optimiser": self.optimiser.state_dict(), "precision": precision}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.method.load_state_dict(state["method"])
        self.optimiser.load_state_dict(state["optimiser"])
        if state["precision"]:
            self.fabric.strategy.precision.load_state_dict(state["precision"])

    def _backward(self, part: Sample, is_last: bool) -> dict[str, Tensor]:
        device = self.fabric.device
        views = {name: augment(crops, colours, device) for name, (crops, colours) in part.items()}
        with self.fabric.no_backward_sync(self.model, enabled=not is_last):
            terms, projections = self.model(views)
            loss = torch.stack(list(terms.values())).sum()
            self.fabric.backward(loss / self.accumulation_steps)
        with torch.no_grad():
            lie = {
                "spread": feature_spread(projections[0]),
                "alignment": alignment(*projections),
                "uniformity": uniformity(projections[0]),
            }
        return {"loss": loss.detach(), **{name: value.detach() for name, value in terms.items()}, **lie}

    def _parts(self, views: Sample) -> Iterator[tuple[Sample, bool]]:
        count = self.accumulation_steps
        size = len(next(iter(views.values())).crop) // count
        for index in range(count):
            rows = slice(index * size, (index + 1) * size)
            part = {
                name: View(crops[rows], ColourParameters(*(field[rows] for field in colours)))  # type: ignore[index]
                for name, (crops, colours) in views.items()
            }
            yield part, index == count - 1

    def _gradient_norm(self) -> Tensor:
        self.fabric.strategy.precision.unscale_gradients(self.optimiser.optimizer)
        gradients = [weight.grad for weight in self.method.parameters() if weight.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def _check(self, measured: dict[str, float]) -> None:
        # With fp16 an infinite gradient is the scaler's business: it leaves the step out and scales less.
        scaled = bool(self.fabric.strategy.precision.state_dict())
        watched = {name: value for name, value in measured.items() if name != "gradient_norm" or not scaled}
        if not np.isfinite(list(watched.values())).all():
            raise NotFiniteError(watched)

    def _seed_of(self, step: int) -> int:
        words = np.random.SeedSequence([self.seed, step, self.fabric.global_rank]).generate_state(1, np.uint64)
        return int(words[0] >> np.uint64(1))
