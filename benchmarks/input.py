"""Input pipeline on one core: from images to normalised views, ours against the published code, sample by sample.

Ours reads an image, cuts its views, puts a batch together and colours it, as `orl` does when it trains on a CPU. The
published code opens an image by Pillow and sends it through torchvision's transforms on Pillow images, once a view.
Times are seconds of the processor, so that other programs on the machine do not count. `--images` takes whatever
`orl run --images` takes; the images are saved again first, as JPEGs of known size.

    python benchmarks/input.py --images DIR --json FILE
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compare
import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import default_collate
from torchvision import transforms
from torchvision.transforms import functional as TF

from orl.datasets.decode import load_image
from orl.datasets.image_table import ImageTable
from orl.datasets.sources import find_images
from orl.memory import keep_freed_memory
from orl.views.augment import augment
from orl.views.colour import IMAGENET_MEAN, IMAGENET_STD, JITTER_ORDERS, ColourDistribution, sample_colours
from orl.views.cut import ViewBox, ViewBoxes, cut_views
from orl.views.view_samplers import ViewDistribution, sample_global_views

SEED = 0
CPU = torch.device("cpu")
COLOURS = (ColourDistribution(), ColourDistribution(blur_probability=0.1, solarise_probability=0.2))
"""Colour distributions of BYOL's two views."""
DISTRIBUTION = ViewDistribution(size_px=224, area_range=(0.08, 1.0), aspect_ratio_range=(3 / 4, 4 / 3), colours=COLOURS)
ROI_PX = 96
JPEG_QUALITY = 97
"""JPEG quality at which an image of 640 x 480 px has about 110 kB; COCO's images have 160 kB on average."""

Sample = Callable[[int], Any]


def main(argv: list[str] | None = None) -> None:
    """Check that both programs give the same views, time both, and write the result."""
    parser = compare.arguments(__doc__.splitlines()[0], num_images=32, batch=16, side=640, large_side=2560, runs=20)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    random.seed(SEED)
    keep_freed_memory()  # as in training; it makes both faster
    with tempfile.TemporaryDirectory() as folder:
        images = saved_again(options, options.side, Path(folder) / "usual")
        large = saved_again(options, options.large_side, Path(folder) / "large")
        results = [
            claim("two views of 224 px of an image", images, two_views, published_two_views, options),
            claim("a sample of stage 3, two views of 224 px and four of 96", images, six_views, published_six, options),
            claim("two views of 224 px of a large image", large, two_views, published_two_views, options),
        ]
    compare.finish(results, options.json)


