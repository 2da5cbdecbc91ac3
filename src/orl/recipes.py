"""Whole configurations, by name."""

from collections.abc import Callable
from pathlib import Path

from orl.config import (
    DiscoverConfig,
    NetworkConfig,
    ObjectConfig,
    RunConfig,
    TrainConfig,
    TransferConfig,
    ViewConfig,
)


def coco(images: Path, out: Path) -> RunConfig:
    """The paper's settings: ResNet-50, views of 224 and 96 px, 800 epochs at batch 512 in both training stages.

    Command: `orl run coco --images COCO/annotations/instances_train2017.json --out runs/coco`. Hours: not yet measured;
    made for GPUs of 40 GB or more, and stage 2's selective search takes about 100 processor-hours. Expected: the paper
    reports VOC07 SVM and COCO detection above BYOL; not yet reproduced here.
    """
    return RunConfig(images=images, out=out, recipe="coco", workers=16, precision="bf16-mixed")


def quick(images: Path, out: Path) -> RunConfig:
    """What a laptop can do in about an hour with some thousand small photos: ResNet-18, views of 96 and 48 px.

    Command: `orl run quick --images PHOTOS --out runs/quick`. Hours: about one for 2,250 photos of 160 px on two
    cores with AVX-512 bf16 and --precision bf16-mixed, which is slow on processors without it. Expected: no clear
    gain over random weights in so few steps; see docs/results.md.
    """
    return RunConfig(
        images=images,
        out=out,
        recipe="quick",
        network=NetworkConfig(backbone="resnet18", hidden_features=1024, projection_features=128),
        views=ViewConfig(size_px=96, area_range=(0.2, 1.0), blur_sigma_px=(0.1, 1.0)),
        stage1=_short_training(epochs=20, batch_size=64),
        stage3=_short_training(epochs=20, batch_size=64),
        discover=DiscoverConfig(embed_px=128, roi_embed_px=96, min_side=0.2),
        objects=ObjectConfig(roi_size_px=48),
        transfer=TransferConfig(size_px=128),
    )


def demo(images: Path, out: Path) -> RunConfig:
    """The drawn photos in minutes on two processor cores: ResNet-10, views of 64 and 32 px.

    Command: `orl demo`, or `make demo`.
    """
    return RunConfig(
        images=images,
        out=out,
        recipe="demo",
        network=NetworkConfig(backbone="resnet10", hidden_features=512, projection_features=128),
        views=ViewConfig(size_px=64, area_range=(0.2, 1.0), blur_sigma_px=(0.1, 1.0)),
        stage1=_short_training(epochs=20, batch_size=32),
        stage3=_short_training(epochs=20, batch_size=32),
        discover=DiscoverConfig(embed_px=96, roi_embed_px=64, min_side=0.2, shard_size=64),
        objects=ObjectConfig(roi_size_px=32),
        transfer=TransferConfig(size_px=96),
    )


def _short_training(epochs: int, batch_size: int) -> TrainConfig:
    return TrainConfig(epochs=epochs, batch_size=batch_size, base_lr=0.4, warmup_epochs=2.0, checkpoint_minutes=5.0)


RECIPES: dict[str, Callable[[Path, Path], RunConfig]] = {"coco": coco, "quick": quick, "demo": demo}
DEFAULT_RECIPE = "quick"
