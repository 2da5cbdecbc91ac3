"""Boxes by loops over pixels and pairs, from the definitions."""

import math

import numpy as np


def iou_by_pixels(box: list[int], other: list[int], side: int = 64) -> float:
    """Compute the IoU of two boxes with integer edges by painting their pixels."""
    canvas = np.zeros((2, side, side), dtype=bool)
    for layer, (left, top, right, bottom) in enumerate((box, other)):
        for y in range(top, bottom):
            for x in range(left, right):
                canvas[layer, y, x] = True
    union = (canvas[0] | canvas[1]).sum()
    return float((canvas[0] & canvas[1]).sum() / union) if union else 0.0


def iou_of_two(box: np.ndarray, other: np.ndarray) -> float:
    """Compute the IoU of two boxes by arithmetic."""
    width = max(0.0, float(min(box[2], other[2])) - float(max(box[0], other[0])))
    height = max(0.0, float(min(box[3], other[3])) - float(max(box[1], other[1])))
    areas = [float(b[2] - b[0]) * float(b[3] - b[1]) for b in (box, other)]
    union = sum(areas) - width * height
    return width * height / union if union > 0 else 0.0


def filter_by_loops(
    proposals: np.ndarray, size_wh: tuple[int, int], min_side: float, max_aspect_ratio: float, max_iou: float, most: int
) -> np.ndarray:
    """Filter proposals as the paper describes: one after the other, each compared with every kept one."""
    if len(proposals) == 0:
        return np.array([[0, 0, size_wh[0], size_wh[1]]], dtype=np.float32)
    kept: list[np.ndarray] = []
    for box in proposals:
        width, height = box[2] - box[0], box[3] - box[1]
        if width < min_side or height < min_side:
            continue
        if max(width / height, height / width) > max_aspect_ratio:
            continue
        if any(iou_of_two(box, other) > max_iou for other in kept):
            continue
        kept.append(box)
        if len(kept) == most:
            break
    return np.stack(kept) if kept else proposals[:1]


def jittered_copy(
    box: tuple[int, int, int, int], size_wh: tuple[int, int], generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """The published code's jitter of a box (left, top, width, height), `aug_bbox`: integers before the tests."""
    left, top, width, height = box
    for _ in range(200):
        area = width * height * generator.uniform(0.5, 2)
        ratio = math.exp(generator.uniform(math.log(0.5), math.log(2)))
        new_width, new_height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        centre_x = left + width / 2 + width * generator.uniform(-0.5, 0.5)
        centre_y = top + height / 2 + height * generator.uniform(-0.5, 0.5)
        new_left, new_top = round(centre_x - new_width / 2), round(centre_y - new_height / 2)
        if min(new_left, new_top) < 0 or new_left + new_width > size_wh[0] or new_top + new_height > size_wh[1]:
            continue
        common_width = min(left + width, new_left + new_width) - max(left, new_left)
        common_height = min(top + height, new_top + new_height) - max(top, new_top)
        common = max(common_width, 0) * max(common_height, 0)
        if common / (width * height + new_width * new_height - common) > 0.5:
            return new_left, new_top, new_width, new_height
    return box
