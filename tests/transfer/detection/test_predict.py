import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from tests.ports import free_port
from tests.transfer.detection.small import SETTINGS, draw_photos
from torch import Tensor, nn
from torch.testing import assert_close

from orl.images.decode import load_photo
from orl.networks.backbones import build_backbone
from orl.processes import Processes, joined_processes
from orl.transfer.detection.model import build_detector
from orl.transfer.detection.photos import DetectionPhotos
from orl.transfer.detection.predict import detect, predict
from orl.transfer.detection.results_file import read_detections, write_detections

HALF = replace(SETTINGS, test_short_side_px=36)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> DetectionPhotos:
    return draw_photos(tmp_path_factory.mktemp("photos"), 3)


class Certain(nn.Module):
    """Heads that answer alike whatever they see: these boxes of the resized photo, and masks of their left half."""

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


def test_boxes_and_masks_are_in_pixels_of_the_photo_before_it_was_resized(photos: DetectionPhotos) -> None:
    found = predict(certain(2), photos, HALF, Processes(), workers=0, quiet=True)
    assert found.photo_ids.tolist() == [100, 100, 101, 101, 102, 102]
    assert found.classes.tolist() == [0, 1] * 3
    assert_close(found.scores, np.tile(np.array([0.9, 0.5], dtype=np.float32), 3))
    assert found.boxes.tolist() == [[8, 12, 48, 36], [0, 0, 96, 72]] * 3
    assert found.masks is not None
    mask = coco_mask.decode(found.masks[0])
    ys, xs = np.nonzero(mask)
    assert mask.shape == (72, 96)
    # The left half; torchvision pastes into boxes whose ends are whole pixels, both included.
    assert (xs.min(), xs.max() + 1, ys.min(), ys.max() + 1) == pytest.approx((8, 28, 12, 37), abs=1)
    assert mask.sum() == len(xs) == (xs.max() + 1 - xs.min()) * (ys.max() + 1 - ys.min())


def test_masks_pasted_in_portions_are_those_of_all_at_once() -> None:
    few, many = certain(2), certain(40)
    photo = torch.zeros(3, 36, 48, dtype=torch.uint8)
    _, pasted = detect(few, photo, (72, 96))
    expected = torch.cat(list(pasted))[torch.arange(40) % 2]
    found, pasted = detect(many, photo, (72, 96))
    portions = list(pasted)
    assert len(portions) == 3
    assert torch.equal(torch.cat(portions), expected)
    assert len(found["boxes"]) == 40


def untrained(photos: DetectionPhotos) -> nn.Module:
    """A random detector that keeps whatever it finds."""
    torch.manual_seed(0)
    detector = build_detector(build_backbone("resnet10"), len(photos.classes), SETTINGS)
    detector.roi_heads.score_thresh = 0.0
    detector.roi_heads.detections_per_img = 7
    return detector.eval()


def test_a_detection_is_what_torchvision_finds_in_the_photo_alone(photos: DetectionPhotos) -> None:
    detector = untrained(photos)
    whole = replace(SETTINGS, test_short_side_px=72)
    found = predict(detector, photos, whole, Processes(), workers=0, quiet=True)
    with torch.no_grad():
        pixels = torch.from_numpy(load_photo(photos.root / photos.names[1])).permute(2, 0, 1) / 255
        (expected,) = detector([pixels])
    rows = found.photo_ids == photos.photo_ids[1]
    assert rows.sum() == 7
    assert_close(torch.from_numpy(found.boxes[rows]), expected["boxes"])
    assert_close(torch.from_numpy(found.scores[rows]), expected["scores"])
    assert found.classes[rows].tolist() == (expected["labels"] - 1).tolist()
    assert found.masks is not None
    masks = np.stack([coco_mask.decode(rle) for rle, own in zip(found.masks, rows) if own])
    assert np.array_equal(masks, (expected["masks"][:, 0] > 0.5).numpy())


def test_without_masks_there_are_none_and_the_detector_is_left_in_evaluation_mode(photos: DetectionPhotos) -> None:
    torch.manual_seed(0)
    settings = replace(SETTINGS, masks=False)
    detector = build_detector(build_backbone("resnet10"), len(photos.classes), settings)
    detector.roi_heads.score_thresh = 0.0
    found = predict(detector, photos, settings, Processes(), workers=0, quiet=True)
    assert found.masks is None
    assert len(found.scores) > 0
    assert not detector.training


def test_a_detector_that_finds_nothing_gives_no_rows(photos: DetectionPhotos, tmp_path: Path) -> None:
    detector = untrained(photos)
    detector.roi_heads.score_thresh = 1.1
    found = predict(detector, photos, SETTINGS, Processes(), workers=0, quiet=True)
    assert len(found.scores) == len(found.boxes) == 0
    write_detections(tmp_path / "none.json", found, photos)
    assert len(read_detections(tmp_path / "none.json", photos).scores) == 0


def one_of_two(rank: int, port: int, photos: DetectionPhotos, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with joined_processes(torch.device("cpu")) as processes:
        found = predict(untrained(photos), photos, SETTINGS, processes, workers=0, quiet=True)
        write_detections(folder / f"{rank}.json", found, photos)


def test_two_processes_find_what_one_finds(photos: DetectionPhotos, tmp_path: Path) -> None:
    alone = predict(untrained(photos), photos, SETTINGS, Processes(), workers=0, quiet=True)
    multiprocessing.spawn(one_of_two, (free_port(), photos, tmp_path), nprocs=2)
    for rank in range(2):
        found = read_detections(tmp_path / f"{rank}.json", photos)
        order = np.argsort(found.photo_ids, kind="stable")
        assert found.photo_ids[order].tolist() == alone.photo_ids.tolist()
        assert_close(found.boxes[order], alone.boxes)
        assert_close(found.scores[order], alone.scores)


def test_the_file_gives_back_what_was_written_and_pycocotools_reads_it(photos: DetectionPhotos, tmp_path: Path) -> None:
    found = predict(untrained(photos), photos, SETTINGS, Processes(), workers=0, quiet=True)
    path = tmp_path / "found.json"
    write_detections(path, found, photos)
    back = read_detections(path, photos)
    assert np.array_equal(back.photo_ids, found.photo_ids)
    assert np.array_equal(back.classes, found.classes)
    assert np.array_equal(back.scores, found.scores)
    assert_close(back.boxes, found.boxes)
    truth = COCO()
    truth.dataset = {"images": [{"id": number} for number in photos.photo_ids], "annotations": [], "categories": []}
    truth.createIndex()
    seen = truth.loadRes(str(path)).loadAnns(range(1, len(found.scores) + 1))
    assert found.masks is not None
    assert back.masks is not None
    for number, entry in enumerate(seen):
        assert np.array_equal(coco_mask.decode(entry["segmentation"]), coco_mask.decode(found.masks[number]))
        assert np.array_equal(coco_mask.decode(back.masks[number]), coco_mask.decode(found.masks[number]))
        assert entry["category_id"] == photos.category_ids[found.classes[number]]


def test_a_file_of_other_classes_is_refused(photos: DetectionPhotos, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text('[{"image_id": 100, "category_id": 99, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    with pytest.raises(ValueError, match="99"):
        read_detections(path, photos)
