"""DenseCL's correspondence and dense term as loops over images and positions."""

import math

Grid = list[list[list[float]]]
"""`[channel][row][column]` of one image."""


def at_positions(grid: Grid) -> list[list[float]]:
    """Return the vectors over channels, row after row."""
    return [
        [channel[row][column] for channel in grid] for row in range(len(grid[0])) for column in range(len(grid[0][0]))
    ]


def cosine(one: list[float], other: list[float]) -> float:
    dots = sum(a * b for a, b in zip(one, other, strict=True))
    return dots / math.sqrt(sum(a * a for a in one)) / math.sqrt(sum(b * b for b in other))


def most_similar_by_loops(query_maps: list[Grid], key_maps: list[Grid]) -> list[list[int]]:
    """Find, for each position of the query's map, the position of the key's map with the highest cosine."""
    found = []
    for query_map, key_map in zip(query_maps, key_maps, strict=True):
        keys = at_positions(key_map)
        row = []
        for query in at_positions(query_map):
            best = 0
            for position in range(len(keys)):
                if cosine(query, keys[position]) > cosine(query, keys[best]):
                    best = position
            row.append(best)
        found.append(row)
    return found


def dense_loss_by_loops(
    queries: list[Grid],
    keys: list[Grid],
    query_maps: list[Grid],
    key_maps: list[Grid],
    queue: list[list[float]],
    temperature: float,
) -> float:
    """Compute the mean over images and positions of -log of the fraction of the matched dense key."""
    matches = most_similar_by_loops(query_maps, key_maps)
    losses = []
    for image in range(len(queries)):
        dense_keys = at_positions(keys[image])
        for position, query in enumerate(at_positions(queries[image])):
            positive = math.exp(cosine(query, dense_keys[matches[image][position]]) / temperature)
            negatives = [math.exp(cosine(query, negative) / temperature) for negative in queue]
            losses.append(-math.log(positive / (positive + sum(negatives))))
    return sum(losses) / len(losses)


def mean_key(grid: Grid) -> list[float]:
    """Average an image's dense keys over positions and scale the mean to length 1, as the dense queue does."""
    vectors = at_positions(grid)
    mean = [sum(vector[i] for vector in vectors) / len(vectors) for i in range(len(vectors[0]))]
    length = math.sqrt(sum(value * value for value in mean))
    return [value / length for value in mean]
