"""Sinkhorn's scaling and Self-EMD's loss as loops over places, without logarithms."""

import math

Rows = list[list[float]]


def sinkhorn_by_loops(
    cost: Rows, row_weights: list[float], column_weights: list[float], regularisation: float, num_iterations: int
) -> Rows:
    """diag(u) exp(-cost / regularisation) diag(v); u makes the rows right, then v the columns, and so on."""
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


def cross_reference_weights_by_loops(places: Rows, other_places: Rows) -> list[float]:
    """max(x . mean(y), 0) for each place x of a grid and all places y of the other, over their sum."""
    mean = [sum(place[k] for place in other_places) / len(other_places) for k in range(len(other_places[0]))]
    common = []
    for place in places:
        common.append(max(sum(a * b for a, b in zip(place, mean, strict=True)), 0.0))
    if sum(common) == 0:
        return [1 / len(places)] * len(places)
    return [value / sum(common) for value in common]


def cosine_costs_by_loops(places: Rows, other_places: Rows) -> Rows:
    """1 - cos of every place and every other; 1 where there is no angle, since one of them is 0."""
    costs = []
    for one in places:
        row = []
        for other in other_places:
            product = sum(a * b for a, b in zip(one, other, strict=True))
            lengths = math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in other))
            row.append(1 - product / lengths if lengths else 1.0)
        costs.append(row)
    return costs


def emd_loss_by_loops(
    predictions: list[Rows], targets: list[Rows], regularisation: float, num_iterations: int
) -> float:
    """Mean over images of 2 sum_ij plan_ij (1 - cos_ij); each image is the list of its places."""
    total = 0.0
    for places, other_places in zip(predictions, targets, strict=True):
        cost = cosine_costs_by_loops(places, other_places)
        rows = cross_reference_weights_by_loops(places, other_places)
        columns = cross_reference_weights_by_loops(other_places, places)
        plan = sinkhorn_by_loops(cost, rows, columns, regularisation, num_iterations)
        total += 2 * moved_cost_by_loops(plan, cost)
    return total / len(predictions)


def moved_cost_by_loops(plan: Rows, cost: Rows) -> float:
    """sum_ij plan_ij cost_ij."""
    return sum(plan[i][j] * cost[i][j] for i in range(len(plan)) for j in range(len(plan[0])))
