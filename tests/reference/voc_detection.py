"""The devkit's VOCevaldet.m as loops, with Detectron2's strict threshold, independent of the package."""

from collections.abc import Sequence

Box = tuple[float, float, float, float]


def voc_ap(
    objects: dict[int, list[tuple[Box, bool]]],
    found: Sequence[tuple[int, float, Box]],
    min_overlap: float,
    eleven_points: bool,
) -> float:
    """Compute the AP of one class.

    Args:
        objects: of each image: box in the devkit's pixels (from 1, the last included) and whether it is difficult.
        found: image, score and box in the devkit's pixels.
        min_overlap: that an overlap must exceed.
        eleven_points: as in 2007.
    """
    num_positive = sum(not difficult for each in objects.values() for _, difficult in each)
    taken: set[tuple[int, int]] = set()
    right: list[int] = []
    wrong: list[int] = []
    for image, _, box in sorted(found, key=lambda one: -one[1]):
        best, best_number = float("-inf"), -1
        for number, (truth, _) in enumerate(objects[image]):
            width = min(box[2], truth[2]) - max(box[0], truth[0]) + 1
            height = min(box[3], truth[3]) - max(box[1], truth[1]) + 1
            if width > 0 and height > 0:
                union = _area(box) + _area(truth) - width * height
                if width * height / union > best:
                    best, best_number = width * height / union, number
        if best > min_overlap:
            if objects[image][best_number][1]:
                continue
            is_right = (image, best_number) not in taken
            taken.add((image, best_number))
        else:
            is_right = False
        right.append(int(is_right))
        wrong.append(int(not is_right))
    recalls = [sum(right[: end + 1]) / num_positive for end in range(len(right))]
    precisions = [sum(right[: end + 1]) / (end + 1) for end in range(len(right))]
    if eleven_points:
        total = 0.0
        for step in range(11):
            reached = [p for p, r in zip(precisions, recalls) if r >= step * 0.1]
            total += max(reached, default=0.0) / 11
        return total
    area, last = 0.0, 0.0
    for end, recall in enumerate(recalls):
        area += (recall - last) * max(precisions[end:])
        last = recall
    return area


def _area(box: Box) -> float:
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
