import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from tests.evaluation.detection.small import SMALL_CONFIG, draw_images
from tests.ports import free_port
from torch import Tensor, nn
from torch.testing import assert_close

from orl.datasets.decode import load_image
from orl.evaluation.detection.datasets import DetectionDataset
from orl.evaluation.detection.model import build_detector
from orl.evaluation.detection.predict import detect, predict
from orl.evaluation.detection.results_file import read_detections, write_detections
from orl.networks.backbones import build_backbone
from orl.processes import Processes, joined_processes

HALF = replace(SMALL_CONFIG, test_short_side_px=36)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return draw_images(tmp_path_factory.mktemp("images"), 3)


class Certain(nn.Module):
    """Heads that answer alike whatever they see: these boxes of the resized image, and masks of their left half."""

    def __init__(self, boxes: Tensor) -> None:
        super().__init__()
        self.boxes, self.mask_head = boxes, object()

    def has_mask(self) -> bool:
        return True

    def forward(self, *_: object) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        count = len(self.boxes)
        masks = torch.zeros(count, 1, 28, 28)
        masks[..., :14] = 1
        scores = torch.linspace(0.9, 0.5, count)
        return [{"boxes": self.boxes, "labels": torch.arange(1, count + 1), "scores": scores, "masks": masks}], {}


def certain(num_boxes: int) -> nn.Module:
    torch.manual_seed(0)
    detector = build_detector(build_backbone("resnet10"), 5, HALF)
    boxes = torch.tensor([[4.0, 6, 24, 18], [0, 0, 48, 36]])[torch.arange(num_boxes) % 2]
    detector.roi_heads = Certain(boxes)
    return detector.eval()


def test_boxes_and_masks_are_in_pixels_of_the_image_file(images: DetectionDataset) -> None:
    found = predict(certain(2), images, HALF, Processes(), workers=0, quiet=True)
    assert found.image_ids.tolist() == [100, 100, 101, 101, 102, 102]
    assert found.classes.tolist() == [0, 1] * 3
    assert_close(found.scores, np.tile(np.array([0.9, 0.5], dtype=np.float32), 3))
    assert found.boxes.tolist() == [[8, 12, 48, 36], [0, 0, 96, 72]] * 3
    assert found.masks is not None
    mask = coco_mask.decode(found.masks[0])
    ys, xs = np.nonzero(mask)
    assert mask.shape == (72, 96)
    # The left half; torchvision pastes into boxes whose ends are complete pixels, both included.
    assert (xs.min(), xs.max() + 1, ys.min(), ys.max() + 1) == pytest.approx((8, 28, 12, 37), abs=1)
    assert mask.sum() == len(xs) == (xs.max() + 1 - xs.min()) * (ys.max() + 1 - ys.min())


def test_masks_pasted_in_groups_equal_masks_pasted_at_once() -> None:
    few, many = certain(2), certain(40)
    image = torch.zeros(3, 36, 48, dtype=torch.uint8)
    _, pasted = detect(few, image, (72, 96))
    expected = torch.cat(list(pasted))[torch.arange(40) % 2]
    found, pasted = detect(many, image, (72, 96))
    portions = list(pasted)
    assert len(portions) == 3
    assert torch.equal(torch.cat(portions), expected)
    assert len(found["boxes"]) == 40


def untrained(images: DetectionDataset) -> nn.Module:
    """A random detector that keeps whatever it finds."""
    torch.manual_seed(0)
    detector = build_detector(build_backbone("resnet10"), len(images.classes), SMALL_CONFIG)
    detector.roi_heads.score_thresh = 0.0
    detector.roi_heads.detections_per_img = 7
    return detector.eval()


