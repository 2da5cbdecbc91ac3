"""A training of seconds: eight small images, ResNet-10, six steps."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image

from orl.datasets.image_table import ImageTable
from orl.methods.byol import BYOL
from orl.networks.backbones import build_backbone
from orl.networks.mlp import byol_mlp
from orl.networks.online_target import Encoder
from orl.processes import Processes
from orl.schedules import ema_momentum, warmup_cosine
from orl.training.batches import TrainingBatches, epoch_batches
from orl.training.loader import read_from_files
from orl.training.loop import Schedules, TrainOptions, train
from orl.training.training_step import SSLStep
from orl.views.colour import ColourDistribution
from orl.views.view_dataset import ViewDataset
from orl.views.view_samplers import GlobalViewSampler, ViewDistribution

NUM_IMAGES, BATCH_SIZE, EPOCHS = 8, 4, 3
NUM_STEPS = EPOCHS * NUM_IMAGES // BATCH_SIZE
COLOURS = (ColourDistribution(blur_sigma_px=(0.1, 0.5)), ColourDistribution(solarise_probability=0.5))
RULES = ViewDistribution(size_px=32, area_range=(0.2, 1.0), aspect_ratio_range=(0.75, 1.33), colours=COLOURS)


def small_images(root: Path) -> ImageTable:
    generator = np.random.default_rng(0)
    names = tuple(f"{index}.png" for index in range(NUM_IMAGES))
    for name in names:
        Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(root / name)
    return ImageTable(root=root, names=names, sizes_wh=((48, 40),) * NUM_IMAGES, digests=names)


def view_sampler(images: ImageTable) -> GlobalViewSampler:
    return GlobalViewSampler(images, RULES, seed=0)


def batches(batch_size: int = BATCH_SIZE, **parts: int) -> TrainingBatches:
    return epoch_batches(NUM_IMAGES, batch_size, EPOCHS, seed=0, **parts)


def new_method() -> BYOL:
    torch.manual_seed(0)
    return BYOL(Encoder(build_backbone("resnet10"), byol_mlp(512, 16, 8)), byol_mlp(8, 16, 8))


def new_ssl_step(method: BYOL, fabric: Fabric | None = None, **options: Any) -> SSLStep:
    optimiser = torch.optim.SGD([w for w in method.parameters() if w.requires_grad], lr=0.05, momentum=0.9)
    return SSLStep(fabric or Fabric(accelerator="cpu", devices=1), method, optimiser, **options)


def schedules(lr: float = 0.05) -> Schedules:
    def values_at(step: int) -> dict[str, float]:
        return {"lr": warmup_cosine(step, NUM_STEPS, 2, lr), "ema_momentum": ema_momentum(step, NUM_STEPS, 0.9)}

    return Schedules(values_at=values_at, num_warmup_steps=2)


def options(folder: Path, **others: Any) -> TrainOptions:
    return TrainOptions(**{"folder": folder, "title": "stage1", "workers": 0, "checkpoint_minutes": 60.0, **others})


def run(
    method: BYOL, dataset: ViewDataset, folder: Path, *, lr: float = 0.05, batch_size: int = BATCH_SIZE, **others: Any
) -> BYOL:
    """Train, with the options of the loop that are named."""
    source, data = read_from_files(dataset), batches(batch_size)
    train(new_ssl_step(method), source, data, schedules(lr), options(folder, **others), Processes())
    return method


def equal_weights(one: BYOL, other: BYOL) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
