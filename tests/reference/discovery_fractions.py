"""Objects that pairs of boxes cover, one pair and one object at a time."""

from collections.abc import Sequence

Box = Sequence[float]


def overlap(first: Box, second: Box) -> float:
    """Compute the IoU of two `xyxy` boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def covered_class(roi: Box, objects: Sequence[tuple[Box, int]], threshold: float) -> int | None:
    """Return the class of the object with the highest IoU, if the IoU reaches the threshold."""
    best, found = 0.0, None
    for box, class_index in objects:
        if overlap(roi, box) > best:
            best, found = overlap(roi, box), class_index
    return found if best >= threshold else None


def count_pairs(
    pairs: Sequence[tuple[int, Box, int, Box]], objects: Sequence[Sequence[tuple[Box, int]]], threshold: float
) -> tuple[int, int, int]:
    """Count all pairs, pairs of two objects and pairs of one class; a pair is (image, box, neighbour, box)."""
    num_objects = num_same = 0
    for image, box, neighbour, neighbour_box in pairs:
        first = covered_class(box, objects[image], threshold)
        second = covered_class(neighbour_box, objects[neighbour], threshold)
        if first is not None and second is not None:
            num_objects += 1
            num_same += first == second
    return len(pairs), num_objects, num_same


def top_pairs(rows: Sequence[tuple[int, int, float]]) -> list[int]:
    """Return the row of highest similarity for every two images; a row is (image, neighbour, similarity)."""
    best: dict[tuple[int, int], int] = {}
    for row, (image, neighbour, similarity) in enumerate(rows):
        if (image, neighbour) not in best or similarity > rows[best[image, neighbour]][2]:
            best[image, neighbour] = row
    return [best[key] for key in sorted(best)]


def expected_pair(
    boxes: Sequence[Box],
    classes: Sequence[int | None],
    other_boxes: Sequence[Box],
    other_classes: Sequence[int | None],
    pair: tuple[int, int],
) -> tuple[float, float]:
    """Average over all pairs of boxes of about the sizes of one pair: two objects, and two objects of one class."""

    def area(box: Box) -> float:
        return (box[2] - box[0]) * (box[3] - box[1])

    objects = same = count = 0
    for i in range(len(boxes)):
        for j in range(len(other_boxes)):
            ratios = area(boxes[i]) / area(boxes[pair[0]]), area(other_boxes[j]) / area(other_boxes[pair[1]])
            if all(0.5 <= ratio <= 2 for ratio in ratios):
                count += 1
                if classes[i] is not None and other_classes[j] is not None:
                    objects += 1
                    same += classes[i] == other_classes[j]
    return objects / count, same / count
