"""LARS: gradient descent in which every weight tensor moves by the same share of its length."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step is scaled for each weight tensor by its norm over its gradient's.

    A group with `is_adapted` False has neither this scaling nor weight decay: its weights follow plain SGD with
    momentum. The learning rate enters the velocity, so a change of it acts on steps to come and not on those
    under way; for a constant one that is what torch.optim.SGD does.

    Source:
        You et al. (arXiv 1708.03888), Algorithm 1. A tensor whose norm, or whose gradient's, is 0 is not scaled
        (its rate is 1), as in SimCLR's published code: new weights of 0 would never move. That code divides by
        the norm of gradient plus decay, the paper by the sum of their norms; at a weight decay of 1e-6 these are
        the same to six digits.
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
        """Take the weights.

        Args:
            params: weights or groups of them, such as `lars_groups` gives; a group's own settings go before these.
            lr: learning rate; each group has its own, to be set before every step.
            momentum: what the velocity keeps of itself, in [0, 1).
            weight_decay: share of a weight that is added to its gradient.
            trust_coefficient: share of its own norm that a tensor moves at learning rate 1.

        Raises:
            ValueError: if a number is out of its range.
        """
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), not {momentum}")
        if min(lr, weight_decay) < 0 or trust_coefficient <= 0:
            raise ValueError(
                "lr and weight_decay must not be negative, and trust_coefficient must be above 0; "
                f"they are {lr}, {weight_decay} and {trust_coefficient}"
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
            closure: computes the loss and the gradients first.

        Returns:
            What the closure gave.
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
    """Gradients with decay, each scaled by the rate of its tensor; no number goes to the host."""
    weight_norms = torch.stack(torch._foreach_norm(weights))
    gradient_norms = torch.stack(torch._foreach_norm(gradients))
    rates = trust_coefficient * weight_norms / (gradient_norms + weight_decay * weight_norms)
    rates = torch.where((weight_norms > 0) & (gradient_norms > 0), rates, 1.0)
    decayed = torch._foreach_add(gradients, weights, alpha=weight_decay)
    torch._foreach_mul_(decayed, list(rates.unbind()))
    return list(decayed)


def lars_groups(network: nn.Module) -> list[dict[str, Any]]:
    """All weights that are trained, in two groups: those that LARS adapts and decays, and those that it leaves out.

    Args:
        network: its biases and the weights of one dimension, those of batch normalisation, are left out; weights
            that need no gradient are in neither group.

    Source:
        SimCLR's published code.
    """
    adapted: list[Tensor] = []
    left_out: list[Tensor] = []
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            is_left_out = weight.ndim <= 1 or name.rpartition(".")[2] == "bias"
            (left_out if is_left_out else adapted).append(weight)
    return [{"params": adapted, "is_adapted": True}, {"params": left_out, "is_adapted": False}]
