"""SimCLR's equation as loops over images and dimensions."""

import math

Rows = list[list[float]]


def nt_xent_by_loops(projections_1: Rows, projections_2: Rows, temperature: float) -> float:
    """Compute the mean over all views i of -log exp(s_ij / t) / sum over k != i of exp(s_ik / t), j the other view."""
    rows = projections_1 + projections_2
    num_images = len(projections_1)
    total = 0.0
    for i, row in enumerate(rows):
        j = (i + num_images) % len(rows)
        others = sum(math.exp(_cosine(row, rows[k]) / temperature) for k in range(len(rows)) if k != i)
        total -= math.log(math.exp(_cosine(row, rows[j]) / temperature) / others)
    return total / len(rows)


def _cosine(one: list[float], other: list[float]) -> float:
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / math.sqrt(sum(a * a for a in one)) / math.sqrt(sum(b * b for b in other))
