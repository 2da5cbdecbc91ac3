"""Optimal transport: move the weights of some places to others at the least cost, a little blurred."""

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
    """The plan that moves the weights of the rows to the columns: of all such, that of least cost minus its entropy.

    The plan is a constant, without gradient. That is exact for the regularised cost, sum(plan * cost) -
    regularisation * entropy(plan): where a minimum is taken, moving the plan changes nothing to first order, so the
    gradient with respect to the cost is the plan (the envelope theorem).

    Args:
        cost: of moving a unit of weight from a row to a column.
        row_weights: not negative, sum 1; those of a row may be 0.
        column_weights: not negative, sum 1.
        regularisation: weight of the entropy, in units of cost, above 0. Small ones come near to the cheapest plan
            and need more iterations, about the range of the costs over the regularisation.
        num_iterations: how often the plan is scaled to the rows' weights and then to the columns'.

    Returns:
        Not negative, in float32 at least. Its columns sum to their weights, since they are scaled last; its rows
        do when the iterations have converged.

    Raises:
        ValueError: if the regularisation is not above 0, or there are no iterations.

    Source:
        Cuturi (arXiv 1306.0895), Algorithm 1, in logarithms so that no exponential under- or overflows.
    """
    if regularisation <= 0:
        raise ValueError(f"the regularisation must be above 0, not {regularisation}")
    if num_iterations < 1:
        raise ValueError(f"a plan needs one iteration at least, not {num_iterations}")
    scores = -cost.to(torch.promote_types(cost.dtype, torch.float32)) / regularisation
    log_rows, log_columns = row_weights.to(scores.dtype).log(), column_weights.to(scores.dtype).log()
    by_column = torch.zeros_like(log_columns)
    for _ in range(num_iterations):
        by_row = log_rows - torch.logsumexp(scores + by_column[:, None, :], dim=2)
        by_column = log_columns - torch.logsumexp(scores + by_row[:, :, None], dim=1)
    # The sum of three large numbers would lose what the last scaling is exact in; a softmax keeps it.
    return column_weights.to(scores.dtype)[:, None, :] * torch.softmax(scores + by_row[:, :, None], dim=1)
