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


def hubness_by_loops(
    vectors: np.ndarray, image_ids: np.ndarray, bank_rows: np.ndarray, num_nearest: int
) -> list[float]:
    """Average the highest cosines of each row with the rows of the bank that are of other images."""
    found = []
    for row in range(len(vectors)):
        others = [float(vectors[row] @ vectors[j]) for j in bank_rows if image_ids[j] != image_ids[row]]
        found.append(sum(sorted(others)[-num_nearest:]) / num_nearest)
    return found


def pairs_by_loops(scores: np.ndarray, fraction: float, mutual: bool) -> list[tuple[int, int]]:
    """Return the highest entries of a matrix; for `mutual` only those that are the first best of row and column."""
    entries = []
    for i in range(scores.shape[0]):
        for j in range(scores.shape[1]):
            best_of_row = min(k for k in range(scores.shape[1]) if scores[i, k] == scores[i].max())
            best_of_column = min(k for k in range(scores.shape[0]) if scores[k, j] == scores[:, j].max())
            if not mutual or (best_of_row == j and best_of_column == i):
                entries.append((-float(scores[i, j]), i, j))
    num_pairs = max(1, int(fraction * len(scores)))
    return [(i, j) for _, i, j in sorted(entries)[:num_pairs]]
