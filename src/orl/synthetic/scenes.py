"""Synthetic scenes: images of textured objects of known class, box and mask, written as a VOC devkit."""

import json
import math
import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFilter

from orl import boxes, files
from orl.datasets.labels import ABSENT, IGNORED, PRESENT
from orl.progress import progress_bar
from orl.synthetic.shapes import APPEARANCES, Appearance, Polygon

SCENES_VERSION = 1
CLASSES = tuple(sorted(APPEARANCES))
FINISHED, BEGUN = "scenes.json", "scenes.unfinished.json"
FIRST_INDEX = {"trainval": 0, "test": 500_000}
SCENE_JPEG_QUALITY = 90
MAX_NUM_OBJECTS = 4
SIDE_FRACTIONS = (0.25, 0.6)
MAX_IOU = 0.2
MAX_COVERED_FRACTION = 0.55
MAX_OUTSIDE_FRACTION = 0.1
MAX_TURN_RAD = 0.35
DIFFICULT_VISIBLE_FRACTION = 0.6
DIFFICULT_SIDE_PX = 12
SUPERSAMPLING = 3
TEXTURE_UNIT_PX = 4


@dataclass(frozen=True)
class SceneObject:
    """One visible object of a scene."""

    number: int
    """Value of its pixels in the mask, from 1."""
    class_name: str
    box: tuple[int, int, int, int]
    """Bounding box of its visible pixels, xyxy."""
    visible_fraction: float
    """Fraction of its pixels that are neither covered nor outside the image."""

    @property
    def difficult(self) -> bool:
        """Return True if the object is too covered or too small to count in scores."""
        left, top, right, bottom = self.box
        too_small = min(right - left, bottom - top) < DIFFICULT_SIDE_PX
        return too_small or self.visible_fraction < DIFFICULT_VISIBLE_FRACTION


@dataclass(frozen=True)
class Scene:
    """A synthetic image with its labels."""

    image: UInt8[ndarray, "h w 3"]
    mask: UInt8[ndarray, "h w"]
    """Number of the object at each pixel; 0 is the background."""
    objects: tuple[SceneObject, ...]


def draw_scene(seed: int, index: int, size_wh: tuple[int, int]) -> Scene:
    """Draw one scene, which depends on the arguments only.

    One to four objects are in front of a cluttered background. A class is a shape and a texture. Colours, size and
    position are random, as is a slight rotation, and independent of the class.

    Args:
        seed: seed of the data set.
        index: number of the scene in the data set.
        size_wh: width and height in pixels.
    """
    generator = np.random.default_rng([seed, index])
    canvas = _draw_background(generator, size_wh)
    mask = np.zeros(canvas.shape[:2], dtype=np.uint8)
    painted = []
    for number, square in enumerate(_sample_squares(generator, size_wh), start=1):
        class_name = CLASSES[generator.integers(len(CLASSES))]
        num_pixels = _add_object(canvas, mask, number, APPEARANCES[class_name], square, generator)
        painted.append((number, class_name, num_pixels))
    canvas += generator.normal(0, generator.uniform(1, 4), canvas.shape).astype(np.float32)
    objects = [_visible_object(mask, *each) for each in painted if (mask == each[0]).any()]
    return Scene(np.clip(np.rint(canvas), 0, 255).astype(np.uint8), mask, tuple(objects))


