"""Reading a pack: images/s of one core that reads images and cuts two 224 px views, against a folder of JPEGs.

The images are enlarged or reduced to the size of COCO's first (`--image-side`, their short side), so that decoding
costs what it does there; `--image-side 0` takes them as they are. All files are in the page cache; one thread works.

    python benchmarks/pack.py --images DIR --json FILE
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import compare
import numpy as np
import torch
from PIL import Image

from orl.datasets.decode import load_image
from orl.datasets.image_table import ImageTable
from orl.datasets.packs import PackFormat, open_pack
from orl.datasets.sources import find_images
from orl.datasets.validation import scan_images
from orl.pipeline.pack import pack_images
from orl.pipeline.pack_options import PackOptions
from orl.views.colour import ColourDistribution
from orl.views.crops import cut_boxes
from orl.views.cut import largest_reduction
from orl.views.view_dataset import ViewDataset
from orl.views.view_samplers import GlobalViewSampler, ViewDistribution

SEED = 0
JPEG_QUALITY = 90
MAX_SCANNED_PIXELS = 10**8


def main(argv: list[str] | None = None) -> None:
    """Check that the views agree, time all packs, and write the result."""
    parser = compare.arguments(
        __doc__.splitlines()[0], num_images=120, image_side=480, short_side=256, view_px=224, runs=9
    )
    options = parser.parse_args(argv)
    if options.images is None:
        parser.error("--images is needed: this measures the decoding of images")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = prepare(options, Path(scratch) / "images")
        kinds: list[tuple[PackFormat, int | None]] = [
            ("pixels", None),
            ("pixels", options.short_side),
            ("jpeg", options.short_side),
        ]
        results = [claim(options, folder, Path(scratch) / f"{name}-{side}", name, side) for name, side in kinds]
    compare.finish(results, options.json)


def prepare(options: argparse.Namespace, folder: Path) -> Path:
    """Write the images as JPEGs with COCO's usual short side."""
    folder.mkdir()
    root, names = find_images(options.images)
    for index, name in enumerate(names[: options.num_images]):
        image = Image.fromarray(load_image(root / name))
        scale = (options.image_side or min(image.size)) / min(image.size)
        size_wh = round(image.width * scale), round(image.height * scale)
        image.resize(size_wh, Image.Resampling.BICUBIC).save(folder / f"{index:05d}.jpg", quality=JPEG_QUALITY)
    return folder


def claim(
    options: argparse.Namespace, folder: Path, to: Path, format: PackFormat, short_side: int | None
) -> dict[str, Any]:
    """Compare one kind of pack with the folder of its images."""
    started = time.perf_counter()
    pack_images(PackOptions(images=folder, to=to, short_side=short_side, format=format, workers=1))
    pack_s = time.perf_counter() - started
    from_folder, from_pack = (samples(table(source), options.view_px) for source in (folder, to))
    count = len(from_folder)
    epochs = iter(range(10**6))

    def read(source: ViewDataset) -> None:
        epoch = next(epochs)
        for image_id in range(count):
            source[(epoch, image_id)]

    measured = compare.ratios(*compare.interleaved(lambda: read(from_pack), lambda: read(from_folder), options.runs))
    side = "their own size" if short_side is None else f"a short side of {short_side} px"
    image_bytes = sum(path.stat().st_size for path in folder.iterdir())
    return compare.result(
        f"two {options.view_px} px views of an image, out of a pack of {format} at {side}",
        f"a folder of JPEGs of a short side of {options.image_side or 'any'} px",
        measured,
        agreement(from_pack, from_folder),
        images=count,
        ours_images_per_s=round(count / measured["ours_median_s"], 1),
        alternative_images_per_s=round(count / measured["alternative_median_s"], 1),
        pack_kb_per_image=round(open_pack(to).num_bytes / count / 1e3, 1),
        folder_kb_per_image=round(image_bytes / count / 1e3, 1),
        packing_images_per_s=round(count / pack_s, 1),
    )


def table(source: Path) -> ImageTable:
    """Scan the images of a folder or of a pack."""
    return scan_images(*find_images(source), min_side_px=1, max_pixels=MAX_SCANNED_PIXELS, workers=1, quiet=True)[0]


def samples(images: ImageTable, view_px: int) -> ViewDataset:
    """Return the data set of stage 1: two views of each image."""
    colours = (ColourDistribution(), ColourDistribution())
    rules = ViewDistribution(
        size_px=view_px, area_range=(0.08, 1.0), aspect_ratio_range=(3 / 4, 4 / 3), colours=colours
    )
    return ViewDataset(GlobalViewSampler(images, rules, SEED))


def agreement(from_pack: ViewDataset, from_folder: ViewDataset) -> dict[str, Any]:
    """Compare the views of the first epoch.

    Raises:
        RuntimeError: if views out of pixels at their own size are not those of the whole images, bit for bit.
    """
    differences, num_equal, num_reduced = [], 0, 0
    for image_id in range(len(from_folder)):
        ours, theirs = (source[(0, image_id)].views for source in (from_pack, from_folder))
        num_reduced += largest_reduction(from_folder.view_sampler.sample_boxes((0, image_id)).values()) > 1
        for name, view in theirs.items():
            differences.append((ours[name].crop.int() - view.crop.int()).abs().float().mean().item())
            num_equal += torch.equal(ours[name].crop, view.crop)
    if from_pack.view_sampler.images.sizes_wh == from_folder.view_sampler.images.sizes_wh:
        _require_full_size_images(from_pack, from_folder)
    return {
        "equal_views": f"{num_equal} of {len(differences)}",
        "images_that_the_folder_gives_reduced": num_reduced,
        "mean_difference_of_a_view_in_grey_levels": round(float(np.mean(differences)), 3),
    }


def _require_full_size_images(from_pack: ViewDataset, from_folder: ViewDataset) -> None:
    images = from_folder.view_sampler.images
    for image_id in range(len(images)):
        image = load_image(images.path(image_id))
        views = from_pack[(0, image_id)].views
        for name, (_, box, size_px, _) in from_folder.view_sampler.sample_boxes((0, image_id)).items():
            if not torch.equal(views[name].crop, cut_boxes(image, box[None], size_px)[0]):
                raise RuntimeError(f"{name} of {images.names[image_id]} is not the same out of the pack and the file")


if __name__ == "__main__":
    main()
