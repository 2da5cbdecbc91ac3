"""Time of each part of the input pipeline on one core, for each library that implements it.

The images are saved again as JPEGs of known size, as in `input.py`. Prints a table in Markdown, in which what is taken
is set in bold.

    python benchmarks/input_parts.py --images DIR
"""

import io
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import compare
import cv2
import input as pipeline
import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision.transforms import functional as TF
from torchvision.transforms import v2

from orl.datasets.decode import load_image
from orl.memory import keep_freed_memory
from orl.views.augment import augment, augment_batched
from orl.views.colour import ColourParameters
from orl.views.crops import cut_boxes, round_to_pixels
from orl.views.cut import ViewBox

Row = tuple[str, str, float]
"""Part, library, milliseconds."""
SIZE_PX = 224
JITTER = {"brightness": 1.2, "contrast": 0.8, "saturation": 1.1, "hue": 0.05}
SIGMA_PX = 1.05
"""Middle of BYOL's range."""


def main(argv: list[str] | None = None) -> None:
    """Time every part with every library, and print the table."""
    parser = compare.arguments(__doc__.splitlines()[0], num_images=24, side=640, large_side=2560, runs=9)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()  # as in training
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        usual = pipeline.saved_again(options, options.side, Path(folder) / "usual")
        large = pipeline.saved_again(options, options.large_side, Path(folder) / "large")
        paths, large_paths = ([table.path(row) for row in range(len(table))] for table in (usual, large))
        view_boxes_of_images = [list(pipeline.two_views(usual, row).values()) for row in range(len(usual))]
        images = [load_image(path) for path in paths]
        rows = [
            *decoding(paths, large_paths, options.runs),
            *cutting(images, view_boxes_of_images, options.runs),
            *colours(images, view_boxes_of_images, options.runs),
        ]
    print(f"{compare.machine()['processor']}, one core\n\n| part | way | ms |\n| --- | --- | --- |")
    for part, way, milliseconds in rows:
        print(f"| {part} | {way} | {milliseconds:.3f} |")


