import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluation.detection.small import SETTINGS, draw_images
from tests.ports import free_port
from torch import multiprocessing, nn

from orl.evaluation.detection import evaluate as judge
from orl.evaluation.detection.configs import COCO, DetectionConfig, plan_training
from orl.evaluation.detection.datasets import DetectionDataset
from orl.evaluation.detection.detections import Detections
from orl.evaluation.detection.evaluate import evaluate_detection, evaluate_voc_detection
from orl.evaluation.detection.results_file import read_detections
from orl.evaluation.detection.voc_metrics import voc_scores
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.output import EvaluationOutput
from orl.networks.backbones import build_backbone
from orl.processes import Processes, joined_processes
from orl.provenance import StaleResultError


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return draw_images(tmp_path_factory.mktemp("train"), 6)


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return draw_images(tmp_path_factory.mktemp("val"), 3, first=500_000)


def subject(seed: int = 0) -> EvaluatedBackbone:
    torch.manual_seed(seed)
    return EvaluatedBackbone(
        label=f"random resnet10, seed {seed}", network=build_backbone("resnet10").eval(), digest=str(seed)
    )


def place(folder: Path, **others: Any) -> EvaluationOutput:
    return EvaluationOutput(result=folder / "detect.json", workers=0, device="cpu", quiet=True, **others)


def without_masks(images: DetectionDataset) -> DetectionDataset:
    return replace(images, segmentations=None)


def detections_in(folder: Path) -> Path:
    (path,) = (folder / "detect").glob("detections_*.json")
    return path


def judged(train: DetectionDataset, val: DetectionDataset, folder: Path, **others: Any) -> dict[str, Any]:
    result = evaluate_detection(subject(), train, val, SETTINGS, place(folder, **others), Processes())
    assert result is not None
    return result


