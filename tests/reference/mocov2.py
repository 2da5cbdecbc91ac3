"""MoCo's equation, queue and groups as loops."""

import math


def unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector]


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def queue_loss_by_loops(
    queries: list[list[float]], keys: list[list[float]], queue: list[list[float]], temperature: float
) -> float:
    """Compute the mean over queries of -log(exp(q k / t) / (exp(q k / t) + sum over negatives of exp(q n / t)))."""
    total = 0.0
    for query, key in zip(queries, keys, strict=True):
        positive = math.exp(dot(unit(query), unit(key)) / temperature)
        negative = 0.0
        for row in queue:
            negative += math.exp(dot(unit(query), row) / temperature)
        total -= math.log(positive / (positive + negative))
    return total / len(queries)


def queue_after(queue: list[list[float]], batches: list[list[list[float]]]) -> list[list[float]]:
    """Return the queue after these batches, in which each key replaces the oldest."""
    result = [list(row) for row in queue]
    position = 0
    for batch in batches:
        for key in batch:
            result[position] = unit(key)
            position = position + 1 if position + 1 < len(result) else 0
    return result


def normalised_in_groups(values: list[float], num_groups: int, eps: float) -> list[float]:
    """Normalise one channel in groups; image i is in group i % num_groups."""
    result = list(values)
    for group in range(num_groups):
        members = [i for i in range(len(values)) if i % num_groups == group]
        mean = sum(values[i] for i in members) / len(members)
        variance = sum((values[i] - mean) ** 2 for i in members) / len(members)
        for i in members:
            result[i] = (values[i] - mean) / math.sqrt(variance + eps)
    return result
