"""Stage 2 embeds the pixels that the published pre-processing gives: the same neighbours and RoI embeddings.

The published one is that of the repository Jiahao000/ORL, with Pillow and torchvision: `Resize(256)`, `CenterCrop(224)`
for images (`stage1/r50_bs512_ep800_extract_feature.py`), `resized_crop` to 224 px for RoIs (`correspondence.py`).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor
from torchvision.transforms import functional as TF

from orl import tables
from orl.config import DiscoverConfig
from orl.datasets.decode import image_size
from orl.datasets.image_table import ImageTable
from orl.networks.backbones import build_backbone, pool
from orl.networks.mlp import byol_mlp
from orl.networks.online_target import Encoder
from orl.pipeline import shards
from orl.synthetic.scenes import draw_scene

CPU = torch.device("cpu")
FORMAT = Compose([ToTensor(), Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
EXTRACT = Compose([Resize(256), CenterCrop(224), FORMAT])


def table_of(paths: Sequence[Path]) -> ImageTable:
    names = tuple(path.name for path in paths)
    return ImageTable(root=paths[0].parent, names=names, sizes_wh=tuple(map(image_size, paths)), digests=names)


def random_encoder(backbone_name: str) -> Encoder:
    torch.manual_seed(0)
    backbone = build_backbone(backbone_name)
    return Encoder(backbone, byol_mlp(backbone.num_channels, 512, 256)).eval()


def neighbour_sets(embeddings: np.ndarray, count: int) -> list[set[int]]:
    unit = embeddings.astype(np.float64) / np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    similarities = unit @ unit.T
    np.fill_diagonal(similarities, -2)
    return [set(row[:count].tolist()) for row in np.argsort(-similarities, axis=1)]


def overlap(ours: list[set[int]], theirs: list[set[int]]) -> float:
    return float(np.mean([len(one & other) / len(one) for one, other in zip(ours, theirs)]))


@torch.no_grad()
def published_embeddings(paths: Sequence[Path], network: nn.Module) -> np.ndarray:
    views = [EXTRACT(Image.open(path).convert("RGB")) for path in paths]
    return np.concatenate([network(view[None]).numpy() for view in views])


@torch.no_grad()
def published_roi_embeddings(path: Path, boxes: np.ndarray, backbone: nn.Module) -> np.ndarray:
    image = Image.open(path).convert("RGB")
    crops = [
        FORMAT(TF.resized_crop(image, top, left, bottom - top, right - left, [224, 224]))
        for left, top, right, bottom in boxes.astype(int).tolist()
    ]
    return pool(backbone(torch.stack(crops))).numpy()


def our_embeddings(images: ImageTable, encoder: Encoder) -> np.ndarray:
    make = shards.image_embedder(images, encoder, 224, CPU, workers=0)
    return make(slice(0, len(images)), lambda _: None)["embedding"]


def our_roi_embeddings(images: ImageTable, boxes: list[np.ndarray], encoder: Encoder, folder: Path) -> np.ndarray:
    rows = slice(0, len(images))
    tables.begin(folder, {"shard_size": len(images)}, 1)
    tables.write_shard(folder, 0, tables.box_columns(rows, boxes))
    make = shards.roi_embedder(images, tables.finish_table(folder), encoder, DiscoverConfig(), CPU, workers=0)
    return make(rows, lambda _: None)["embedding"]


def boxes_in(size_wh: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    corners = np.sort(generator.integers(0, np.array(size_wh) - 40, (3, 2, 2)), axis=1)
    return (corners.reshape(3, 4) + np.array([0, 0, 40, 40])).astype(np.float32)


def check_rois(images: ImageTable, encoder: Encoder, folder: Path) -> None:
    generator = np.random.default_rng(0)
    boxes = [boxes_in(size_wh, generator) for size_wh in images.sizes_wh]
    found = our_roi_embeddings(images, boxes, encoder, folder)
    paths = [images.root / name for name in images.names]
    parts = [published_roi_embeddings(path, own, encoder.backbone) for path, own in zip(paths, boxes)]
    cosines = torch.cosine_similarity(torch.from_numpy(found).float(), torch.from_numpy(np.concatenate(parts)))
    # Stored in half precision.
    assert cosines.min() > 1 - 2e-5


def test_neighbours_and_rois_of_scenes_are_those_of_the_published_preprocessing(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.jpg" for index in range(8)]
    for index, path in enumerate(paths):
        size_wh = ((200, 150), (120, 181))[index % 2]
        Image.fromarray(draw_scene(5, index, size_wh).image).save(path, quality=95)
    images, encoder = table_of(paths), random_encoder("resnet10")
    ours = neighbour_sets(our_embeddings(images, encoder), 3)
    assert overlap(ours, neighbour_sets(published_embeddings(paths, encoder), 3)) == 1
    check_rois(table_of(paths[:2]), encoder, tmp_path / "rois")


@pytest.mark.slow
def test_neighbours_and_rois_of_real_images_are_those_of_the_published_preprocessing(
    real_data: Path, tmp_path: Path
) -> None:
    paths = sorted((real_data / "coco-mini" / "train2017").glob("*.jpg"))[:20]
    images, encoder = table_of(paths), random_encoder("resnet50")
    ours, theirs = our_embeddings(images, encoder), published_embeddings(paths, encoder)
    for count in (3, 10):
        assert overlap(neighbour_sets(ours, count), neighbour_sets(theirs, count)) >= 0.99
    check_rois(table_of(paths[:5]), encoder, tmp_path / "rois")
