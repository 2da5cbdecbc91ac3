"""A network that is trained with labels: a batch in, named losses down."""

from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from orl.training.training_step import TrainingStep

Losses = Callable[[Any, Any], tuple[dict[str, Tensor], dict[str, Tensor]]]
"""From the model and a batch to the terms, whose sum is minimised, and to what is only told."""


class Supervised(TrainingStep):
    """A network, an optimiser and the losses of a batch.

    Among several processes the caller shares batch statistics, by `synchronise_batch_norm` before the optimiser is
    made.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        losses: Losses,
        *,
        seed: int = 0,
    ) -> None:
        """Put the network on the device.

        Args:
            fabric: launched already.
            network: changed in place; in the modes, training or evaluation, that its parts shall have.
            optimiser: over those of its parameters that are trained.
            losses: of a batch, which it moves to the device.
            seed: of what is drawn at a step.
        """
        super().__init__(fabric, network, optimiser, seed=seed)
        self.losses = losses

    def backward(self, batch: Any) -> dict[str, Tensor]:
        """Add the gradients of the sum of the terms; each term is told."""
        terms, told = self.losses(self.model, batch)
        loss = torch.stack(list(terms.values())).sum()
        self.fabric.backward(loss)
        return {"loss": loss, **terms, **told}