def test_the_result_says_what_was_judged_and_how(
    train: DetectionDataset, val: DetectionDataset, tmp_path: Path
) -> None:
    result = judged(train, val, tmp_path)
    assert json.loads((tmp_path / "detect.json").read_text()) == json.loads(json.dumps(result))
    assert (result["task"], result["backbone"]) == ("detect", "random resnet10, seed 0")
    assert set(result["box"]) >= {"AP", "AP50", "AP75", "APs", "APm", "APl"}
    assert set(result["mask"]) == set(result["box"])
    assert (result["num_train"], result["num_test"], result["num_steps"], result["lr"]) == (6, 3, 3, 0.005)
    assert result["milestones"] == (2, 3)
    assert result["schedule"] == "own settings, 3 steps"
    assert result["protocol_deviations"] == [
        "resnet10, not resnet50",
        "6 images with objects to learn from, not 117,266",
        "3 images to score, not 5,000",
        f"{len(val.classes)} classes, not 80",
    ]
    assert len((tmp_path / "detect" / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_result_that_is_there_is_not_made_again_and_another_one_is_refused(
    train: DetectionDataset, val: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = judged(train, val, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(judge, "build_training_step", None)
        assert judged(train, val, tmp_path) == json.loads(json.dumps(first))
    others = replace(train, boxes=(train.boxes[0] + 1, *train.boxes[1:]))
    with pytest.raises(StaleResultError, match="train"):
        judged(others, val, tmp_path)
    with pytest.raises(StaleResultError, match="backbone"):
        evaluate_detection(subject(1), train, val, SETTINGS, place(tmp_path), Processes())
    again = evaluate_detection(subject(1), train, val, SETTINGS, place(tmp_path, overwrite=True), Processes())
    assert again is not None
    assert again["backbone"] == "random resnet10, seed 1"


def oracle(shift_px: float) -> Any:
    """In the place of `predict`: everything that is there, moved a little."""

    def found(_: object, images: DetectionDataset, *args: object, **options: object) -> Detections:
        assert images.segmentations is not None
        counts = [len(each) for each in images.boxes]
        return Detections(
            image_ids=np.repeat(images.image_ids, counts),
            boxes=np.concatenate(images.boxes) + np.float32(shift_px),
            classes=np.concatenate(images.box_classes),
            scores=np.linspace(0.3, 0.9, sum(counts), dtype=np.float32),
            masks=tuple(rle for each in images.segmentations for rle in each),
        )

    return found


def test_a_detector_that_finds_everything_scores_one(
    train: DetectionDataset, val: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "predict", oracle(0.0))
    result = judged(train, val, tmp_path)
    assert (result["box"]["AP"], result["mask"]["AP"]) == pytest.approx((1.0, 1.0))
    seen = {val.classes[label] for labels in val.box_classes for label in labels}
    assert {name for name, score in result["box_per_class"].items() if score is not None} == seen


def test_a_killed_evaluation_goes_on_from_the_detections(
    train: DetectionDataset, val: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(judge, "coco_scores", killed)
        patched.setattr(judge, "predict", oracle(1 / 3))
        with pytest.raises(KeyboardInterrupt):
            judged(train, val, tmp_path / "killed")
    with monkeypatch.context() as patched:
        patched.setattr(judge, "build_training_step", None)
        resumed = judged(train, val, tmp_path / "killed")
    monkeypatch.setattr(judge, "predict", oracle(1 / 3))
    whole = judged(train, val, tmp_path / "whole")
    assert 0 < whole["box"]["AP"] < 1
    assert {**resumed, "elapsed_s": 0} == {**whole, "elapsed_s": 0}
    detections = [detections_in(tmp_path / name).read_bytes() for name in ("killed", "whole")]
    assert detections[0] == detections[1]


def test_images_with_crowds_alone_are_not_learnt_from(
    train: DetectionDataset, val: DetectionDataset, tmp_path: Path
) -> None:
    ignored = (np.ones(len(train.boxes[0]), dtype=bool), *train.ignored[1:])
    assert judged(replace(train, ignored=ignored), val, tmp_path)["num_train"] == 5


def test_voc_has_boxes_alone_and_learns_difficult_objects(
    train: DetectionDataset, val: DetectionDataset, tmp_path: Path
) -> None:
    ignored = (np.ones(len(train.boxes[0]), dtype=bool), *train.ignored[1:])
    hard = without_masks(replace(train, ignored=ignored))
    result = evaluate_voc_detection(subject(), hard, without_masks(val), SETTINGS, place(tmp_path), Processes())
    assert result is not None
    assert (result["task"], result["num_train"]) == ("detect-voc", 6)  # for COCO it would be 5
    assert set(result["box"]) == {"AP", "AP50", "AP75"}
    assert "mask" not in result


def test_coco_can_be_judged_by_boxes_alone(train: DetectionDataset, val: DetectionDataset, tmp_path: Path) -> None:
    settings = replace(SETTINGS, masks=False)
    result = evaluate_detection(
        subject(), without_masks(train), without_masks(val), settings, place(tmp_path), Processes()
    )
    assert result is not None
    assert result["mask"] is None


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (DetectionConfig(), "1x"),
        (DetectionConfig(schedule="2x", batch_size=8), "2x"),
        (DetectionConfig(masks=False), "1x"),
        (DetectionConfig(iterations=90_000), "own settings, 90000 steps"),
        (DetectionConfig(base_lr=0.01), "own settings, 90000 steps"),
    ],
)
def test_only_the_protocol_has_the_protocols_name(settings: DetectionConfig, name: str) -> None:
    assert judge._schedule(settings, plan_training(settings, COCO)) == name


class Foreign(nn.Module):
    name = "efficientnet_lite0"


def test_what_cannot_be_judged_is_refused_before_anything_is_written(
    train: DetectionDataset, val: DetectionDataset, tmp_path: Path
) -> None:
    def refused(message: str, *, network: Any = None, **others: Any) -> None:
        given: dict[str, Any] = {"train": train, "val": val, "settings": SETTINGS, "processes": Processes(), **others}
        own = subject()
        if network is not None:
            own.__dict__["network"] = network
        with pytest.raises(ValueError, match=message):
            evaluate_detection(
                own, given["train"], given["val"], given["settings"], place(tmp_path), given["processes"]
            )

    refused("'efficientnet_lite0' is none", network=Foreign())
    refused("have no masks", train=without_masks(train))
    refused("have no masks", val=without_masks(val))
    refused("a batch of 7 needs as many images, and 6 of", settings=replace(SETTINGS, batch_size=7))
    refused("a batch of 4 cannot be shared evenly by 3", processes=Processes(rank=0, count=3))
    refused("6 images are learnt from and scored, such as .*0000.png: a score on", val=train)
    refused("differ: ball, zebra;", val=replace(val, classes=("zebra", *val.classes[1:])))
    refused("differ: they are in another order", val=replace(val, classes=val.classes[::-1]))
    refused("0 of the 3 images to score", val=replace(val, ignored=tuple(~one for one in val.ignored)))
    refused("base-lr is -1", settings=replace(SETTINGS, base_lr=-1.0))
    assert not list(tmp_path.iterdir())


def test_per_image_to_score_of_another_size_is_told_before_the_training(
    train: DetectionDataset, val: DetectionDataset, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(val.root, tmp_path / "val"))
    Image.new("RGB", (72, 96)).save(root / val.names[1])
    told = r"1 of 3 images to score cannot be: .*0001\.png: has 72x96 px, and its annotations are for 96x72 px; mend"
    with pytest.raises(ValueError, match=told):
        judged(train, replace(val, root=root), tmp_path / "judged")
    (root / val.names[1]).write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"0001\.png: not an image"):
        judged(train, replace(val, root=root), tmp_path / "judged")
    assert not (tmp_path / "judged").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_per_image_to_score_that_breaks_off_is_told_in_one_line_and_training_is_kept(
    train: DetectionDataset, val: DetectionDataset, tmp_path: Path, workers: int
) -> None:
    root = Path(shutil.copytree(val.root, tmp_path / "val"))
    Image.open(root / val.names[1]).save(root / val.names[1], "JPEG", quality=95)
    whole = (root / val.names[1]).read_bytes()
    (root / val.names[1]).write_bytes(whole[: len(whole) // 2])
    broken = replace(val, root=root)
    where = replace(place(tmp_path), workers=workers)
    told = r"^1 of 3 images to score cannot be read, such as 0001\.png \(.*\); mend them .* training is kept$"
    with pytest.raises(RuntimeError, match=told):
        evaluate_detection(subject(), train, broken, SETTINGS, where, Processes())
    (checkpoint,) = (tmp_path / "detect" / "checkpoints").iterdir()
    before = checkpoint.stat().st_mtime_ns
    with pytest.raises(RuntimeError, match=told):
        evaluate_detection(subject(), train, broken, SETTINGS, where, Processes())
    (root / val.names[1]).write_bytes(whole)
    assert evaluate_detection(subject(), train, broken, SETTINGS, where, Processes()) is not None
    assert checkpoint.stat().st_mtime_ns == before, "mended, and not trained again"


def test_the_identity_knows_which_image_an_object_is_in(val: DetectionDataset) -> None:
    def moved(columns: Any, first: Any, second: Any) -> Any:
        joined = np.concatenate([columns[0], columns[1]])
        return (joined[:first], joined[first:second], *columns[2:])

    counts = len(val.boxes[0]), len(val.boxes[0]) + len(val.boxes[1])
    plain = without_masks(val)
    columns = ("boxes", "box_classes", "ignored")
    other = replace(plain, **{name: moved(getattr(val, name), counts[0] - 1, counts[1]) for name in columns})
    assert sum(map(len, other.boxes)) == sum(map(len, val.boxes))
    assert judge._fingerprint(other) != judge._fingerprint(plain)
    elsewhere = replace(plain, image_ids=tuple(number + 1 for number in plain.image_ids))
    assert judge._fingerprint(elsewhere) != judge._fingerprint(plain)


def one_of_two(rank: int, port: int, train: DetectionDataset, val: DetectionDataset, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    write = judge.write_detections

    def write_late(*arguments: Any) -> None:
        time.sleep(1.0)
        write(*arguments)

    judge.write_detections = write_late
    with joined_processes(torch.device("cpu")) as processes:
        for _ in range(2):
            where = place(folder, precision="64-true")
            found = evaluate_detection(subject(), train, val, SETTINGS, where, processes)
            assert (found is None) == (rank > 0)


def test_two_processes_train_detect_and_score_as_one(
    train: DetectionDataset, val: DetectionDataset, tmp_path: Path
) -> None:
    alone = judged(train, val, tmp_path / "one", precision="64-true")
    multiprocessing.spawn(one_of_two, (free_port(), train, val, tmp_path / "two"), nprocs=2)
    together = json.loads((tmp_path / "two" / "detect.json").read_text())
    assert (together["num_processes"], together["num_steps"], together["lr"]) == (2, 3, alone["lr"])
    for part in ("box", "mask"):
        assert together[part] == pytest.approx(alone[part], abs=1e-6)
    found = [read_detections(detections_in(tmp_path / name), val) for name in ("one", "two")]
    assert sorted(found[0].image_ids.tolist()) == sorted(found[1].image_ids.tolist())


@pytest.mark.parametrize(("year", "told"), [("VOC2007", "at 11 recalls"), ("VOC2012", "area of the curve")])
def test_average_precision_is_that_of_the_devkits_year(
    val: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, year: str, told: str
) -> None:
    found = oracle(1 / 3)(None, val)
    result = judge._voc_result(replace(val, root=tmp_path / year), found, False)
    assert result["average_precision"] == told
    assert result["box"] == voc_scores(val, found, eleven_points=year == "VOC2007")


@pytest.mark.slow
def test_a_detector_learns_the_scenes_it_sees(tmp_path: Path) -> None:
    images = draw_images(tmp_path / "images", 8)
    settings = replace(
        SETTINGS,
        iterations=200,
        base_lr=0.64,
        warmup_iterations=20,
        short_sides_px=(72,),
        precise_bn_iterations=10,
        num_rois=32,
    )
    # The same images in another folder: the judge would not score what it has learnt from.
    copies = replace(images, root=Path(shutil.copytree(images.root, tmp_path / "copies")))
    result = evaluate_detection(subject(), images, copies, settings, place(tmp_path), Processes())
    assert result is not None
    # 0.32 and 0.50 where it was measured; random weights find nothing.
    assert result["box"]["AP50"] > 0.2
    assert result["mask"]["AP50"] > 0.3
