"""Files of detections in COCO's results format."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from orl import boxes, files
from orl.evaluation.detection.datasets import DetectionDataset
from orl.evaluation.detection.detections import Detections


def write_detections(path: Path, detections: Detections, images: DetectionDataset) -> None:
    """Write one entry per detection: `image_id`, `category_id`, `bbox` (xywh), `score`, `segmentation` (RLE)."""
    boxes_xywh, masks = boxes.to_xywh(detections.boxes), detections.masks
    entries: list[dict[str, Any]] = []
    for number, (image_id, label) in enumerate(zip(detections.image_ids.tolist(), detections.classes.tolist())):
        entry = {
            "image_id": image_id,
            "category_id": images.category_ids[label],
            "bbox": [float(side) for side in boxes_xywh[number]],
            "score": float(detections.scores[number]),
        }
        entries.append(entry if masks is None else entry | {"segmentation": _as_text(masks[number])})
    files.write_atomically(path, json.dumps(entries))


def read_detections(path: Path, images: DetectionDataset) -> Detections:
    """Read a file that `write_detections` wrote.

    Raises:
        ValueError: if the file is not a list of detections of these classes.
    """
    labels = {category_id: label for label, category_id in enumerate(images.category_ids)}
    try:
        entries = json.loads(path.read_text())
        has_masks = bool(entries) and "segmentation" in entries[0]
        return Detections(
            image_ids=np.array([entry["image_id"] for entry in entries], dtype=np.int64),
            boxes=boxes.from_xywh(np.array([entry["bbox"] for entry in entries], dtype=np.float32).reshape(-1, 4)),
            classes=np.array([labels[entry["category_id"]] for entry in entries], dtype=np.int64),
            scores=np.array([entry["score"] for entry in entries], dtype=np.float32),
            masks=tuple(_as_rle(entry["segmentation"]) for entry in entries) if has_masks else None,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a list of detections in these images ({error}); delete it") from error


def _as_text(rle: dict[str, Any]) -> dict[str, Any]:
    counts = rle["counts"]
    return {
        "size": [int(side) for side in rle["size"]],
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }


def _as_rle(entry: dict[str, Any]) -> dict[str, Any]:
    return {"size": entry["size"], "counts": entry["counts"].encode()}
