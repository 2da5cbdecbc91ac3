"""The training step of a network that learns from labels."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from orl.training.training_step import TrainingStep

LossFunction = Callable[[Any, Any], tuple[dict[str, Tensor], dict[str, Tensor]]]
"""Model and batch -> the loss terms, whose sum is minimised, and further metrics."""


class SupervisedStep(TrainingStep):
    """A network, its optimiser and the losses of a batch.

    With several processes the caller synchronises batch normalisation (`sync_batch_norm`) before it makes the
    optimiser.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        losses: LossFunction,
        *,
        seed: int = 0,
    ) -> None:
        """Move the network to the device.

        Args:
            fabric: a launched Fabric.
            network: trained in place; its parts keep their modes, training or evaluation.
            optimiser: over the weights that are trained.
            losses: the loss function; it also moves the batch to the device.
            seed: seed of the random numbers that are sampled within a step.
        """
        super().__init__(fabric, network, optimiser, seed=seed)
        self.losses = losses

    def backward(self, batch: Any) -> dict[str, Tensor]:
        """Add the gradients of the summed loss terms; return the loss, its terms and the further metrics."""
        terms, metrics = self.losses(self.model, batch)
        loss = torch.stack(list(terms.values())).sum()
        self.fabric.backward(loss)
        return {"loss": loss, **terms, **metrics}

    def finish(self, schedule: Mapping[str, float]) -> None:
        """Do nothing: there is no target network."""
