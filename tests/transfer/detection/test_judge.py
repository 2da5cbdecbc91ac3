import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.transfer.detection.small import SETTINGS, draw_photos
from torch import nn

from orl.networks.backbones import build_backbone
from orl.processes import Processes
from orl.tables import StaleTableError
from orl.transfer.detection import judge
from orl.transfer.detection.detections import Detections
from orl.transfer.detection.judge import judge_detection, judge_voc_detection
from orl.transfer.detection.photos import DetectionPhotos
from orl.transfer.detection.settings import COCO, DetectSettings, plan_training
from orl.transfer.place import Place
from orl.transfer.subject import Subject


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> DetectionPhotos:
    return draw_photos(tmp_path_factory.mktemp("train"), 6)


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> DetectionPhotos:
    return draw_photos(tmp_path_factory.mktemp("val"), 3, first=500_000)


def subject(seed: int = 0) -> Subject:
    torch.manual_seed(seed)
    return Subject(label=f"random resnet10, seed {seed}", network=build_backbone("resnet10").eval(), digest=str(seed))


def place(folder: Path, **others: Any) -> Place:
    return Place(result=folder / "detect.json", workers=0, device="cpu", quiet=True, **others)


def without_masks(photos: DetectionPhotos) -> DetectionPhotos:
    return replace(photos, segmentations=None)


def judged(train: DetectionPhotos, val: DetectionPhotos, folder: Path, **others: Any) -> dict[str, Any]:
    result = judge_detection(subject(), train, val, SETTINGS, place(folder, **others), Processes())
    assert result is not None
    return result