def draw_scenes(
    folder: Path,
    *,
    num_trainval: int,
    num_test: int,
    size_wh: tuple[int, int] = (192, 144),
    seed: int = 0,
    quiet: bool = False,
) -> None:
    """Write scenes in the layout of a VOC devkit, which `read_voc` reads; a finished data set is not written again.

    Args:
        folder: folder for JPEGImages, Annotations, SegmentationObject and ImageSets/Main.
        num_trainval: number of scenes of the split 'trainval', at most 500,000.
        num_test: number of scenes of the split 'test', at most 500,000.
        size_wh: width and height of the images in pixels.
        seed: seed of the data set.
        quiet: show no progress bar.

    Raises:
        ValueError: if the folder has other files, such as scenes of other options.
    """
    counts = {"trainval": num_trainval, "test": num_test}
    for split, count in counts.items():
        if not 0 <= count <= FIRST_INDEX["test"]:
            raise ValueError(f"num_{split} must be from 0 to {FIRST_INDEX['test']}, got {count}")
    if min(size_wh) < 32:
        raise ValueError(f"scenes must have at least 32x32 px, got {size_wh[0]}x{size_wh[1]}")
    options = {"version": SCENES_VERSION, "seed": seed, "size_wh": list(size_wh), "num_scenes": counts}
    if _is_finished(folder, options):
        return
    files.write_atomically(folder / BEGUN, json.dumps(options))
    for name in ("JPEGImages", "Annotations", "SegmentationObject", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with progress_bar(total=num_trainval + num_test, title="draw scenes", unit="images", quiet=quiet) as bar:
        for split, count in counts.items():
            present: dict[str, Sequence[SceneObject]] = {}
            for index in range(FIRST_INDEX[split], FIRST_INDEX[split] + count):
                image_id = f"{index:06d}"
                scene = draw_scene(seed, index, size_wh)
                _write_scene(folder, image_id, scene)
                present[image_id] = scene.objects
                bar.update()
            _write_lists(folder, split, present)
    os.replace(folder / BEGUN, folder / FINISHED)


def _is_finished(folder: Path, options: dict[str, Any]) -> bool:
    for name in (FINISHED, BEGUN):
        if (folder / name).exists():
            found = (folder / name).read_text()
            if found != json.dumps(options):
                raise ValueError(
                    f"{folder} has scenes of other options: {found}, now {json.dumps(options)}; "
                    "delete it or use another folder"
                )
            return name == FINISHED
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty and has no synthetic scenes; use another folder")
    return False


def _sample_squares(generator: np.random.Generator, size_wh: tuple[int, int]) -> Float32[ndarray, "n 4"]:
    """Sample the squares of the objects, the largest first, so that smaller objects are in front."""
    short_side_px = min(size_wh)
    num_objects = generator.integers(1, MAX_NUM_OBJECTS + 1)
    sides_px = np.sort(generator.uniform(*SIDE_FRACTIONS, num_objects))[::-1] * short_side_px
    squares = np.zeros((0, 4), dtype=np.float32)
    for side_px in sides_px:
        for _ in range(20):
            margin = side_px * (0.5 - MAX_OUTSIDE_FRACTION)
            centre = generator.uniform(margin, np.array(size_wh) - margin)
            square = np.concatenate([centre - side_px / 2, centre + side_px / 2]).astype(np.float32)[None]
            if _has_room(square, squares):
                squares = np.concatenate([squares, square])
                break
    return squares


def _has_room(square: Float32[ndarray, "1 4"], squares: Float32[ndarray, "n 4"]) -> bool:
    overlaps = boxes.iou(square, squares)[0]
    areas, own_area = boxes.area(squares), boxes.area(square)[0]
    # From IoU = intersection / (own + other - intersection): no object may cover much of a smaller one.
    intersection = overlaps * (areas + own_area) / (1 + overlaps)
    covered_fraction = intersection / np.minimum(areas, own_area)
    return bool((overlaps <= MAX_IOU).all() and (covered_fraction <= MAX_COVERED_FRACTION).all())


def _draw_background(generator: np.random.Generator, size_wh: tuple[int, int]) -> Float32[ndarray, "h w 3"]:
    """Draw noise of several scales around a random colour, sometimes stripes, and clutter."""
    colour = generator.uniform(80, 170) + generator.normal(0, 22, 3)
    canvas = np.full((size_wh[1], size_wh[0], 3), colour, dtype=np.float32)
    for cells, strength in ((2, 18), (5, 8), (14, 4), (48, 4)):
        canvas += _noise(generator, cells, size_wh, strength, 1)
        canvas += _noise(generator, cells, size_wh, strength / 2, 3)
    if generator.random() < 0.35:
        angle, period_px = generator.uniform(0, math.pi), generator.uniform(6, 24)
        y, x = np.mgrid[: size_wh[1], : size_wh[0]].astype(np.float32)
        waves = np.sin((x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / period_px))
        canvas += (generator.uniform(3, 8) * waves)[:, :, None].astype(np.float32)
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    _draw_clutter(generator, image)
    return np.array(image, dtype=np.float32)


def _noise(
    generator: np.random.Generator, cells: int, size_wh: tuple[int, int], strength: float, num_channels: int
) -> Float32[ndarray, "h w c"]:
    grid = generator.normal(0, strength, (num_channels, cells, cells + 1)).astype(np.float32)
    planes = [np.asarray(Image.fromarray(plane).resize(size_wh, Image.Resampling.BICUBIC)) for plane in grid]
    return np.stack(planes, axis=-1)


def _draw_clutter(generator: np.random.Generator, image: Image.Image) -> None:
    """Draw specks and strokes, which are too small and irregular for objects."""
    draw, size_wh = ImageDraw.Draw(image), np.array(image.size)
    for _ in range(generator.integers(6, 16)):
        centre = generator.uniform(0, size_wh)
        near = np.array(image.getpixel(tuple((0.999 * centre).astype(int).tolist())))
        colour = tuple(np.clip(near + generator.normal(0, 35, 3), 0, 255).astype(int).tolist())
        angles = np.sort(generator.uniform(0, 2 * math.pi, generator.integers(3, 8)))
        radii = generator.uniform(0.015, 0.05, len(angles)) * size_wh.min()
        points = centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
        if generator.random() < 0.3:
            end = centre + generator.normal(0, 0.15, 2) * size_wh
            draw.line([tuple(centre), tuple(end)], fill=colour, width=int(generator.integers(1, 3)))
        else:
            draw.polygon([tuple(point) for point in points.tolist()], fill=colour)


def _add_object(
    canvas: Float32[ndarray, "h w 3"],
    mask: UInt8[ndarray, "h w"],
    number: int,
    appearance: Appearance,
    square: Float32[ndarray, "4"],
    generator: np.random.Generator,
) -> int:
    """Paint one object over canvas and mask; return its number of pixels, visible or not."""
    side_px = float(square[2] - square[0])
    half = math.ceil(side_px * 0.66)  # a square turned by MAX_TURN_RAD reaches 0.64 of its side
    left, top = (int(edge) - half for edge in (square[:2] + square[2:]) / 2)
    turn = generator.uniform(-MAX_TURN_RAD, MAX_TURN_RAD)
    body = _cover(appearance.body, appearance.holes, side_px, turn, half)
    accent = _cover(appearance.accents, appearance.holes, side_px, turn, half)
    alpha = np.maximum(body, accent)
    inside = _inside(canvas, left, top, 2 * half)
    rows = slice(top + inside[0].start, top + inside[0].stop)
    columns = slice(left + inside[1].start, left + inside[1].stop)
    under = canvas[rows, columns]
    pixels = _paint(appearance, accent, side_px, turn, _choose_colours(generator, under.mean(axis=(0, 1))), generator)
    shadow = np.roll(alpha, (3, 2), axis=(0, 1))
    shadow = np.asarray(Image.fromarray((shadow * 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(2)))
    under *= 1 - (0.35 / 255) * shadow[inside][:, :, None].astype(np.float32)
    under += alpha[inside][:, :, None] * (pixels[inside] - under)
    mask[rows, columns][alpha[inside] >= 0.5] = number
    return int((alpha >= 0.5).sum())


def _inside(canvas: ndarray, left: int, top: int, side_px: int) -> tuple[slice, slice]:
    """Return rows and columns of a square that are inside the canvas."""
    height, width = canvas.shape[:2]
    return slice(max(0, -top), min(side_px, height - top)), slice(max(0, -left), min(side_px, width - left))


def _cover(
    parts: Sequence[Polygon], holes: Sequence[Polygon], side_px: float, turn: float, half: int
) -> Float32[ndarray, "s s"]:
    """Compute the fraction of each pixel of a square that the parts cover, in [0, 1]."""
    image = Image.new("L", (2 * half * SUPERSAMPLING,) * 2)
    draw = ImageDraw.Draw(image)
    cosine, sine = math.cos(turn), math.sin(turn)
    rotation = np.array([[cosine, sine], [-sine, cosine]]) * (side_px / 2 * SUPERSAMPLING)
    for polygons, value in ((parts, 255), (holes, 0)):
        for polygon in polygons:
            corners = np.array(polygon) @ rotation + half * SUPERSAMPLING
            draw.polygon([tuple(corner) for corner in corners.tolist()], fill=value)
    return np.asarray(image.reduce(SUPERSAMPLING), dtype=np.float32) / 255


def _paint(
    appearance: Appearance,
    accent: Float32[ndarray, "s s"],
    side_px: float,
    turn: float,
    colours: Float32[ndarray, "3 3"],
    generator: np.random.Generator,
) -> Float32[ndarray, "s s 3"]:
    """Paint the texture, the accents over it, and light from one side."""
    half = len(accent) // 2
    offsets = np.arange(-half, half, dtype=np.float32) + 0.5
    cosine, sine = math.cos(turn), math.sin(turn)
    x = cosine * offsets[None, :] + sine * offsets[:, None]
    y = cosine * offsets[:, None] - sine * offsets[None, :]
    # Larger objects carry a coarser texture, as nearer ones do.
    unit_px = TEXTURE_UNIT_PX * math.sqrt(side_px / 60)
    blend = appearance.texture(x / unit_px, y / unit_px)[:, :, None]
    pixels = colours[0] + blend * (colours[1] - colours[0])
    pixels += accent[:, :, None] * (colours[2] - pixels)
    light = generator.uniform(-math.pi, 0)
    shade = 1 + 0.3 * (offsets[None, :] * math.cos(light) + offsets[:, None] * math.sin(light)) / side_px
    return (pixels * shade[:, :, None]).astype(np.float32)


def _choose_colours(generator: np.random.Generator, background: Float32[ndarray, "3"]) -> Float32[ndarray, "3 3"]:
    """Sample two colours of the texture and one of the accents, all distinct from the background."""
    for _ in range(20):
        first = generator.uniform(20, 245, 3)
        lighter = generator.choice([-1, 1]) * generator.uniform(55, 95)
        second = np.clip(first + lighter + generator.normal(0, 15, 3), 0, 255)
        accent = generator.uniform(20, 245, 3)
        colours = np.stack([first, second, accent]).astype(np.float32)
        apart = np.linalg.norm(colours - background, axis=1)
        if apart.min() > 70 and np.linalg.norm(first - second) > 80:
            break
    return colours


def _visible_object(mask: UInt8[ndarray, "h w"], number: int, class_name: str, num_pixels: int) -> SceneObject:
    seen = mask == number
    return SceneObject(number, class_name, _box_around(seen), float(seen.sum() / num_pixels))


def _box_around(seen: Bool[ndarray, "h w"]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _write_scene(folder: Path, image_id: str, scene: Scene) -> None:
    image = Image.fromarray(scene.image)
    image.save(folder / "JPEGImages" / f"{image_id}.jpg", quality=SCENE_JPEG_QUALITY)
    mask = Image.fromarray(scene.mask)
    mask.putpalette([0, 0, 0, 224, 64, 64, 64, 160, 64, 64, 96, 224, 224, 192, 64])
    mask.save(folder / "SegmentationObject" / f"{image_id}.png", compress_level=1)
    (folder / "Annotations" / f"{image_id}.xml").write_bytes(_annotation(image_id, scene))


def _annotation(image_id: str, scene: Scene) -> bytes:
    """Write VOC's XML, whose boxes count pixels from 1 and include the last one."""
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = f"{image_id}.jpg"
    size = ET.SubElement(root, "size")
    for name, value in zip(("height", "width", "depth"), scene.image.shape):
        ET.SubElement(size, name).text = str(value)
    ET.SubElement(root, "segmented").text = "1"
    for each in scene.objects:
        element = ET.SubElement(root, "object")
        ET.SubElement(element, "name").text = each.class_name
        ET.SubElement(element, "difficult").text = str(int(each.difficult))
        box = ET.SubElement(element, "bndbox")
        left, top, right, bottom = each.box
        for name, value in (("xmin", left + 1), ("ymin", top + 1), ("xmax", right), ("ymax", bottom)):
            ET.SubElement(box, name).text = str(value)
    ET.indent(root)
    return ET.tostring(root)


def _write_lists(folder: Path, split: str, objects: dict[str, Sequence[SceneObject]]) -> None:
    lists = folder / "ImageSets" / "Main"
    (lists / f"{split}.txt").write_text("".join(f"{image_id}\n" for image_id in objects))
    for class_name in CLASSES:
        lines = []
        for image_id, each in objects.items():
            difficult = [o.difficult for o in each if o.class_name == class_name]
            label = ABSENT if not difficult else IGNORED if all(difficult) else PRESENT
            lines.append(f"{image_id} {label:2d}\n")
        (lists / f"{class_name}_{split}.txt").write_text("".join(lines))
