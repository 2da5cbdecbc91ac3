"""Neighbours and matching by sorting every pair."""

import numpy as np


def neighbours_by_loops(embeddings: np.ndarray, num_neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """The K most similar others of every row; the lower row first where two are alike."""
    ids, values = [], []
    for query in range(len(embeddings)):
        others = [(-float(embeddings[query] @ embeddings[j]), j) for j in range(len(embeddings)) if j != query]
        best = sorted(others)[:num_neighbours]
        ids.append([j for _, j in best])
        values.append([-value for value, _ in best])
    return np.array(ids), np.array(values)


def match_by_loops(own: np.ndarray, other: np.ndarray, share: float) -> list[tuple[int, int]]:
    """The highest max(1, floor(share x B)) entries of the matrix of cosines."""
    entries = []
    for i in range(len(own)):
        for j in range(len(other)):
            entries.append((-float(own[i] @ other[j]), i, j))
    num_pairs = min(max(1, int(share * len(own))), len(entries))
    return [(i, j) for _, i, j in sorted(entries)[:num_pairs]]
