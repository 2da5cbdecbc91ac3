"""One step of training: views in, losses down, the target after."""

from collections.abc import Iterator, Mapping

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from orl.networks.sync_bn import sync_batch_norm
from orl.training.collapse import alignment, feature_std, uniformity
from orl.training.training_step import TrainingStep
from orl.views.augment import augment
from orl.views.colour import ColourParameters
from orl.views.cut import Sample, View


class SSLStep(TrainingStep):
    """A method of self-supervision, its optimiser and the engine that they run on."""

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
        """Put the method on the device.

        Args:
            fabric: launched already.
            method: changed in place. Among several processes batch statistics are of all their images, unless it
                says otherwise.
            optimiser: over the method's parameters.
            seed: of what a method draws at a step.
            accumulation_steps: parts of a batch that pass the network one after the other, each with its own batch
                statistics; their gradients are averaged.
            compile: compile the forward and backward pass at the first step.
        """
        if fabric.world_size > 1 and method.shares_batch_statistics:
            method = sync_batch_norm(method, fabric.device)
        super().__init__(fabric, method.train(), optimiser, seed=seed, compile=compile)
        self.method, self.accumulation_steps = self.network, accumulation_steps

    def backward(self, batch: Sample) -> dict[str, Tensor]:
        """Add the gradients of all parts of a batch.

        Args:
            batch: the views, as this process's workers cut them.

        Returns:
            The loss, its terms and how the features lie, as means over the parts.
        """
        parts = [self._backward(part, is_last) for part, is_last in self._parts(batch)]
        return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}

    def finish_step(self, at: Mapping[str, float]) -> None:
        """Let the target follow, keeping `ema_momentum` of itself."""
        self.method.update_target(at["ema_momentum"])

    def _backward(self, part: Sample, is_last: bool) -> dict[str, Tensor]:
        device = self.fabric.device
        views = {name: augment(crops, colours, device) for name, (crops, colours) in part.items()}
        with self.fabric.no_backward_sync(self.model, enabled=not is_last):
            terms, projections = self.model(views)
            loss = torch.stack(list(terms.values())).sum()
            self.fabric.backward(loss / self.accumulation_steps)
        with torch.no_grad():
            lie = {
                "spread": feature_std(projections[0]),
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
