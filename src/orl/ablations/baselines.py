"""Inputs of the baseline variants: labelled boxes as proposals, and a random feature extractor."""

import json
from pathlib import Path

from orl import boxes, files
from orl.config import RunConfig
from orl.datasets.image_table import load_image_table
from orl.datasets.labels import LabelledSplit
from orl.datasets.sources import read_labels
from orl.rundir import RunDir


def labelled_boxes(config: RunConfig) -> Path:
    """Write the labelled objects of the images as a COCO JSON for `discover.proposals_file`, and return its path.

    Args:
        config: config of a run whose images are scanned; the file is written beside its folder.

    Raises:
        ValueError: if the source of the images has no labels.
    """
    labels = read_labels(config.images, config.split)
    if labels is None:
        raise ValueError(f"{config.images} has no labelled boxes; give a VOC devkit or a COCO JSON with annotations")
    path = config.out.parent / "labelled_boxes.json"
    names = load_image_table(RunDir(config.out).images).names
    files.write_atomically(path, json.dumps(_as_coco(labels, names)))
    return path


def random_feature_extractor(config: RunConfig) -> Path:
    """Write the backbone of a run before any training, initialised by its seed, and return its path."""
    import torch

    from orl.networks.backbones import build_backbone, save_backbone

    path = config.out.parent / "random" / "backbone.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        new = build_backbone(config.network.backbone, config.network.initial_weights)
        save_backbone(new, path, {"seed": str(config.seed)})
    return path


def _as_coco(labels: LabelledSplit, names: tuple[str, ...]) -> dict[str, list[dict[str, object]]]:
    found = dict(zip(labels.names, labels.boxes))
    annotations = [
        {"image_id": image_id, "bbox": box}
        for image_id, name in enumerate(names)
        if name in found
        for box in boxes.to_xywh(found[name]).tolist()
    ]
    images = [{"id": image_id, "file_name": name} for image_id, name in enumerate(names)]
    return {"images": images, "annotations": annotations}
