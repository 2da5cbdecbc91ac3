"""LARS: gradient descent in which every weight tensor moves by the same fraction of its norm."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class LARS(torch.optim.Optimizer):
    """SGD with momentum, with each weight tensor's step scaled by its norm over the norm of its gradient.

    A group with `is_adapted` False has neither this scaling nor weight decay: its weights follow plain SGD with
    momentum. The learning rate multiplies the gradient before it enters the velocity. A new rate therefore has no
    effect on the velocity of earlier steps. For a constant rate this equals torch.optim.SGD.

    Source:
        You et al. (arXiv 1708.03888), Algorithm 1. A tensor whose norm, or whose gradient's, is 0 is not scaled
        (its rate is 1), as in SimCLR's published code: weights that start at 0 would never change. That code divides by
        the norm of gradient plus decay, the paper by the sum of their norms; at a weight decay of 1e-6 these agree
        to six digits.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust_coefficient: float = 0.001,
    ) -> None:
        """Create the optimiser.

        Args:
            params: weights, or groups such as `lars_groups` returns; values of a group override the arguments below.
            lr: learning rate of every group, to be set before each step.
            momentum: factor of the velocity at each step, in [0, 1).
            weight_decay: fraction of a weight that is added to its gradient.
            trust_coefficient: fraction of its norm that a tensor moves at learning rate 1.

        Raises:
            ValueError: if an argument is out of its range.
        """
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
        if min(lr, weight_decay) < 0 or trust_coefficient <= 0:
            raise ValueError(
                "lr and weight_decay must not be negative, and trust_coefficient must be above 0; "
                f"got {lr}, {weight_decay} and {trust_coefficient}"
            )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "is_adapted": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every weight that has a gradient.

        Args:
            closure: computes the gradients and returns the loss.

        Returns:
            The loss of the closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            gradients = {weight: weight.grad for weight in group["params"] if weight.grad is not None}
            if gradients:
                self._move(list(gradients), list(gradients.values()), group)
        return loss

    def _move(self, weights: list[Tensor], directions: list[Tensor], group: dict[str, Any]) -> None:
        if group["is_adapted"]:
            directions = _adapted(weights, directions, group["weight_decay"], group["trust_coefficient"])
        velocities = [self._velocity(weight) for weight in weights]
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, directions, alpha=group["lr"])
        torch._foreach_sub_(weights, velocities)

    def _velocity(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(weight)
        return state["velocity"]


def _adapted(
    weights: list[Tensor], gradients: list[Tensor], weight_decay: float, trust_coefficient: float
) -> list[Tensor]:
    """Add the decay to the gradients and scale each by the rate of its tensor, without a transfer to the CPU."""
    weight_norms = torch.stack(torch._foreach_norm(weights))
    gradient_norms = torch.stack(torch._foreach_norm(gradients))
    rates = trust_coefficient * weight_norms / (gradient_norms + weight_decay * weight_norms)
    rates = torch.where((weight_norms > 0) & (gradient_norms > 0), rates, 1.0)
    decayed = torch._foreach_add(gradients, weights, alpha=weight_decay)
    torch._foreach_mul_(decayed, list(rates.unbind()))
    return list(decayed)


def lars_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Split the trained weights into two groups: weights that LARS adapts and decays, and excluded weights.

    Args:
        network: its biases and its weights of one dimension (batch normalisation) are excluded; weights without a
            gradient are in neither group.

    Source:
        SimCLR's published code.
    """
    adapted: list[Tensor] = []
    excluded: list[Tensor] = []
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            is_excluded = weight.ndim <= 1 or name.rpartition(".")[2] == "bias"
            (excluded if is_excluded else adapted).append(weight)
    return [{"params": adapted, "is_adapted": True}, {"params": excluded, "is_adapted": False}]
