"""Neighbours and matching by sorting every pair."""

import numpy as np


def neighbours_by_loops(
    embeddings: np.ndarray, num_neighbours: int, max_similarity: float = np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """Find the K most similar other rows, near-duplicates last; of two equal ones the lower row first."""
    ids, values = [], []
    for query in range(len(embeddings)):
        others = []
        for j in range(len(embeddings)):
            value = float(np.float32(sum(a * b for a, b in zip(embeddings[query].tolist(), embeddings[j].tolist()))))
            if j != query:
                others.append((value > max_similarity, -value, j))
        best = sorted(others)[:num_neighbours]
        ids.append([j for _, _, j in best])
        values.append([-value for _, value, _ in best])
    return np.array(ids), np.array(values)


def match_by_loops(own: np.ndarray, other: np.ndarray, fraction: float) -> list[tuple[int, int]]:
    """Return the highest max(1, floor(top_fraction x B)) entries of the matrix of cosines."""
    entries = []
    for i in range(len(own)):
        for j in range(len(other)):
            entries.append((-float(own[i] @ other[j]), i, j))
    num_pairs = min(max(1, int(fraction * len(own))), len(entries))
    return [(i, j) for _, i, j in sorted(entries)[:num_pairs]]
