"""Multinomial logistic regression on features that lie in shards: L-BFGS over all of them, a shard at a time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from orl.evaluation.classification.accuracy import Accuracy

MAX_ITERATIONS = 100
MAX_LOOKS = 20
"""Times that one line search may look at all features: strong Wolfe needs little over one."""
TOLERANCE = 1e-5
"""Of the gradient's largest entry; the loss is a mean over images."""

Part = tuple[Float[Tensor, "n d"], Int[Tensor, "n"]]
Parts = Callable[[], Iterable[Part]]
"""Features and labels, a part after the other, from the start at every call."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """What features are standardised by."""

    mean: Float[Tensor, "d"]
    std: Float[Tensor, "d"]

    def standardise(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return (features - self.mean) / self.std


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A linear classifier of standardised features."""

    weight: Float[Tensor, "c d"]
    bias: Float[Tensor, "c"]
    num_iterations: int
    converged: bool
    """Whether the gradient or the steps became small before the iterations ran out."""


def find_moments(parts: Parts) -> Moments:
    """Mean and standard deviation of each feature; one that is the same everywhere is divided by 1.

    Raises:
        ValueError: if there is no image.
    """
    count, total = 0, torch.zeros((), dtype=torch.float64)
    for features, _ in parts():
        count, total = count + len(features), total + features.double().sum(dim=0)
    if count == 0:
        raise ValueError("there are 0 images to learn from")
    mean, squares = total / count, torch.zeros((), dtype=torch.float64)
    for features, _ in parts():
        squares = squares + (features.double() - mean).square().sum(dim=0)
    std = (squares / count).sqrt()
    return Moments(mean=mean.float(), std=torch.where(std > 1e-7 * mean.abs().clamp(min=1), std, 1.0).float())


def fit_logistic(
    parts: Parts, num_classes: int, l2: float, *, start: Fit | None = None, max_iterations: int = MAX_ITERATIONS
) -> Fit:
    """Minimise the mean cross-entropy + l2 / 2 * |weight|^2; the bias is free. In scikit-learn's words, C = 1 / (n l2).

    Args:
        parts: standardised features and labels.
        num_classes: columns of the classifier.
        l2: strength of the penalty.
        start: where to begin, such as at the fit of a greater strength; the result is the same, sooner.
        max_iterations: bound; a fit that meets it says so.

    Raises:
        ValueError: if the strength is not above 0.
    """
    if not l2 > 0:
        raise ValueError(f"l2 is {l2:g}: without a penalty separable images have no best weights; give one above 0")
    features, _ = next(iter(parts()))
    weight = torch.zeros(num_classes, features.shape[1], device=features.device) if start is None else start.weight
    bias = torch.zeros(num_classes, device=features.device) if start is None else start.bias
    weight, bias = (value.detach().clone().requires_grad_() for value in (weight, bias))
    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iterations,
        max_eval=max_iterations * MAX_LOOKS,
        tolerance_grad=TOLERANCE,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )
    num_images = sum(len(labels) for _, labels in parts())

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = l2 / 2 * weight.square().sum()
        loss.backward()
        value = loss.detach().double()
        for part, labels in parts():
            fraction = F.cross_entropy(F.linear(part, weight, bias), labels, reduction="sum") / num_images
            fraction.backward()
            value += fraction.detach()
        return value

    optimiser.step(closure)
    num_iterations = int(optimiser.state[weight]["n_iter"])
    return Fit(
        weight=weight.detach(),
        bias=bias.detach(),
        num_iterations=num_iterations,
        converged=num_iterations < max_iterations,
    )


def score(fit: Fit, parts: Parts) -> Accuracy:
    """Counts of a classifier over standardised features."""
    counts = Accuracy()
    for features, labels in parts():
        counts += Accuracy.of(F.linear(features, fit.weight, fit.bias), labels)
    return counts
