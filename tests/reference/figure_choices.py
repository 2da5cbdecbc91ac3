"""The choice of extreme pairs of images, as loops over the complete table."""


def extreme_pairs(rows: list[tuple[int, int, float]], num_pairs: int, sign: int) -> list[tuple[int, int]]:
    best: dict[tuple[int, int], float] = {}
    for image_id, neighbour_id, similarity in rows:
        pair = (image_id, neighbour_id)
        best[pair] = max(similarity, best.get(pair, similarity))
    # Python's sort is stable and dicts keep their order: among equals the first in the table.
    ranked = sorted(best, key=lambda pair: -sign * best[pair])
    chosen: list[tuple[int, int]] = []
    for image_id, neighbour_id in ranked:
        is_new = all(image_id != other and {image_id, neighbour_id} != {other, there} for other, there in chosen)
        if is_new and len(chosen) < num_pairs:
            chosen.append((image_id, neighbour_id))
    return chosen
