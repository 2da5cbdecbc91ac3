"""Synthetic published files as plain dictionaries, read by loops."""

import numpy as np

Box = list[float]


def made_up(
    names: list[str], generator: np.random.Generator, num_neighbours: int = 3, size_wh: tuple[int, int] = (640, 480)
) -> dict[str, dict]:
    """Create a proposal, a neighbour and a correspondence file of these images, in integer pixels."""
    proposals = [distinct_boxes(int(generator.integers(6, 12)), size_wh, generator) for _ in names]
    rois = [boxes[: int(generator.integers(2, 6))] for boxes in proposals]
    neighbours = [
        generator.choice([j for j in range(len(names)) if j != i], num_neighbours, replace=False).tolist()
        for i in range(len(names))
    ]
    pairs = [
        [
            [rois[i][generator.integers(len(rois[i]))] + rois[j][generator.integers(len(rois[j]))] for _ in range(2)]
            for j in neighbours[i]
        ]
        for i in range(len(names))
    ]
    ids = generator.permutation(1000)[: len(names)].tolist()
    images = {"file_name": names, "id": ids}
    info = {"bbox_min_size": 96, "bbox_max_aspect_ratio": 3, "bbox_max_iou": 0.5, "intra_bbox_num": 100}
    info |= {"knn_image_num": num_neighbours, "knn_bbox_pair_ratio": 0.1}
    return {
        "proposals": {"bbox": proposals},
        "neighbours": {
            "info": {"knn_image_num": num_neighbours},
            "images": images,
            "pseudo_annotations": {"image_id": ids, "knn_image_id": neighbours},
        },
        "correspondences": {
            "info": info,
            "images": images,
            "pseudo_annotations": {"image_id": ids, "bbox": rois, "knn_image_id": neighbours, "knn_bbox_pair": pairs},
        },
    }


def distinct_boxes(number: int, size_wh: tuple[int, int], generator: np.random.Generator) -> list[Box]:
    boxes: list[Box] = []
    while len(boxes) < number:
        x, y = (int(generator.integers(0, side // 2)) for side in size_wh)
        w, h = (int(generator.integers(1, side // 2)) for side in size_wh)
        if [x, y, w, h] not in boxes:
            boxes.append([x, y, w, h])
    return boxes


def xyxy(box: Box) -> Box:
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def pairs_by_name(document: dict) -> dict[str, list[tuple[str, Box, Box]]]:
    """Map the name of each image to its pairs in order: name of the neighbour, box here, box there."""
    names, found = document["images"]["file_name"], document["pseudo_annotations"]
    return {
        name: [
            (names[j], xyxy(pair[:4]), xyxy(pair[4:]))
            for j, pairs in zip(found["knn_image_id"][i], found["knn_bbox_pair"][i])
            for pair in pairs
        ]
        for i, name in enumerate(names)
    }
