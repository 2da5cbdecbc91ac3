"""Backbones and runs to export, and the code of the cards beside the exports."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from orl.datasets.decode import load_image
from orl.datasets.image_table import ImageTable, save_image_table
from orl.evaluation.evaluated_backbone import RANDOM, load_evaluated_backbone
from orl.networks.backbones import Backbone, build_backbone, save_backbone
from orl.rundir import RunDir
from orl.synthetic.scenes import draw_scene
from orl.views.augment import normalise


def random_backbone(name: str, seed: int = 0) -> Backbone:
    """Build a backbone with random weights and random batch statistics: none of them is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build_backbone(name)
    for part in backbone.modules():
        if isinstance(part, nn.BatchNorm2d):
            draws = torch.rand(4, part.num_features, generator=generator)
            part.weight.data, part.bias.data = 0.3 + 0.4 * draws[0], 0.2 * draws[1] - 0.1
            part.running_mean, part.running_var = 0.2 * draws[2] - 0.1, 0.5 + draws[3]
            part.num_batches_tracked = torch.tensor(7)
    return backbone.eval()


def synthetic_images(count: int = 2, size_wh: tuple[int, int] = (96, 64)) -> Tensor:
    """Return synthetic scenes, normalised."""
    scenes = [draw_scene(0, index, size_wh).image for index in range(count)]
    return normalise(torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2))


def real_images(folder: Path, count: int = 3) -> list[Tensor]:
    """Return real images of various sizes, reduced to a quarter."""
    paths = sorted((folder / "voc07-small").rglob("*.jpg"))[:count]
    images = [torch.from_numpy(load_image(path)[::4, ::4].copy()).permute(2, 0, 1) for path in paths]
    assert len(images) == count
    return [normalise(image[None]) for image in images]


def write_backbone(folder: Path, name: str = "resnet10", seed: int = 0) -> Path:
    path = folder / "backbone.safetensors"
    save_backbone(random_backbone(name, seed), path)
    return path


def write_run(root: Path, stages: tuple[str, ...] = ("stage1", "stage3"), name: str = "resnet10") -> RunDir:
    """A finished run with its records; stage 1 has other weights than stage 3."""
    run = RunDir(root)
    for seed, stage in enumerate(stages):
        save_backbone(random_backbone(name, seed), run.backbone(stage), {"stage": stage, "epochs": "5"})
    config = {
        "images": "/home/somebody/images",
        "recipe": "quick",
        "seed": 3,
        "init_from": None,
        "method": {"name": "mocov2"},
        "stage1": {"epochs": 5, "batch_size": 64},
        "stage3": {"epochs": 6, "batch_size": 32},
    }
    run.config.write_text(yaml.safe_dump(config))
    record = {
        "recipe": "quick",
        "seed": 3,
        "device": "cpu",
        "command": "orl run --images /home/somebody/images",
        "orl": "0.1.0",
        "git": "0123abcd",
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
    }
    run.record.write_text(json.dumps(record))
    images = tuple(f"{index}.jpg" for index in range(1234))
    save_image_table(ImageTable(root=root, names=images, sizes_wh=((8, 8),) * 1234, digests=("d",) * 1234), run.images)
    scores = {"random": 0.1512, "stage1": 0.2034, "stage3": 0.2291}
    for label in ("random", *stages):
        backbone = load_evaluated_backbone(run.backbone(label) if label != "random" else RANDOM, name)
        write_score(run, "svm", label, scores[label], backbone.digest)
    return run


def write_score(run: RunDir, evaluation: str, label: str, mean_ap: float, digest: str) -> None:
    result = {"mean_ap": mean_ap, "data": "/home/somebody/VOC2007", "test_split": "test"}
    path = run.evaluation(evaluation, label)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result | {"inputs": {"backbone": digest}}))


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_card(card: Path, names: dict[str, Any]) -> dict[str, Any]:
    """Run the Python lines of a card in its folder and return the variables they set."""
    code = re.search(r"```python\n(.*?)\n```", card.read_text(), re.DOTALL)
    assert code is not None
    with inside(card.parent):
        exec(compile(code[1], str(card), "exec"), names)
    return names