def test_detections_equal_torchvisions_on_a_single_image(images: DetectionDataset) -> None:
    detector = untrained(images)
    complete = replace(SMALL_CONFIG, test_short_side_px=72)
    found = predict(detector, images, complete, Processes(), workers=0, quiet=True)
    with torch.no_grad():
        pixels = torch.from_numpy(load_image(images.root / images.names[1])).permute(2, 0, 1) / 255
        (expected,) = detector([pixels])
    rows = found.image_ids == images.image_ids[1]
    assert rows.sum() == 7
    assert_close(torch.from_numpy(found.boxes[rows]), expected["boxes"])
    assert_close(torch.from_numpy(found.scores[rows]), expected["scores"])
    assert found.classes[rows].tolist() == (expected["labels"] - 1).tolist()
    assert found.masks is not None
    masks = np.stack([coco_mask.decode(rle) for rle, own in zip(found.masks, rows) if own])
    assert np.array_equal(masks, (expected["masks"][:, 0] > 0.5).numpy())


def test_without_masks_the_detections_have_none(images: DetectionDataset) -> None:
    torch.manual_seed(0)
    config = replace(SMALL_CONFIG, masks=False)
    detector = build_detector(build_backbone("resnet10"), len(images.classes), config)
    detector.roi_heads.score_thresh = 0.0
    found = predict(detector, images, config, Processes(), workers=0, quiet=True)
    assert found.masks is None
    assert len(found.scores) > 0
    assert not detector.training


def test_a_detector_without_detections_gives_an_empty_list(images: DetectionDataset, tmp_path: Path) -> None:
    detector = untrained(images)
    detector.roi_heads.score_thresh = 1.1
    found = predict(detector, images, SMALL_CONFIG, Processes(), workers=0, quiet=True)
    assert len(found.scores) == len(found.boxes) == 0
    write_detections(tmp_path / "none.json", found, images)
    assert len(read_detections(tmp_path / "none.json", images).scores) == 0


def one_of_two(rank: int, port: int, images: DetectionDataset, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with joined_processes(torch.device("cpu")) as processes:
        found = predict(untrained(images), images, SMALL_CONFIG, processes, workers=0, quiet=True)
        write_detections(folder / f"{rank}.json", found, images)


def test_two_processes_detect_the_same_as_one(images: DetectionDataset, tmp_path: Path) -> None:
    alone = predict(untrained(images), images, SMALL_CONFIG, Processes(), workers=0, quiet=True)
    multiprocessing.spawn(one_of_two, (free_port(), images, tmp_path), nprocs=2)
    for rank in range(2):
        found = read_detections(tmp_path / f"{rank}.json", images)
        order = np.argsort(found.image_ids, kind="stable")
        assert found.image_ids[order].tolist() == alone.image_ids.tolist()
        assert_close(found.boxes[order], alone.boxes)
        assert_close(found.scores[order], alone.scores)


def test_the_results_file_round_trips_and_pycocotools_reads_it(images: DetectionDataset, tmp_path: Path) -> None:
    found = predict(untrained(images), images, SMALL_CONFIG, Processes(), workers=0, quiet=True)
    path = tmp_path / "found.json"
    write_detections(path, found, images)
    back = read_detections(path, images)
    assert np.array_equal(back.image_ids, found.image_ids)
    assert np.array_equal(back.classes, found.classes)
    assert np.array_equal(back.scores, found.scores)
    assert_close(back.boxes, found.boxes)
    truth = COCO()
    truth.dataset = {"images": [{"id": number} for number in images.image_ids], "annotations": [], "categories": []}
    truth.createIndex()
    seen = truth.loadRes(str(path)).loadAnns(range(1, len(found.scores) + 1))
    assert found.masks is not None
    assert back.masks is not None
    for number, entry in enumerate(seen):
        assert np.array_equal(coco_mask.decode(entry["segmentation"]), coco_mask.decode(found.masks[number]))
        assert np.array_equal(coco_mask.decode(back.masks[number]), coco_mask.decode(found.masks[number]))
        assert entry["category_id"] == images.category_ids[found.classes[number]]


def test_a_file_of_other_classes_is_refused(images: DetectionDataset, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text('[{"image_id": 100, "category_id": 99, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    with pytest.raises(ValueError, match="99"):
        read_detections(path, images)
