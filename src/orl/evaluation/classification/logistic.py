"""Multinomial logistic regression by L-BFGS on features that are read shard by shard."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from orl.evaluation.classification.accuracy import Accuracy

MAX_LBFGS_ITERATIONS = 100
MAX_EVALUATIONS = 20
"""Evaluations of the loss in one line search; strong Wolfe needs little more than one."""
GRADIENT_TOLERANCE = 1e-5
"""Largest entry of the gradient at convergence; the loss is a mean over images."""

Shard = tuple[Float[Tensor, "n d"], Int[Tensor, "n"]]
"""Features and labels of some images."""
Shards = Callable[[], Iterable[Shard]]
"""Function that reads all shards from the start."""


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of each feature."""

    mean: Float[Tensor, "d"]
    std: Float[Tensor, "d"]

    def standardise(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return (features - self.mean) / self.std


@dataclass(frozen=True, kw_only=True)
class LogisticFit:
    """A linear classifier of standardised features."""

    weight: Float[Tensor, "c d"]
    bias: Float[Tensor, "c"]
    num_iterations: int
    converged: bool
    """Whether the gradient or the step became small within the limit on iterations."""


def find_moments(shards: Shards, num_positions: int = 1) -> Moments:
    """Compute mean and standard deviation of each channel, as batch normalisation; a constant channel gets a std of 1.

    Args:
        shards: reader of the features.
        num_positions: number of values of a channel in a row of features, one after another.

    Raises:
        ValueError: if there are no images.
    """
    count, total = 0, torch.zeros((), dtype=torch.float64)
    for features, _ in shards():
        count += len(features) * num_positions
        total = total + features.double().unflatten(1, (-1, num_positions)).sum(dim=(0, 2))
    if count == 0:
        raise ValueError("logistic regression needs at least one image, got 0")
    mean, squares = total / count, torch.zeros((), dtype=torch.float64)
    for features, _ in shards():
        centred = features.double().unflatten(1, (-1, num_positions)) - mean[:, None]
        squares = squares + centred.square().sum(dim=(0, 2))
    std = (squares / count).sqrt()
    std = torch.where(std > 1e-7 * mean.abs().clamp(min=1), std, 1.0)
    return Moments(*(each.float().repeat_interleave(num_positions) for each in (mean, std)))


def fit_logistic(
    shards: Shards,
    num_classes: int,
    l2: float,
    *,
    start: LogisticFit | None = None,
    max_iterations: int = MAX_LBFGS_ITERATIONS,
) -> LogisticFit:
    """Minimise the mean cross-entropy + l2 / 2 * |weight|^2, without a penalty on the bias.

    In scikit-learn, C = 1 / (n l2).

    Args:
        shards: standardised features and labels.
        num_classes: outputs of the classifier.
        l2: strength of the penalty.
        start: initial weights, such as the fit of a larger strength; they save iterations.
        max_iterations: limit on iterations; `converged` is false if it is reached.

    Raises:
        ValueError: if l2 is not above 0.
    """
    if not l2 > 0:
        raise ValueError(f"l2 must be above 0, got {l2:g}: without a penalty separable images have no best weights")
    features, _ = next(iter(shards()))
    weight = torch.zeros(num_classes, features.shape[1], device=features.device) if start is None else start.weight
    bias = torch.zeros(num_classes, device=features.device) if start is None else start.bias
    weight, bias = (value.detach().clone().requires_grad_() for value in (weight, bias))
    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iterations,
        max_eval=max_iterations * MAX_EVALUATIONS,
        tolerance_grad=GRADIENT_TOLERANCE,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )
    num_images = sum(len(labels) for _, labels in shards())

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = l2 / 2 * weight.square().sum()
        loss.backward()
        value = loss.detach().double()
        for features, labels in shards():
            mean_part = F.cross_entropy(F.linear(features, weight, bias), labels, reduction="sum") / num_images
            mean_part.backward()
            value += mean_part.detach()
        return value

    optimiser.step(closure)
    num_iterations = int(optimiser.state[weight]["n_iter"])
    return LogisticFit(
        weight=weight.detach(),
        bias=bias.detach(),
        num_iterations=num_iterations,
        converged=num_iterations < max_iterations,
    )


def count_correct(fit: LogisticFit, shards: Shards) -> Accuracy:
    """Count the correct predictions of a classifier on standardised features."""
    counts = Accuracy()
    for features, labels in shards():
        counts += Accuracy.of(F.linear(features, fit.weight, fit.bias), labels)
    return counts
