"""LARS as loops over steps and numbers."""

import math


def lars_by_loops(
    weights: list[float],
    gradients: list[list[float]],
    learning_rates: list[float],
    *,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float,
) -> list[float]:
    """Return one tensor's numbers after a step for each gradient (You et al., Algorithm 1)."""
    weights, velocity = list(weights), [0.0] * len(weights)
    for gradient, lr in zip(gradients, learning_rates, strict=True):
        weight_norm = math.sqrt(sum(w * w for w in weights))
        gradient_norm = math.sqrt(sum(g * g for g in gradient))
        rate = 1.0
        if weight_norm > 0 and gradient_norm > 0:
            rate = trust_coefficient * weight_norm / (gradient_norm + weight_decay * weight_norm)
        for k, g in enumerate(gradient):
            velocity[k] = momentum * velocity[k] + lr * rate * (g + weight_decay * weights[k])
            weights[k] -= velocity[k]
    return weights