def timed(part: str, ways: dict[str, Callable[[], object]], items: int, runs: int) -> list[Row]:
    """Return the median time per item of each library; the libraries alternate."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(runs + 1):
        for name, way in ways.items():
            started = time.process_time()
            way()
            if run:  # the first one compiles
                seconds[name].append(time.process_time() - started)
    return [(part, name, 1e3 * statistics.median(found) / items) for name, found in seconds.items()]


def decoding(paths: Sequence[Path], large_paths: Sequence[Path], runs: int) -> list[Row]:
    """Time the decoding of a JPEG."""
    files = [path.read_bytes() for path in paths]

    def each(decode: Callable[[bytes], object]) -> Callable[[], object]:
        return lambda: [decode(file) for file in files]

    usual = {
        "Pillow": each(lambda file: np.array(Image.open(io.BytesIO(file)).convert("RGB"))),
        "OpenCV": each(lambda file: cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB)),
        "simplejpeg": each(simplejpeg.decode_jpeg),
        "simplejpeg, fast DCT": each(lambda file: simplejpeg.decode_jpeg(file, fastdct=True)),
        "**`load_image`: simplejpeg, and Pillow for the header**": lambda: [load_image(path) for path in paths],
    }
    reduced = {
        f"**`load_image`** at 1/{reduction} of its size": lambda reduction=reduction: [
            load_image(path, reduction=reduction) for path in large_paths
        ]
        for reduction in (1, 2, 4, 8)
    }
    return [
        *timed("decode an image", usual, len(paths), runs),
        *timed("decode a large image", reduced, len(large_paths), max(2, runs // 3)),
    ]


def cutting(images: Sequence[np.ndarray], view_boxes_of_images: Sequence[Sequence[ViewBox]], runs: int) -> list[Row]:
    """Time the steps from a crop to a view."""
    pairs = [
        (pixels, view_box.box) for pixels, view_boxes in zip(images, view_boxes_of_images) for view_box in view_boxes
    ]

    def each(cut: Callable[[np.ndarray], object]) -> Callable[[], object]:
        def run() -> None:
            for pixels, box in pairs:
                left, top, right, bottom = round_to_pixels(box, (pixels.shape[1], pixels.shape[0]))
                cut(pixels[top:bottom, left:right])

        return run

    def floats(crop: np.ndarray) -> Tensor:
        image = torch.from_numpy(crop)[None].permute(0, 3, 1, 2).float()
        return F.interpolate(image, (SIZE_PX, SIZE_PX), mode="bilinear", antialias=True)

    ways = {
        "Pillow": each(lambda crop: Image.fromarray(crop).resize((SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR)),
        "OpenCV, not antialiased": each(
            lambda crop: cv2.resize(crop, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_LINEAR)
        ),
        "torch, floats": each(floats),
        "**`cut_boxes`: torch, bytes**": lambda: [cut_boxes(pixels, box[None], SIZE_PX) for pixels, box in pairs],
    }
    return timed("cut a view", ways, len(pairs), runs)


def colours(images: Sequence[np.ndarray], view_boxes_of_images: Sequence[Sequence[ViewBox]], runs: int) -> list[Row]:
    """Time every operation alone; for ours, minus the time of a view without it."""
    crops = torch.cat(
        [
            cut_boxes(pixels, one.box[None], SIZE_PX)
            for pixels, some in zip(images, view_boxes_of_images)
            for one in some
        ]
    )
    crops = crops.contiguous()
    views = [Image.fromarray(crop) for crop in crops.permute(0, 2, 3, 1).numpy()]
    count = len(views)

    def each(change: Callable[[Any], object], items: Sequence[Any] = views) -> Callable[[], object]:
        return lambda: [change(item) for item in items]

    def jitter(image: Any) -> Any:
        image = TF.adjust_brightness(image, JITTER["brightness"])
        image = TF.adjust_contrast(image, JITTER["contrast"])
        return TF.adjust_hue(TF.adjust_saturation(image, JITTER["saturation"]), JITTER["hue"])

    def jitter_v2(image: Tensor) -> Tensor:
        image = v2.functional.adjust_brightness(image, JITTER["brightness"])
        image = v2.functional.adjust_contrast(image, JITTER["contrast"])
        return v2.functional.adjust_hue(v2.functional.adjust_saturation(image, JITTER["saturation"]), JITTER["hue"])

    others: dict[str, dict[str, Callable[[], object]]] = {
        "read as floats and normalise": {
            "torchvision on Pillow": each(lambda view: TF.normalize(TF.to_tensor(view), [0.5] * 3, [0.2] * 3))
        },
        "flip": {"Pillow": each(lambda view: view.transpose(Image.Transpose.FLIP_LEFT_RIGHT))},
        "jitter": {"torchvision on Pillow": each(jitter), "torchvision v2 on bytes": each(jitter_v2, crops)},
        "gray": {"Pillow": each(lambda view: TF.rgb_to_grayscale(view, 3))},
        "blur": {
            "Pillow, by boxes": each(lambda view: view.filter(ImageFilter.GaussianBlur(SIGMA_PX))),
            "OpenCV on bytes": each(lambda view: cv2.GaussianBlur(np.asarray(view), (0, 0), SIGMA_PX)),
            "OpenCV on floats": each(
                lambda view: cv2.GaussianBlur(view, (9, 9), SIGMA_PX),
                [np.asarray(view).astype(np.float32) for view in views],
            ),
        },
        "solarise": {"Pillow": each(lambda view: ImageOps.solarize(view, 128))},
    }
    settings: dict[str, dict[str, Any]] = {
        "read as floats and normalise": {},
        "flip": {"flip": True},
        "jitter": JITTER,
        "gray": {"gray": True},
        "blur": {"blur_sigma_px": SIGMA_PX},
        "solarise": {"solarise": True},
    }
    rows = []
    for part, setting in settings.items():
        ours = {}
        for name, way in (("torch, batched", augment_batched), ("**`augment`: Numba**", augment)):
            for parameters, label in ((all_alike(count), f"without, {name}"), (all_alike(count, **setting), name)):
                ours[label] = partial(way, crops, parameters, pipeline.CPU)
        found = {way: milliseconds for _, way, milliseconds in timed(part, others[part] | ours, count, runs)}
        without = {way: found.pop(f"without, {way}") for way in list(found) if f"without, {way}" in found}
        rows += [(part, way, value - (without.get(way, 0) if setting else 0)) for way, value in found.items()]
    return rows


def all_alike(count: int, **changed: Any) -> ColourParameters:
    """Return parameters without any change except the given ones, for all views."""
    values = {"flip": False, "jitter_order": 0, "brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    values |= {"gray": False, "blur_sigma_px": 0.0, "solarise": False} | changed
    return ColourParameters(**{name: torch.tensor([value] * count) for name, value in values.items()})


if __name__ == "__main__":
    main()
