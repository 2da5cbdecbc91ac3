"""Matching of RoIs: embedding each RoI once in full batches, against the published program.

The published way takes the images as queries one after another. It opens the query and its K neighbours, crops every
RoI of them, passes the RoIs of one image through the network as one batch, and compares the query with each neighbour:
every image is embedded again for each image whose neighbour it is. We embed the RoIs of all images once, then compare.
Both take the same images, RoIs, neighbours and network, run in one process, and resize by antialiased bilinear
interpolation, rows before columns; the RoIs are drawn at random and filtered, so that no search of proposals is part of
it. A second claim says what is left when the other side, too, embeds once: the gain by the way of cutting and
computing.

The last claims are of `--discover.roi-features map`, which passes each image once, against the published way and our
own crops. It does other work: its features are not those of crops, and so the fraction of equal pairs is a result,
not a condition. Whether its pairs are better or worse is scored by `orl evaluate pairs` on labelled images.

    python benchmarks/discover.py --images DIR --json FILE
    python benchmarks/discover.py --images DIR --backbone RUN/stage1/backbone.safetensors
    python benchmarks/discover.py --images DIR --backbone efficientnet-lite0.pth --map-px 480
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import compare
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy import ndarray
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision import transforms

from orl.config import DiscoverConfig
from orl.datasets.decode import load_image
from orl.datasets.sources import find_images
from orl.discovery.matching import match_rois
from orl.discovery.proposal_filter import filter_proposals
from orl.embed_maps import embed_rois
from orl.networks.backbones import Backbone, build_backbone
from orl.networks.fuse_batch_norm import fuse_batch_norm
from orl.views.augment import IMAGENET_MEAN, IMAGENET_STD
from orl.weights.loading import load_eval_network

TOLERANCE = 1e-4
TOP_FRACTION = 0.1
WEIGHTS = (".safetensors", ".pth", ".pt")
SEED = 0

Matches = list[tuple[Int[Tensor, "p 2"], Float[Tensor, "p"]]]
"""Pairs of RoIs and their cosines, for every query and each of its neighbours."""


class Task(NamedTuple):
    """Inputs of both programs."""

    paths: list[Path]
    rois: list[Float[ndarray, "_ 4"]]
    neighbour_ids: Int[ndarray, "n k"]
    size_px: int


def main(argv: list[str] | None = None) -> None:
    parser = compare.arguments(__doc__ or "", num_images=12, rois=10, neighbours=10, size_px=224, runs=3)
    parser.add_argument("--backbone", default="resnet50", help="one of random weights by its name, or a trained file")
    parser.add_argument("--map-px", type=int, default=480, help="short side of the image whose map RoIs are cut from")
    given = parser.parse_args(argv)
    task = draw_task(given.images, given.num_images, given.rois, given.neighbours, given.size_px)
    backbone = frozen_backbone(given.backbone)
    num_rois = sum(map(len, task.rois))

    folded = fuse_batch_norm(backbone) if isinstance(backbone, Backbone) else backbone
    folded = folded.to(memory_format=torch.channels_last)
    ours = partial(match_embedded_once, task, folded)
    by_map = partial(match_on_maps, task, folded, given.map_px)
    found, found_by_map = ours(), by_map()
    settings = {
        "images": len(task.paths),
        "rois": num_rois,
        "neighbours": task.neighbour_ids.shape[1],
        "size_px": task.size_px,
        "backbone": backbone.name,
        "weights": "trained" if given.backbone.endswith(WEIGHTS) else "random",
        "interpolation": "bilinear, antialiased, rows first",
        "rois_embedded_by_us": num_rois,
    }
    results = []
    for alternative, description, num_embedded in (
        (match_as_published, "the published way", num_rois * (1 + task.neighbour_ids.shape[1])),
        (match_image_by_image, "embedding once, an image at a time by Pillow", num_rois),
    ):
        theirs = partial(alternative, task, backbone)
        results.append(
            compare.result(
                f"correspondences of {len(task.paths)} images, RoIs embedded once in full batches",
                description,
                timed(ours, theirs, given.runs),
                check_agreement(found, theirs()),
                **settings,
                rois_embedded_by_alternative=num_embedded,
            )
        )
    for alternative, description in (
        (partial(match_as_published, task, backbone), "the published way"),
        (ours, "our crops, embedded once"),
    ):
        results.append(
            compare.result(
                f"correspondences of {len(task.paths)} images by one map an image",
                description,
                timed(by_map, alternative, given.runs),
                {
                    "pairs": sum(len(pairs) for pairs, _ in found),
                    "same_pairs_fraction": same_pairs(found_by_map, found),
                },
                **settings,
                map_px=given.map_px,
            )
        )
    compare.finish(results, given.json)


def draw_task(images: Path | None, num_images: int, num_rois: int, num_neighbours: int, size_px: int) -> Task:
    """Build inputs from the first images of a source, with random filtered RoIs and random neighbours."""
    if images is None:
        raise SystemExit("give the images: --images DIR")
    root, names = find_images(images)
    if not num_neighbours < num_images <= len(names):
        raise SystemExit(f"{num_neighbours} neighbours need more images than that, of {len(names)}; got {num_images}")
    paths = [root / name for name in names[:num_images]]
    generator = np.random.default_rng(SEED)
    rois = [draw_rois(load_image(path).shape[:2], num_rois, generator) for path in paths]
    others = [np.delete(np.arange(num_images), image_id) for image_id in range(num_images)]
    neighbour_ids = np.stack([generator.choice(other, num_neighbours, replace=False) for other in others])
    return Task(paths, rois, neighbour_ids, size_px)


def draw_rois(size_hw: Sequence[int], num_rois: int, generator: np.random.Generator) -> Float[ndarray, "b 4"]:
    """Sample boxes of 0.2 to 1 times each side, and filter them like proposals."""
    size_wh = np.array(size_hw[::-1])
    sides = np.floor(size_wh * generator.uniform(0.2, 1, (2000, 2)))
    corners = np.floor((size_wh - sides) * generator.uniform(0, 1, (2000, 2)))
    proposals = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    width, height = size_wh.tolist()
    return filter_proposals(proposals, (width, height), min_side_px=min(size_hw) / 5, max_rois=num_rois)


def frozen_backbone(name: str) -> Any:
    """Build a backbone with random weights by its name, or load one from a file."""
    torch.manual_seed(SEED)
    backbone = load_eval_network(Path(name)) if Path(name).suffix in WEIGHTS else build_backbone(name)
    return backbone.eval().requires_grad_(False)


def match_embedded_once(task: Task, folded: nn.Module) -> Matches:
    """Run our stage 2 with crops in one process."""
    return match_all(task, folded, DiscoverConfig(roi_embed_px=task.size_px))


def match_on_maps(task: Task, folded: nn.Module, map_px: int) -> Matches:
    """Run our stage 2 with map features in one process."""
    return match_all(task, folded, DiscoverConfig(roi_features="map", roi_map_px=map_px))


def match_all(task: Task, folded: nn.Module, config: DiscoverConfig) -> Matches:
    """Embed the RoIs of all images, and match each image with its neighbours."""
    parts = embed_rois(
        folded,
        task.paths,
        task.rois,
        config,
        device=torch.device("cpu"),
        workers=0,
        report=lambda _: None,
    )
    joined = F.normalize(torch.from_numpy(np.concatenate(list(parts))), dim=1)
    embeddings = joined.split([len(rois) for rois in task.rois])
    return [
        match_rois(embeddings[image_id], embeddings[neighbour_id], TOP_FRACTION)
        for image_id, neighbour_ids in enumerate(task.neighbour_ids.tolist())
        for neighbour_id in neighbour_ids
    ]


@torch.no_grad()
def match_as_published(task: Task, backbone: nn.Module) -> Matches:
    """Run the published program: for every query, embed its RoIs and those of each neighbour."""
    matches = []
    for image_id, neighbour_ids in enumerate(task.neighbour_ids.tolist()):
        own = embed_image(task, image_id, backbone)
        for neighbour_id in neighbour_ids:
            matches.append(best_pairs(own @ embed_image(task, neighbour_id, backbone).T))
    return matches


@torch.no_grad()
def match_image_by_image(task: Task, backbone: nn.Module) -> Matches:
    """Run the published program with a cache of embeddings."""
    kept = [embed_image(task, image_id, backbone) for image_id in range(len(task.paths))]
    return [
        best_pairs(kept[image_id] @ kept[neighbour_id].T)
        for image_id, neighbour_ids in enumerate(task.neighbour_ids.tolist())
        for neighbour_id in neighbour_ids
    ]


def embed_image(task: Task, image_id: int, backbone: nn.Module) -> Float[Tensor, "b d"]:
    """Embed the RoIs of one image: crop and resize by Pillow, torchvision's transforms, one batch."""
    to_view = transforms.Compose([transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    with Image.open(task.paths[image_id]) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    crops = [squeeze(image.crop(tuple(map(int, roi))), task.size_px) for roi in task.rois[image_id]]
    return F.normalize(backbone(torch.stack([to_view(crop) for crop in crops])).mean(dim=(2, 3)), dim=1)


def squeeze(crop: Image.Image, size_px: int) -> Image.Image:
    """Resize rows before columns as Pillow does up to version 12; Pillow 13 reverses the order for some high crops."""
    rows = crop.resize((size_px, crop.height), Image.Resampling.BILINEAR)
    return rows.resize((size_px, size_px), Image.Resampling.BILINEAR)


def best_pairs(similarities: Float[Tensor, "b c"]) -> tuple[Int[Tensor, "p 2"], Float[Tensor, "p"]]:
    """Return the highest entries of the matrix, 10% of the query's RoIs."""
    values, order = similarities.flatten().topk(max(1, int(TOP_FRACTION * len(similarities))))
    num_columns = similarities.shape[1]
    return torch.stack([order // num_columns, order % num_columns], dim=1), values


def timed(ours: Callable[[], object], alternative: Callable[[], object], runs: int) -> dict[str, float]:
    return compare.ratios(*compare.interleaved(ours, alternative, runs))


def same_pairs(ours: Matches, theirs: Matches) -> float:
    """Return the fraction of equal pairs."""
    both = [
        (set(map(tuple, one.tolist())), set(map(tuple, other.tolist()))) for (one, _), (other, _) in zip(ours, theirs)
    ]
    return round(sum(len(one & other) for one, other in both) / sum(len(one) for one, _ in both), 6)


def check_agreement(ours: Matches, theirs: Matches) -> dict[str, Any]:
    """Compare two results: fraction of equal pairs, their cosines, and the cosines at the same rank.

    Where a pair differs, two candidates were alike within rounding if the cosines at that rank agree.

    Raises:
        SystemExit: if cosines of the same pair, or at the same rank, differ by more than the tolerance.
    """
    known = [dict(zip(map(tuple, pairs.tolist()), values.tolist())) for pairs, values in theirs]
    found = [dict(zip(map(tuple, pairs.tolist()), values.tolist())) for pairs, values in ours]
    same = [abs(one[pair] - other[pair]) for one, other in zip(found, known) for pair in one.keys() & other.keys()]
    ranks = torch.cat([abs(one - other) for (_, one), (_, other) in zip(ours, theirs)])
    agreement = {
        "pairs": len(ranks),
        "same_pairs_fraction": round(len(same) / len(ranks), 6),
        "similarity_difference_max": max(same, default=0.0),
        "similarity_difference_at_same_rank_max": ranks.max().item(),
    }
    worst = max(agreement["similarity_difference_max"], agreement["similarity_difference_at_same_rank_max"])
    if worst > TOLERANCE:
        raise SystemExit(f"the two ways disagree by more than {TOLERANCE}: {agreement}")
    return agreement


if __name__ == "__main__":
    main()