def test_the_result_says_what_was_judged_and_how(train: DetectionPhotos, val: DetectionPhotos, tmp_path: Path) -> None:
    result = judged(train, val, tmp_path)
    assert json.loads((tmp_path / "detect.json").read_text()) == json.loads(json.dumps(result))
    assert (result["task"], result["backbone"]) == ("detect", "random resnet10, seed 0")
    assert set(result["box"]) >= {"AP", "AP50", "AP75", "APs", "APm", "APl"}
    assert set(result["mask"]) == set(result["box"])
    assert (result["num_train"], result["num_test"], result["num_steps"], result["lr"]) == (6, 3, 3, 0.005)
    assert result["milestones"] == (2, 3)
    assert result["schedule"] == "own settings, 3 steps"
    assert len((tmp_path / "detect" / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_result_that_is_there_is_not_made_again_and_another_one_is_refused(
    train: DetectionPhotos, val: DetectionPhotos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = judged(train, val, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(judge, "build_trainee", None)
        assert judged(train, val, tmp_path) == json.loads(json.dumps(first))
    others = replace(train, boxes=(train.boxes[0] + 1, *train.boxes[1:]))
    with pytest.raises(StaleTableError, match="train"):
        judged(others, val, tmp_path)
    with pytest.raises(StaleTableError, match="backbone"):
        judge_detection(subject(1), train, val, SETTINGS, place(tmp_path), Processes())
    again = judge_detection(subject(1), train, val, SETTINGS, place(tmp_path, overwrite=True), Processes())
    assert again is not None
    assert again["backbone"] == "random resnet10, seed 1"


def oracle(shift_px: float) -> Any:
    """In the place of `predict`: everything that is there, moved a little."""

    def found(_: object, photos: DetectionPhotos, *args: object, **options: object) -> Detections:
        assert photos.segmentations is not None
        counts = [len(each) for each in photos.boxes]
        return Detections(
            photo_ids=np.repeat(photos.photo_ids, counts),
            boxes=np.concatenate(photos.boxes) + np.float32(shift_px),
            classes=np.concatenate(photos.box_classes),
            scores=np.linspace(0.3, 0.9, sum(counts), dtype=np.float32),
            masks=tuple(rle for each in photos.segmentations for rle in each),
        )

    return found


def test_a_detector_that_finds_everything_scores_one(
    train: DetectionPhotos, val: DetectionPhotos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "predict", oracle(0.0))
    result = judged(train, val, tmp_path)
    assert (result["box"]["AP"], result["mask"]["AP"]) == pytest.approx((1.0, 1.0))
    seen = {val.classes[label] for labels in val.box_classes for label in labels}
    assert {name for name, score in result["box_per_class"].items() if score is not None} == seen


def test_a_killed_evaluation_goes_on_from_the_detections(
    train: DetectionPhotos, val: DetectionPhotos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(judge, "coco_scores", killed)
        patched.setattr(judge, "predict", oracle(1 / 3))
        with pytest.raises(KeyboardInterrupt):
            judged(train, val, tmp_path / "killed")
    with monkeypatch.context() as patched:
        patched.setattr(judge, "build_trainee", None)
        resumed = judged(train, val, tmp_path / "killed")
    monkeypatch.setattr(judge, "predict", oracle(1 / 3))
    whole = judged(train, val, tmp_path / "whole")
    assert 0 < whole["box"]["AP"] < 1
    assert {**resumed, "elapsed_s": 0} == {**whole, "elapsed_s": 0}
    detections = [(tmp_path / name / "detect" / "detections.json").read_bytes() for name in ("killed", "whole")]
    assert detections[0] == detections[1]


def test_photos_with_crowds_alone_are_not_learnt_from(
    train: DetectionPhotos, val: DetectionPhotos, tmp_path: Path
) -> None:
    ignored = (np.ones(len(train.boxes[0]), dtype=bool), *train.ignored[1:])
    assert judged(replace(train, ignored=ignored), val, tmp_path)["num_train"] == 5


def test_voc_has_boxes_alone_and_learns_difficult_objects(
    train: DetectionPhotos, val: DetectionPhotos, tmp_path: Path
) -> None:
    ignored = (np.ones(len(train.boxes[0]), dtype=bool), *train.ignored[1:])
    hard = without_masks(replace(train, ignored=ignored))
    result = judge_voc_detection(subject(), hard, without_masks(val), SETTINGS, place(tmp_path), Processes())
    assert result is not None
    assert (result["task"], result["num_train"]) == ("detect-voc", 6)  # for COCO it would be 5
    assert set(result["box"]) == {"AP", "AP50", "AP75"}
    assert "mask" not in result


def test_coco_can_be_judged_by_boxes_alone(train: DetectionPhotos, val: DetectionPhotos, tmp_path: Path) -> None:
    settings = replace(SETTINGS, masks=False)
    result = judge_detection(
        subject(), without_masks(train), without_masks(val), settings, place(tmp_path), Processes()
    )
    assert result is not None
    assert result["mask"] is None


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (DetectSettings(), "1x"),
        (DetectSettings(schedule="2x", batch_size=8), "2x"),
        (DetectSettings(masks=False), "1x"),
        (DetectSettings(iterations=90_000), "own settings, 90000 steps"),
        (DetectSettings(base_lr=0.01), "own settings, 90000 steps"),
    ],
)
def test_only_the_protocol_has_the_protocols_name(settings: DetectSettings, name: str) -> None:
    assert judge._schedule(settings, plan_training(settings, COCO)) == name


class Foreign(nn.Module):
    name = "efficientnet_lite0"


def test_what_cannot_be_judged_is_refused_before_anything_is_written(
    train: DetectionPhotos, val: DetectionPhotos, tmp_path: Path
) -> None:
    def refused(message: str, *, network: Any = None, **others: Any) -> None:
        given: dict[str, Any] = {"train": train, "val": val, "settings": SETTINGS, "processes": Processes(), **others}
        own = subject()
        if network is not None:
            own.__dict__["network"] = network
        with pytest.raises(ValueError, match=message):
            judge_detection(own, given["train"], given["val"], given["settings"], place(tmp_path), given["processes"])

    refused("'efficientnet_lite0' is none", network=Foreign())
    refused("have no masks", train=without_masks(train))
    refused("have no masks", val=without_masks(val))
    refused("a batch of 7 needs as many photos, and 6 of", settings=replace(SETTINGS, batch_size=7))
    refused("a batch of 4 cannot be shared evenly by 3", processes=Processes(rank=0, count=3))
    refused("differ: ball, zebra;", val=replace(val, classes=("zebra", *val.classes[1:])))
    refused("differ: they are in another order", val=replace(val, classes=val.classes[::-1]))
    refused("0 of the 3 photos to score", val=replace(val, ignored=tuple(~one for one in val.ignored)))
    refused("base-lr is -1", settings=replace(SETTINGS, base_lr=-1.0))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_detector_learns_the_scenes_it_sees(tmp_path: Path) -> None:
    photos = draw_photos(tmp_path / "photos", 8)
    settings = replace(
        SETTINGS,
        iterations=200,
        base_lr=0.64,
        warmup_iterations=20,
        short_sides_px=(72,),
        precise_bn_iterations=10,
        num_rois=32,
    )
    result = judge_detection(subject(), photos, photos, settings, place(tmp_path), Processes())
    assert result is not None
    # 0.32 and 0.50 where it was measured; random weights find nothing.
    assert result["box"]["AP50"] > 0.2
    assert result["mask"]["AP50"] > 0.3
