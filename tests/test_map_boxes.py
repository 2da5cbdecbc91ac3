"""Boxes on feature maps: of a network that averages colours, on images of blocks."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from orl.boxes import iou
from orl.embed import ImageWorkers
from orl.map_boxes import SHORT_SIDES_PX, at_short_sides, boxes_on_maps, find_boxes_on_maps

CPU = torch.device("cpu")
BLOCKS = np.array([[32, 32, 64, 80], [112, 64, 176, 96]], np.float32)


def picture() -> np.ndarray:
    """Two blocks of one colour each, on grey, 192 x 128 pixels."""
    pixels = np.full((128, 192, 3), 120, dtype=np.uint8)
    for (left, top, right, bottom), colour in zip(BLOCKS.astype(int), ((250, 10, 20), (10, 20, 250))):
        pixels[top:bottom, left:right] = colour
    return pixels


def colours(images: Tensor) -> Tensor:
    """The mean colour of each block of 40 px of the smaller size, which is 16 px of the image, and of 60 px."""
    return nn.functional.avg_pool2d(images, min(images.shape[2:]) // 8)


def test_the_blocks_of_an_image_are_found_exactly_and_each_box_once() -> None:
    found = find_boxes_on_maps(colours, at_short_sides(picture()), CPU)
    np.testing.assert_allclose(iou(BLOCKS, found).max(axis=1), 1, atol=1e-6)
    assert len(np.unique(found, axis=0)) == len(found)
    assert (found >= 0).all()
    assert (found <= [192, 128, 192, 128]).all()
    assert found.dtype == np.float32


def test_images_are_resized_to_both_short_sides() -> None:
    images, size_wh = at_short_sides(picture())
    assert [tuple(image.shape) for image in images] == [(1, 3, px, px * 3 // 2) for px in SHORT_SIDES_PX]
    assert size_wh == (192, 128)


def test_boxes_of_many_images_are_those_of_each_in_order(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images = [picture(), np.repeat(generator.integers(0, 255, (9, 9, 3), dtype=np.uint8), 9, axis=0)]
    paths = [tmp_path / f"{index}.png" for index in range(2)]
    for path, image in zip(paths, images):
        Image.fromarray(image).save(path)
    reported: list[int] = []
    found = list(boxes_on_maps(colours, paths, device=CPU, workers=ImageWorkers(0), report=reported.append))
    assert reported == [1, 1]
    for own, image in zip(found, images, strict=True):
        np.testing.assert_array_equal(own, find_boxes_on_maps(colours, at_short_sides(image), CPU))


def test_an_image_of_one_colour_has_boxes_inside_it() -> None:
    found = find_boxes_on_maps(colours, at_short_sides(np.full((40, 60, 3), 9, np.uint8)), CPU)
    assert len(found) > 0
    assert (found[:, 2:] > found[:, :2]).all()
