"""Entropy-regularised optimal transport by Sinkhorn's iterations."""

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def sinkhorn_plan(
    cost: Float[Tensor, "b n m"],
    row_weights: Float[Tensor, "b n"],
    column_weights: Float[Tensor, "b m"],
    *,
    regularisation: float,
    num_iterations: int,
) -> Float[Tensor, "b n m"]:
    """Compute the plan that moves the row weights to the columns at the least cost minus entropy.

    The plan has no gradient. This is exact for the regularised cost, sum(plan * cost) - regularisation * entropy(plan).
    At the minimum a change of the plan has no first-order effect. The gradient with respect to the cost is therefore
    the plan (envelope theorem).

    Args:
        cost: cost of moving a unit of weight from a row to a column.
        row_weights: not negative, with sum 1; a row may have weight 0.
        column_weights: not negative, with sum 1.
        regularisation: weight of the entropy, in units of cost, above 0. Smaller values come nearer to the cheapest
            plan and need more iterations, about the range of the costs divided by the regularisation.
        num_iterations: number of times that the plan is scaled to the row weights and then to the column weights.

    Returns:
        The plan, not negative, in float32 or better. Its columns sum to their weights, since they are scaled last; its
        rows do so when the iterations have converged.

    Raises:
        ValueError: if the regularisation or the number of iterations is not above 0.

    Source:
        Cuturi (arXiv 1306.0895), Algorithm 1, in logarithms so that no exponential under- or overflows.
    """
    if regularisation <= 0:
        raise ValueError(f"the regularisation must be above 0, got {regularisation}")
    if num_iterations < 1:
        raise ValueError(f"a plan needs at least one iteration, got {num_iterations}")
    scores = -cost.to(torch.promote_types(cost.dtype, torch.float32)) / regularisation
    log_rows, log_columns = row_weights.to(scores.dtype).log(), column_weights.to(scores.dtype).log()
    by_column = torch.zeros_like(log_columns)
    for _ in range(num_iterations):
        by_row = log_rows - torch.logsumexp(scores + by_column[:, None, :], dim=2)
        by_column = log_columns - torch.logsumexp(scores + by_row[:, :, None], dim=1)
    # A sum of three large logarithms would round the last scaling; a softmax is exact.
    return column_weights.to(scores.dtype)[:, None, :] * torch.softmax(scores + by_row[:, :, None], dim=1)