def saved_again(options: argparse.Namespace, long_side: int, folder: Path) -> ImageTable:
    """Write the images as JPEGs of the given long side."""
    root, names = find_images(options.images)
    names = names[:: max(1, len(names) // options.num_images)][: options.num_images]
    folder.mkdir()
    sizes = []
    for index, name in enumerate(names):
        image = Image.fromarray(load_image(root / name))
        scale = long_side / max(image.size)
        sizes.append((round(image.width * scale), round(image.height * scale)))
        image.resize(sizes[-1], Image.Resampling.BICUBIC).save(folder / f"{index}.jpg", quality=JPEG_QUALITY)
    files = tuple(f"{index}.jpg" for index in range(len(names)))
    return ImageTable(root=folder, names=files, sizes_wh=tuple(sizes), digests=files)


def claim(
    change: str,
    images: ImageTable,
    sample_box: Callable[[ImageTable, int], ViewBoxes],
    published: Callable[[ImageTable, int], dict[str, Tensor]],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Time batches of both programs alternately; both read images from the page cache."""
    batches = {"ours": 0, "published": 0}

    def images_of_batch(way: str) -> list[int]:
        batches[way] += 1
        return [(batches[way] * options.batch + index) % len(images) for index in range(options.batch)]

    def ours() -> dict[str, Tensor]:
        samples = [cut_views(images, sample_box(images, image_id)) for image_id in images_of_batch("ours")]
        return {name: augment(crops, colours, CPU) for name, (crops, colours) in default_collate(samples).items()}

    def theirs() -> dict[str, Tensor]:
        return default_collate([published(images, image_id) for image_id in images_of_batch("published")])

    shapes = [{name: view.shape for name, view in way().items()} for way in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise RuntimeError(f"the views differ in shape: {shapes[0]} and {shapes[1]}")
    measured = compare.ratios(*compare.interleaved(ours, theirs, options.runs, time.process_time))
    return compare.result(
        f"{change} from JPEGs of {options.side if images.root.name == 'usual' else options.large_side} px on one core",
        "the published code's transforms on Pillow images",
        measured,
        agreement(images, sample_box),
        images_per_s_ours=round(options.batch / measured["ours_median_s"], 1),
        images_per_s_published=round(options.batch / measured["alternative_median_s"], 1),
        images=len(images),
        batch=options.batch,
        kilobytes_per_image=round(np.mean([images.path(row).stat().st_size for row in range(len(images))]) / 1e3, 1),
        clock="seconds of the processor",
    )


# Ours.


def two_views(images: ImageTable, image_id: int) -> ViewBoxes:
    """Sample the view boxes of stage 1 in a random epoch."""
    return sample_global_views(
        image_id, images.sizes_wh[image_id], DISTRIBUTION, (SEED, random.randrange(1000), image_id)
    )


def six_views(images: ImageTable, image_id: int) -> ViewBoxes:
    """Sample the view boxes of stage 3, with four random RoIs in the image itself."""
    view_boxes = two_views(images, image_id)
    for index, box in enumerate(random_rois(images.sizes_wh[image_id], 4)):
        colours = sample_colours(COLOURS[index % 2], np.random.default_rng(random.randrange(10**6)))
        view_boxes[f"roi_{index}"] = ViewBox(image_id, box, ROI_PX, colours)
    return view_boxes


def random_rois(size_wh: tuple[int, int], count: int) -> np.ndarray:
    """Sample boxes of 0.2 to 1 times the short side, like those that pass the box filter."""
    short = min(size_wh)
    sides = np.array([[random.uniform(0.2, 1) * short for _ in range(2)] for _ in range(count)])
    corners = np.array([[random.uniform(0, 1) for _ in range(2)] for _ in range(count)]) * (size_wh - sides)
    return np.concatenate([corners, corners + sides], axis=1).round().astype(np.float32)


# The published code.


class Blur:
    """Gaussian blur of random sigma by Pillow."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, image: Image.Image) -> Image.Image:
        if random.random() >= self.probability:
            return image
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


class Solarise:
    """Solarisation by Pillow."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.solarize(image, 128) if random.random() < self.probability else image


def published_colours(colours: ColourDistribution) -> list[Any]:
    """Build the transforms after the crop, with those of torchvision that the published code uses."""
    jitter = transforms.ColorJitter(colours.brightness, colours.contrast, colours.saturation, colours.hue)
    return [
        transforms.RandomHorizontalFlip(),
        transforms.RandomApply([jitter], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        Blur(colours.blur_probability),
        Solarise(colours.solarise_probability),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]


PUBLISHED_VIEWS = [
    transforms.Compose([transforms.RandomResizedCrop(224), *published_colours(colours)]) for colours in COLOURS
]
PUBLISHED_ROIS = [
    transforms.Compose([transforms.Resize((ROI_PX, ROI_PX)), *published_colours(colours)]) for colours in COLOURS
]


def published_two_views(images: ImageTable, image_id: int) -> dict[str, Tensor]:
    """Read a sample of stage 1."""
    image = Image.open(images.path(image_id)).convert("RGB")
    return {f"view_{view + 1}": transform(image) for view, transform in enumerate(PUBLISHED_VIEWS)}


def published_six(images: ImageTable, image_id: int) -> dict[str, Tensor]:
    """Read a sample of stage 3."""
    image = Image.open(images.path(image_id)).convert("RGB")
    views = {f"view_{view + 1}": transform(image) for view, transform in enumerate(PUBLISHED_VIEWS)}
    for index, box in enumerate(random_rois(images.sizes_wh[image_id], 4)):
        views[f"roi_{index}"] = PUBLISHED_ROIS[index % 2](image.crop(tuple(box.tolist())))
    return views


# Agreement.


def agreement(images: ImageTable, sample_box: Callable[[ImageTable, int], ViewBoxes]) -> dict[str, float]:
    """Measure the difference in grey levels between both programs at equal parameters, by operation.

    Pillow cuts off to whole grey levels after every step of the jitter, turns colours on a circle of 256 steps, and
    makes its blur of boxes. Images that are read reduced are cut at larger pixels.
    """
    unchanged = ColourDistribution(flip_probability=0.5, jitter_probability=0, gray_probability=0, blur_probability=0)
    found: dict[str, list[float]] = {"cut": [], "cut and recoloured": [], "cut, recoloured and blurred": []}
    for image_id in range(min(8, len(images))):
        image = Image.open(images.path(image_id)).convert("RGB")
        view_boxes = sample_box(images, image_id)
        for name, (crop, colours) in cut_views(images, view_boxes).items():
            cut_only = sample_colours(unchanged, np.random.default_rng(image_id))
            for differences, changes in zip(found.values(), (cut_only, colours._replace(blur_sigma_px=0.0), colours)):
                ours = augment(crop[None], type(colours)(*(torch.tensor([value]) for value in changes)), CPU)[0]
                levels = (ours - by_pillow(image, view_boxes[name]._replace(colours=changes))) * 255
                differences.append((levels * torch.tensor(IMAGENET_STD)[:, None, None]).abs().mean().item())
    return {f"mean difference in grey levels, {change}": round(float(np.mean(v)), 3) for change, v in found.items()}


def by_pillow(image: Image.Image, view_box: ViewBox) -> Tensor:
    """Compute a view with given parameters by Pillow."""
    colours = view_box.colours
    box = tuple(view_box.box.astype(int).tolist())
    view = image.crop(box).resize((view_box.size_px, view_box.size_px), Image.Resampling.BILINEAR)
    view = TF.hflip(view) if colours.flip else view
    jitters = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    factors = (colours.brightness, colours.contrast, colours.saturation, colours.hue)
    for operation in JITTER_ORDERS[int(colours.jitter_order)]:
        if factors[operation] != (0 if operation == 3 else 1):
            view = jitters[operation](view, factors[operation])
    view = TF.to_grayscale(view, 3) if colours.gray else view
    if colours.blur_sigma_px > 0:
        view = view.filter(ImageFilter.GaussianBlur(colours.blur_sigma_px))
    view = ImageOps.solarize(view, 128) if colours.solarise else view
    return TF.normalize(TF.to_tensor(view), list(IMAGENET_MEAN), list(IMAGENET_STD))


if __name__ == "__main__":
    main()
