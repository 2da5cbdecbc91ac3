"""Sinkhorn's scaling and Self-EMD's loss as loops over positions, without logarithms."""

import math

Rows = list[list[float]]


def sinkhorn_by_loops(
    cost: Rows, row_weights: list[float], column_weights: list[float], regularisation: float, num_iterations: int
) -> Rows:
    """Compute diag(u) exp(-cost / regularisation) diag(v); u scales the rows, then v the columns, and so on."""
    kernel = [[math.exp(-value / regularisation) for value in row] for row in cost]
    v = [1.0] * len(column_weights)
    for _ in range(num_iterations):
        u = []
        for i, weight in enumerate(row_weights):
            u.append(weight / sum(kernel[i][j] * v[j] for j in range(len(v))))
        v = []
        for j, weight in enumerate(column_weights):
            v.append(weight / sum(kernel[i][j] * u[i] for i in range(len(u))))
    return [[u[i] * kernel[i][j] * v[j] for j in range(len(v))] for i in range(len(u))]


def cross_reference_weights_by_loops(positions: Rows, others: Rows) -> list[float]:
    """Compute max(x . mean(y), 0) for each position x and all positions y of the other map, divided by the sum."""
    mean = [sum(position[k] for position in others) / len(others) for k in range(len(others[0]))]
    common = []
    for position in positions:
        common.append(max(sum(a * b for a, b in zip(position, mean, strict=True)), 0.0))
    if sum(common) == 0:
        return [1 / len(positions)] * len(positions)
    return [value / sum(common) for value in common]


def cosine_costs_by_loops(positions: Rows, others: Rows) -> Rows:
    """Compute 1 - cos of every position and every other; 1 where a vector is 0."""
    costs = []
    for one in positions:
        row = []
        for other in others:
            product = sum(a * b for a, b in zip(one, other, strict=True))
            lengths = math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in other))
            row.append(1 - product / lengths if lengths else 1.0)
        costs.append(row)
    return costs


def emd_loss_by_loops(
    predictions: list[Rows], targets: list[Rows], regularisation: float, num_iterations: int
) -> float:
    """Compute the mean over images of 2 sum_ij plan_ij (1 - cos_ij); an image is the list of its positions."""
    total = 0.0
    for positions, others in zip(predictions, targets, strict=True):
        cost = cosine_costs_by_loops(positions, others)
        rows = cross_reference_weights_by_loops(positions, others)
        columns = cross_reference_weights_by_loops(others, positions)
        plan = sinkhorn_by_loops(cost, rows, columns, regularisation, num_iterations)
        total += 2 * moved_cost_by_loops(plan, cost)
    return total / len(predictions)


def moved_cost_by_loops(plan: Rows, cost: Rows) -> float:
    """Compute sum_ij plan_ij cost_ij."""
    return sum(plan[i][j] * cost[i][j] for i in range(len(plan)) for j in range(len(plan[0])))
