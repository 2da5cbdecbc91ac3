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
from tests.transfer.detection.found import SIZE_WH, random_detections, random_photos

from orl.boxes import to_xywh
from orl.transfer.detection.coco_metrics import coco_scores
from orl.transfer.detection.detections import Detections
from orl.transfer.detection.photos import DetectionPhotos, read_coco_detection

KINDS: tuple[Literal["bbox", "segm"], ...] = ("bbox", "segm")


def content_of(photos: DetectionPhotos) -> dict[str, Any]:
    """The set as a COCO JSON, written without the code under test."""
    assert photos.segmentations is not None
    assert photos.areas is not None
    annotations: list[dict[str, Any]] = []
    for row, photo_id in enumerate(photos.photo_ids):
        for left, top, right, bottom in photos.boxes[row].tolist():
            number = len([one for one in annotations if one["image_id"] == photo_id])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": photo_id,
                    "category_id": photos.category_ids[photos.box_classes[row][number]],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": float(photos.areas[row][number]),
                    "iscrowd": int(photos.ignored[row][number]),
                    "segmentation": photos.segmentations[row][number],
                }
            )
    return {
        "images": [{"id": number, "width": SIZE_WH[0], "height": SIZE_WH[1]} for number in photos.photo_ids],
        "categories": [{"id": number, "name": name} for number, name in zip(photos.category_ids, photos.classes)],
        "annotations": annotations,
    }


def pycocotools_scores(
    content: dict[str, Any], photos: DetectionPhotos, detections: Detections, kind: str
) -> tuple[list[float], list[float]]:
    """Their figures, and the AP of each class."""
    entries = []
    for index, box in enumerate(to_xywh(detections.boxes.astype(np.float64)).tolist()):
        entry: dict[str, Any] = {
            "image_id": int(detections.photo_ids[index]),
            "category_id": photos.category_ids[detections.classes[index]],
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
    photos = random_photos(seed)
    detections = random_detections(photos, seed + 50)
    scores, per_class = coco_scores(photos, detections, kind)
    theirs, theirs_per_class = pycocotools_scores(content_of(photos), photos, detections, kind)
    assert list(scores) == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"]
    assert len({round(value, 6) for value in theirs}) == 7
    assert_same(scores, theirs)
    assert list(per_class) == list(photos.classes)
    assert_same(per_class, theirs_per_class)


@pytest.mark.parametrize("kind", KINDS)
def test_more_than_100_detections_of_a_photo_are_cut_as_pycocotools_does(kind: Literal["bbox", "segm"]) -> None:
    photos = random_photos(7, 2, 1)
    found = [random_detections(photos, seed) for seed in range(12)]
    detections = Detections.merge(found)
    assert np.bincount(detections.photo_ids).max() > 150
    scores, _ = coco_scores(photos, detections, kind)
    assert_same(scores, pycocotools_scores(content_of(photos), photos, detections, kind)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_scores_on_real_annotations_are_those_of_pycocotools(real_data: Path, kind: Literal["bbox", "segm"]) -> None:
    photos = read_coco_detection(real_data / "coco-mini", "val2017")
    content = json.loads((real_data / "coco-mini" / "annotations" / "instances_val2017.json").read_text())
    assert photos.segmentations is not None
    generator = np.random.default_rng(0)
    shares = []
    for row, photo_id in enumerate(photos.photo_ids):
        # Each box moved a little, with the mask of an object of the same photo: sometimes the wrong one.
        count = len(photos.boxes[row])
        moved = photos.boxes[row] + generator.normal(0, 5, (count, 4)).astype(np.float32)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        whose = np.where(generator.random(count) < 0.6, np.arange(count), generator.integers(0, max(count, 1), count))
        shares.append(
            Detections(
                photo_ids=np.full(count, photo_id),
                boxes=moved,
                classes=photos.box_classes[row],
                scores=generator.random(count).round(2).astype(np.float32),
                masks=tuple(photos.segmentations[row][index] for index in whose),
            )
        )
    detections = Detections.merge(shares)
    scores, per_class = coco_scores(photos, detections, kind)
    theirs, theirs_per_class = pycocotools_scores(content, photos, detections, kind)
    assert 0.1 < theirs[0] < 0.9
    assert_same(scores, theirs)
    assert_same(per_class, theirs_per_class)
    assert any(score is None for score in per_class.values())


def tiny() -> DetectionPhotos:
    """Two large objects of class a, none of class b."""
    return replace(
        random_photos(0, 1, 2),
        photo_ids=(9,),
        boxes=(np.array([[0, 0, 100, 100], [200, 100, 300, 200]], dtype=np.float32),),
        box_classes=(np.array([0, 0]),),
        ignored=(np.array([False, False]),),
        segmentations=None,
        areas=None,
    )


def found(boxes: list[list[float]], scores: list[float]) -> Detections:
    return Detections(
        photo_ids=np.full(len(boxes), 9),
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
    photos = random_photos(3)
    scores, per_class = coco_scores(photos, Detections.merge([]), kind)
    assert set(scores.values()) == {0}
    assert set(per_class.values()) == {0}


def test_classes_of_unordered_ids_keep_their_names() -> None:
    photos = tiny()
    detections = found([[0, 0, 100, 100]], [0.9])
    swapped = replace(photos, category_ids=photos.category_ids[::-1])
    assert coco_scores(swapped, detections, "bbox")[1] == coco_scores(photos, detections, "bbox")[1]


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    photos = random_photos(3)
    coco_scores(photos, random_detections(photos, 1), "bbox")
    assert capfd.readouterr() == ("", "")


def test_masks_that_are_missing_are_refused() -> None:
    photos = random_photos(3)
    detections = random_detections(photos, 1)
    with pytest.raises(ValueError, match="the photos of nowhere have none"):
        coco_scores(replace(photos, segmentations=None), detections, "segm")
    with pytest.raises(ValueError, match=f"{len(detections)} detections have none"):
        coco_scores(photos, replace(detections, masks=None), "segm")
