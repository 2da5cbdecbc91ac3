import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tests.evaluation.detection.found import SIZE_WH, random_detections, random_images

from orl.boxes import to_xywh
from orl.evaluation.detection.coco_metrics import coco_scores
from orl.evaluation.detection.datasets import DetectionDataset, read_coco_detection
from orl.evaluation.detection.detections import Detections

KINDS: tuple[Literal["bbox", "segm"], ...] = ("bbox", "segm")


def content_of(images: DetectionDataset) -> dict[str, Any]:
    """The set as a COCO JSON, written without the code under test."""
    assert images.segmentations is not None
    assert images.areas is not None
    annotations: list[dict[str, Any]] = []
    for row, image_id in enumerate(images.image_ids):
        for left, top, right, bottom in images.boxes[row].tolist():
            number = len([one for one in annotations if one["image_id"] == image_id])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": images.category_ids[images.box_classes[row][number]],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": float(images.areas[row][number]),
                    "iscrowd": int(images.ignored[row][number]),
                    "segmentation": images.segmentations[row][number],
                }
            )
    return {
        "images": [{"id": number, "width": SIZE_WH[0], "height": SIZE_WH[1]} for number in images.image_ids],
        "categories": [{"id": number, "name": name} for number, name in zip(images.category_ids, images.classes)],
        "annotations": annotations,
    }


def pycocotools_scores(
    content: dict[str, Any], images: DetectionDataset, detections: Detections, kind: str
) -> tuple[list[float], list[float]]:
    """Their figures, and the AP of each class."""
    entries = []
    for index, box in enumerate(to_xywh(detections.boxes.astype(np.float64)).tolist()):
        entry: dict[str, Any] = {
            "image_id": int(detections.image_ids[index]),
            "category_id": images.category_ids[detections.classes[index]],
            "score": float(detections.scores[index]),
        }
        if kind == "bbox":
            entry["bbox"] = box
        else:
            assert detections.masks is not None
            entry["segmentation"] = detections.masks[index]
        entries.append(entry)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(entries), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    per_class = [values[values > -1].mean() if (values > -1).any() else -1 for values in precision.transpose(2, 0, 1)]
    return evaluation.stats[[0, 1, 2, 3, 4, 5, 8]].tolist(), per_class


def assert_same(ours: dict[str, float | None], theirs: list[float]) -> None:
    assert [-1 if score is None else score for score in ours.values()] == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_pycocotools(seed: int, kind: Literal["bbox", "segm"]) -> None:
    images = random_images(seed)
    detections = random_detections(images, seed + 50)
    scores, per_class = coco_scores(images, detections, kind)
    theirs, theirs_per_class = pycocotools_scores(content_of(images), images, detections, kind)
    assert list(scores) == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"]
    assert len({round(value, 6) for value in theirs}) == 7
    assert_same(scores, theirs)
    assert list(per_class) == list(images.classes)
    assert_same(per_class, theirs_per_class)


