"""What the one loop trains: a network and its optimiser, a step at a time."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn


class NotFiniteError(RuntimeError):
    """A loss or the gradient is not a number; nothing was stepped."""

    def __init__(self, measured: dict[str, float]) -> None:
        self.terms = {name: value for name, value in measured.items() if not np.isfinite(value)}
        super().__init__(", ".join(f"{name} is {value}" for name, value in self.terms.items()))


class TrainingStep(ABC):
    """A network on the engine that trains it: what is learnt from a batch is for those who inherit to say."""

    model: Any
    """The network as the engine wraps it: what a forward pass goes through."""

    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        *,
        seed: int = 0,
        compile: bool = False,
    ) -> None:
        """Put the network on the device, in the layout that convolutions are fastest in.

        Args:
            fabric: launched already.
            network: changed in place; in the modes, training or evaluation, that its parts shall have.
            optimiser: over those of its parameters that are trained.
            seed: of what is drawn at a step.
            compile: compile the forward and backward pass at the first step.
        """
        self.fabric, self.seed = fabric, seed
        self.network: Any = network.to(memory_format=torch.channels_last)
        wrapped: Any = torch.compile(network) if compile else network
        self.model, self.optimiser = fabric.setup(wrapped, optimiser)
        self.is_whole = True
        """Whether no step is half done: then the state may be saved."""
        self._kept = [buffer.clone() for buffer in self.network.buffers()]

    @abstractmethod
    def backward(self, batch: Any) -> dict[str, Tensor]:
        """Add the gradients of a batch; returns the loss, named `loss`, and whatever else is to be told."""

    def finish_step(self, at: Mapping[str, float]) -> None:  # noqa: B027 - most have nothing more to do
        """What is to be done after the optimiser's step, with the values of the schedules."""

    def update(self, step: int, batch: Any, at: Mapping[str, float]) -> dict[str, float]:
        """Do one step.

        Args:
            step: its number; what is drawn depends on it, on the seed and on the process alone.
            batch: this process's part, as its workers made it.
            at: the values of the schedules; `lr` among them, which a group's `lr_scale` multiplies.

        Returns:
            What `backward` tells and the gradient's norm, averaged over all processes.

        Raises:
            NotFiniteError: if the loss or the gradient is not finite; the weights are as they were before.
        """
        torch.manual_seed(self._seed_of(step))
        torch._foreach_copy_(self._kept, list(self.network.buffers()))
        try:
            found = self._gradients(batch)
        except BaseException:
            # Statistics of a forward pass whose step is not done.
            torch._foreach_copy_(list(self.network.buffers()), self._kept)
            raise
        self.is_whole = False
        for group in self.optimiser.param_groups:
            group["lr"] = at["lr"] * group.get("lr_scale", 1.0)
        self.optimiser.step()
        self.finish_step(at)
        self.is_whole = True
        return found

    def state(self) -> dict[str, Any]:
        """All that a step depends on beside its number and its batch."""
        precision = self.fabric.strategy.precision.state_dict()
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(), "precision": precision}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        if state["precision"]:
            self.fabric.strategy.precision.load_state_dict(state["precision"])

    def _gradients(self, batch: Any) -> dict[str, float]:
        self.optimiser.zero_grad()
        measured = self.backward(batch)
        measured["gradient_norm"] = self._gradient_norm()
        # One transfer from the device for all numbers of a step.
        own = torch.stack([value.detach().double() for value in measured.values()])
        together: Any = self.fabric.all_reduce(own, reduce_op="mean")
        found = dict(zip(measured, together.tolist()))
        self._check(found)
        return found

    def _gradient_norm(self) -> Tensor:
        self.fabric.strategy.precision.unscale_gradients(self.optimiser.optimizer)
        gradients = [weight.grad for weight in self.network.parameters() if weight.grad is not None]
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
