"""A small finished run for tests: random images, tables, untrained backbones and results, written by hand."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from orl import tables
from orl.datasets.image_table import ImageTable, save_image_table
from orl.networks.backbones import build_backbone, save_backbone
from orl.rundir import RunDir

NUM_IMAGES, NUM_NEIGHBOURS, ROIS_PER_IMAGE = 6, 3, 2
WIDTH, HEIGHT = 96, 64
EVIL_NAME = "it's <script>alert(1)&\">.png"


def write_run(folder: Path) -> RunDir:
    """Write a run of which every part is there, and its images beside it."""
    run = RunDir(folder / "runs" / "fake")
    write_images(run, folder / "images")
    write_tables(run)
    write_stages(run)
    write_results(run)
    return run


def write_images(run: RunDir, root: Path) -> None:
    root.mkdir()
    generator = np.random.default_rng(0)
    names = [EVIL_NAME, *(f"image_{index}.png" for index in range(1, NUM_IMAGES))]
    for name in names:
        noise = generator.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
        Image.fromarray(noise.repeat(8, axis=0).repeat(8, axis=1)).save(root / name)
    table = ImageTable(
        root=root,
        names=tuple(names),
        sizes_wh=((WIDTH, HEIGHT),) * NUM_IMAGES,
        digests=tuple(f"{index:x}" for index in range(NUM_IMAGES)),
    )
    save_image_table(table, run.images)
    run.rejected.write_text("name,reason\na.jpg,too small: 3x4 px\nb.jpg,too small: 9x9 px\nc.txt,not an image: <b>\n")


def write_tables(run: RunDir) -> None:
    images = np.arange(NUM_IMAGES, dtype=np.int32)
    write_pair_tables(run, images, np.stack([np.delete(images, index)[:NUM_NEIGHBOURS] for index in images]))


def write_pair_tables(run: RunDir, images: np.ndarray, neighbour_ids: np.ndarray) -> None:
    """Write two RoIs per image, and one correspondence a neighbour: from the first RoI to its second."""
    num_neighbours = neighbour_ids.shape[1]
    similarities = np.tile(np.linspace(0.9, 0.7, num_neighbours, dtype=np.float32), (len(images), 1))
    write_table(run, "neighbours", {"neighbour_ids": neighbour_ids, "similarities": similarities})
    box = np.array([[8, 8, 40, 40], [30, 10, 90, 60]], dtype=np.float32)
    rois = {"image_id": images.repeat(ROIS_PER_IMAGE), "box": np.tile(box, (len(images), 1))}
    write_table(run, "rois", rois)
    write_table(run, "proposals", rois)
    image_ids = images.repeat(num_neighbours)
    flat = neighbour_ids.reshape(-1)
    correspondences = {
        "image_id": image_ids,
        "neighbour_id": flat,
        "roi": image_ids.astype(np.int64) * ROIS_PER_IMAGE,
        "neighbour_roi": flat.astype(np.int64) * ROIS_PER_IMAGE + 1,
        "similarity": np.linspace(0.95, 0.5, len(flat), dtype=np.float32),
    }
    write_table(run, "correspondences", correspondences)


def write_table(run: RunDir, name: str, columns: dict[str, np.ndarray]) -> None:
    tables.begin(run.table(name), {"made": "by hand"}, num_shards=1)
    tables.write_shard(run.table(name), 0, columns)


def write_large_run(run: RunDir, root: Path, num_images: int) -> None:
    """Replace images and tables: three megapixels of noise an image, the next two images as its neighbours."""
    root.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (375, 500, 3), dtype=np.uint8)
    Image.fromarray(noise.repeat(4, axis=0).repeat(4, axis=1)).save(root / "0.jpg", quality=90)
    names = tuple(f"{index}.jpg" for index in range(num_images))
    for name in names[1:]:
        (root / name).hardlink_to(root / "0.jpg")
    digests = tuple(f"{index:x}" for index in range(num_images))
    save_image_table(
        ImageTable(root=root, names=names, sizes_wh=((2000, 1500),) * num_images, digests=digests), run.images
    )
    images = np.arange(num_images, dtype=np.int32)
    write_pair_tables(run, images, np.stack([(images + 1) % num_images, (images + 2) % num_images], axis=1))


def write_stages(run: RunDir) -> None:
    for seed, stage in enumerate(("stage1", "stage3")):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            save_backbone(build_backbone("resnet10").eval(), run.backbone(stage))
        terms = ("global",) if stage == "stage1" else ("global", "intra", "inter")
        lines = [
            json.dumps(
                {
                    "step": step,
                    "epoch": step / 10,
                    "loss": len(terms) * (1 / step + 1),
                    **{f"loss_{term}": 1 / step + 1 for term in terms},
                    "lr": 0.1,
                    "feature_std": 0.75,
                }
            )
            for step in range(1, 31)
        ]
        run.metrics(stage).write_text("\n".join(lines) + '\n{"step": 31, "epo')


def write_results(run: RunDir) -> None:
    record = {
        "orl": "0.1.0",
        "command": "orl run --images '<images>' --out runs/fake",
        "recipe": "demo",
        "seed": 7,
        "git": None,
        "device": "cpu",
        "machine": "2 cores",
        "versions": {"torch": "2.9", "numpy": "2.1"},
        "stages": {
            "scan": {"state": "done", "elapsed_s": 3.2},
            "stage1": {"state": "done", "elapsed_s": 192.0},
            "discover": {"state": "done", "elapsed_s": 61.0},
            "stage3": {"state": "done", "elapsed_s": 3723.0},
        },
    }
    write_json(run.record, record)
    score = {
        "num_pairs": 1234,
        "object_fraction": 0.4321,
        "same_class_fraction": 0.3456,
        "object_fraction_interval_95": [0.4012, 0.4721],
        "random_num_pairs": 1234,
        "random_object_fraction": 0.1111,
        "random_same_class_fraction": 0.0789,
    }
    write_json(run.discovery_score, score)
    scores = {"random": 0.1234, "stage1": 0.2345, "stage3": 0.2567}
    for label, mean_ap in scores.items():
        per_class = {"cat": mean_ap + 0.1, "<dog>": mean_ap - 0.1}
        for task, change in {"svm": 0.0, "knn": -0.05}.items():
            result = {"task": task, "k": 20, "backbone": label, "mean_ap": mean_ap + change, "per_class_ap": per_class}
            write_json(run.evaluation(task, label), result)


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