@pytest.mark.parametrize("kind", KINDS)
def test_more_than_100_detections_of_an_image_are_cut_as_pycocotools_does(kind: Literal["bbox", "segm"]) -> None:
    images = random_images(7, 2, 1)
    found = [random_detections(images, seed) for seed in range(12)]
    detections = Detections.merge(found)
    assert np.bincount(detections.image_ids).max() > 150
    scores, _ = coco_scores(images, detections, kind)
    assert_same(scores, pycocotools_scores(content_of(images), images, detections, kind)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_scores_on_real_annotations_are_those_of_pycocotools(real_data: Path, kind: Literal["bbox", "segm"]) -> None:
    images = read_coco_detection(real_data / "coco-mini", "val2017")
    content = json.loads((real_data / "coco-mini" / "annotations" / "instances_val2017.json").read_text())
    assert images.segmentations is not None
    generator = np.random.default_rng(0)
    fractions = []
    for row, image_id in enumerate(images.image_ids):
        # Each box moved a little, with the mask of an object of the same image: sometimes the wrong one.
        count = len(images.boxes[row])
        moved = images.boxes[row] + generator.normal(0, 5, (count, 4)).astype(np.float32)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        whose = np.where(generator.random(count) < 0.6, np.arange(count), generator.integers(0, max(count, 1), count))
        fractions.append(
            Detections(
                image_ids=np.full(count, image_id),
                boxes=moved,
                classes=images.box_classes[row],
                scores=generator.random(count).round(2).astype(np.float32),
                masks=tuple(images.segmentations[row][index] for index in whose),
            )
        )
    detections = Detections.merge(fractions)
    scores, per_class = coco_scores(images, detections, kind)
    theirs, theirs_per_class = pycocotools_scores(content, images, detections, kind)
    assert 0.1 < theirs[0] < 0.9
    assert_same(scores, theirs)
    assert_same(per_class, theirs_per_class)
    assert any(score is None for score in per_class.values())


def tiny() -> DetectionDataset:
    """Two large objects of class a, none of class b."""
    return replace(
        random_images(0, 1, 2),
        image_ids=(9,),
        boxes=(np.array([[0, 0, 100, 100], [200, 100, 300, 200]], dtype=np.float32),),
        box_classes=(np.array([0, 0]),),
        ignored=(np.array([False, False]),),
        segmentations=None,
        areas=None,
    )


def found(boxes: list[list[float]], scores: list[float]) -> Detections:
    return Detections(
        image_ids=np.full(len(boxes), 9),
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        classes=np.zeros(len(boxes), dtype=np.int64),
        scores=np.array(scores, dtype=np.float32),
    )


def test_scores_of_three_detections_are_known() -> None:
    # Right, wrong, right at IoU 0.8: precision 1 at the 51 recalls up to 1/2, then 2/3 at 50, where 0.8 is enough.
    detections = found([[0, 0, 100, 100], [0, 200, 50, 300], [200, 100, 300, 180]], [0.9, 0.8, 0.7])
    scores, per_class = coco_scores(tiny(), detections, "bbox")
    both, one = (51 + 50 * 2 / 3) / 101, 51 / 101
    assert scores["AP50"] == pytest.approx(both)
    assert scores["AP75"] == pytest.approx(both)
    # 0.50, 0.55, ..., 0.75 and 0.80 itself are reached.
    assert scores["AP"] == pytest.approx((7 * both + 3 * one) / 10)
    assert per_class == {"a": scores["AP"], "b": None}
    # The wrong one is of medium size: among large objects it does not count.
    assert (scores["APs"], scores["APm"]) == (None, None)
    assert scores["APl"] == pytest.approx((7 * 1 + 3 * one) / 10)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_found_scores_zero(kind: Literal["bbox", "segm"]) -> None:
    images = random_images(3)
    scores, per_class = coco_scores(images, Detections.merge([]), kind)
    assert set(scores.values()) == {0}
    assert set(per_class.values()) == {0}


def test_classes_of_unordered_ids_keep_their_names() -> None:
    images = tiny()
    detections = found([[0, 0, 100, 100]], [0.9])
    swapped = replace(images, category_ids=images.category_ids[::-1])
    assert coco_scores(swapped, detections, "bbox")[1] == coco_scores(images, detections, "bbox")[1]


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    images = random_images(3)
    coco_scores(images, random_detections(images, 1), "bbox")
    assert capfd.readouterr() == ("", "")


def test_masks_that_are_missing_are_refused() -> None:
    images = random_images(3)
    detections = random_detections(images, 1)
    with pytest.raises(ValueError, match="the images of nowhere have no masks"):
        coco_scores(replace(images, segmentations=None), detections, "segm")
    with pytest.raises(ValueError, match=f"{len(detections)} detections have no masks"):
        coco_scores(images, replace(detections, masks=None), "segm")
