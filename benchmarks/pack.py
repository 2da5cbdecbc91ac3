"""Reading from a pack: photos/s of one core that reads photos and cuts two 224 px views, against a folder of JPEGs.

The photos are enlarged or reduced to the size of COCO's first (`--photo-side`, their short side), so that decoding
costs what it does there; `--photo-side 0` takes them as they are. All files are in the page cache; one thread works.

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

from orl.images.colour import ColourDistribution
from orl.images.crops import cut_boxes
from orl.images.datasets import ImageViews, Samples, ViewRules
from orl.images.decode import load_photo
from orl.images.packed import PackFormat, open_pack
from orl.images.scan import scan_photos
from orl.images.sources import find_photos
from orl.images.table import ImageTable
from orl.images.views import largest_reduction
from orl.stages.pack import PackOptions, pack_photos

SEED = 0
JPEG_QUALITY = 90
MAX_PIXELS = 10**8


def main(argv: list[str] | None = None) -> None:
    """Check that the views agree, time all ways, write the result."""
    parser = compare.arguments(__doc__.splitlines()[0], photos=120, photo_side=480, short_side=256, view_px=224, runs=9)
    options = parser.parse_args(argv)
    if options.images is None:
        parser.error("--images is needed: this measures the decoding of photos")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = prepare(options, Path(scratch) / "photos")
        kinds: list[tuple[PackFormat, int | None]] = [
            ("pixels", None),
            ("pixels", options.short_side),
            ("jpeg", options.short_side),
        ]
        results = [claim(options, folder, Path(scratch) / f"{name}-{side}", name, side) for name, side in kinds]
    compare.finish(results, options.json)


def prepare(options: argparse.Namespace, folder: Path) -> Path:
    """The photos as JPEGs with a short side of COCO's."""
    folder.mkdir()
    root, names = find_photos(options.images)
    for index, name in enumerate(names[: options.photos]):
        photo = Image.fromarray(load_photo(root / name))
        scale = (options.photo_side or min(photo.size)) / min(photo.size)
        size_wh = round(photo.width * scale), round(photo.height * scale)
        photo.resize(size_wh, Image.Resampling.BICUBIC).save(folder / f"{index:05d}.jpg", quality=JPEG_QUALITY)
    return folder


def claim(
    options: argparse.Namespace, folder: Path, to: Path, format: PackFormat, short_side: int | None
) -> dict[str, Any]:
    """One kind of pack against the folder that it is made from."""
    started = time.perf_counter()
    pack_photos(PackOptions(images=folder, to=to, short_side=short_side, format=format, workers=1))
    pack_s = time.perf_counter() - started
    from_folder, from_pack = (samples(table(source), options.view_px) for source in (folder, to))
    count = len(from_folder)
    epochs = iter(range(10**6))

    def read(source: Samples) -> None:
        epoch = next(epochs)
        for image_id in range(count):
            source[(epoch, image_id)]

    measured = compare.ratios(*compare.interleaved(lambda: read(from_pack), lambda: read(from_folder), options.runs))
    side = "their own size" if short_side is None else f"a short side of {short_side} px"
    photo_bytes = sum(path.stat().st_size for path in folder.iterdir())
    return compare.result(
        f"two {options.view_px} px views of a photo, out of a pack of {format} at {side}",
        f"a folder of JPEGs of a short side of {options.photo_side or 'any'} px",
        measured,
        agreement(from_pack, from_folder),
        photos=count,
        ours_photos_per_s=round(count / measured["ours_median_s"], 1),
        alternative_photos_per_s=round(count / measured["alternative_median_s"], 1),
        pack_kb_per_photo=round(open_pack(to).num_bytes / count / 1e3, 1),
        folder_kb_per_photo=round(photo_bytes / count / 1e3, 1),
        packing_photos_per_s=round(count / pack_s, 1),
    )


def table(source: Path) -> ImageTable:
    """The photos of a folder or of a pack."""
    return scan_photos(*find_photos(source), min_side_px=1, max_pixels=MAX_PIXELS, workers=1, quiet=True)[0]


def samples(images: ImageTable, view_px: int) -> Samples:
    """Two views of each photo, as stage 1 cuts them."""
    colours = (ColourDistribution(), ColourDistribution())
    rules = ViewRules(size_px=view_px, area_range=(0.08, 1.0), aspect_ratio_range=(3 / 4, 4 / 3), colours=colours)
    return Samples(ImageViews(images, rules, SEED))


def agreement(from_pack: Samples, from_folder: Samples) -> dict[str, Any]:
    """How near the views of the first epoch are.

    Raises:
        RuntimeError: if views out of pixels at their own size are not those of the whole photos, bit for bit.
    """
    differences, num_equal, num_reduced = [], 0, 0
    for image_id in range(len(from_folder)):
        ours, theirs = (source[(0, image_id)].views for source in (from_pack, from_folder))
        num_reduced += largest_reduction(from_folder.placer.place((0, image_id)).values()) > 1
        for name, view in theirs.items():
            differences.append((ours[name].crop.int() - view.crop.int()).abs().float().mean().item())
            num_equal += torch.equal(ours[name].crop, view.crop)
    if from_pack.placer.images.sizes_wh == from_folder.placer.images.sizes_wh:
        _require_whole_photos(from_pack, from_folder)
    return {
        "equal_views": f"{num_equal} of {len(differences)}",
        "photos_that_the_folder_gives_reduced": num_reduced,
        "mean_difference_of_a_view_in_grey_levels": round(float(np.mean(differences)), 3),
    }


def _require_whole_photos(from_pack: Samples, from_folder: Samples) -> None:
    images = from_folder.placer.images
    for image_id in range(len(images)):
        photo = load_photo(images.path(image_id))
        views = from_pack[(0, image_id)].views
        for name, (_, box, size_px, _) in from_folder.placer.place((0, image_id)).items():
            if not torch.equal(views[name].crop, cut_boxes(photo, box[None], size_px)[0]):
                raise RuntimeError(f"{name} of {images.names[image_id]} is not the same out of the pack and the file")


if __name__ == "__main__":
    main()
