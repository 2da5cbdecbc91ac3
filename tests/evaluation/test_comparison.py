"""The table of our scores beside published ones."""

import csv
import json
from pathlib import Path

import pytest

from orl.evaluation.comparison import table_lines, write_comparison
from orl.evaluation.evaluations import EVALUATIONS, OBJECT_EVALUATIONS, RUN_EVALUATIONS, find_evaluation
from orl.evaluation.published_scores import PUBLISHED

SVM = {"task": "svm", "backbone": "mine", "features": "feat5", "mean_ap": 0.5}
DETECTION = {
    "task": "detect",
    "backbone": "mine",
    "schedule": "1x",
    "box": {"AP": 0.25, "AP50": 0.5, "APl": None},
    "mask": {"AP": 0.125},
}
LINEAR = {"task": "linear", "backbone": "mine", "dataset": "imagenet", "features": "feat5", "top1": 0.6, "top5": 0.8}
ESTIMATE = {"task": "linear-estimate", "backbone": "mine", "dataset": "imagenet", "top1": 0.55, "top5": 0.7}


def test_fractions_become_per_cent_and_a_missing_score_stays_missing() -> None:
    (line,) = table_lines(DETECTION)
    assert line.scores == {"box AP": 25.0, "box AP50": 50.0, "box APl": None, "mask AP": 12.5}


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"there is no evaluation 'tea'; there are svm, "):
        table_lines({"task": "tea"})


def test_published_lines_stand_below_ours_in_their_own_table_only(tmp_path: Path) -> None:
    path = write_comparison(tmp_path, [SVM, DETECTION])
    text = path.read_text()
    svm, detection = text.split("## COCO detection, 1x")
    assert "| mine | 50.00 | measured here |" in svm
    assert "| supervised on ImageNet | 87.17 |" in svm
    assert "40.30" not in svm
    assert "| ORL on COCO | 40.30 |" in detection
    assert "ImageNet linear" not in text


def test_a_fast_estimate_never_stands_in_a_table_of_the_protocol(tmp_path: Path) -> None:
    write_comparison(tmp_path, [LINEAR, ESTIMATE])
    lines = json.loads((tmp_path / "comparison.json").read_text())
    (protocol,) = {line["comparison"] for line in lines if line["source"] == "ORL (NeurIPS 2021)"}
    ours, *_ = (line["scores"]["top-1"] for line in lines if line["comparison"] == protocol)
    assert ours == pytest.approx(60.0)
    (estimate,) = [line for line in lines if line["comparison"] != protocol]
    assert estimate["scores"]["top-1"] == pytest.approx(55.0)
    assert "not the linear protocol" in estimate["comparison"]


def test_protocol_stds_stand_beside_the_score(tmp_path: Path) -> None:
    path = write_comparison(tmp_path, [{**SVM, "protocol_deviations": ["96 px, not 224", "a synthetic data set"]}])
    assert "| mine | 50.00 | measured here | 96 px, not 224; a synthetic data set |" in path.read_text()


def test_the_csv_holds_every_number_of_the_json(tmp_path: Path) -> None:
    write_comparison(tmp_path, [SVM, DETECTION, LINEAR])
    lines = json.loads((tmp_path / "comparison.json").read_text())
    with open(tmp_path / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = {(row["comparison"], row["backbone"], row["score"], row["source"]): row["per_cent"] for row in rows}
    for line in lines:
        for name, value in line["scores"].items():
            found = numbers.pop((line["comparison"], line["backbone"], name, line["source"]))
            assert found == ("" if value is None else f"{value:.4f}")
    assert not numbers


def test_the_published_rows_are_those_of_the_papers() -> None:
    """Compare with numbers typed from the papers' tables, not copied from the module."""
    detection = {
        "random weights": (31.0, 28.5),
        "supervised on ImageNet": (38.9, 35.4),
        "MoCo v2 on COCO": (38.5, 34.8),
        "BYOL on COCO": (38.8, 35.0),
        "BYOL on COCO, trained again": (39.5,),
        "Self-EMD on COCO": (39.3,),
        "DenseCL on COCO": (39.6, 35.7),
        "ORL on COCO": (40.3, 36.3),
    }
    linear = {
        "random weights": 13.7,
        "supervised on ImageNet": 75.9,
        "SimCLR on COCO": 50.9,
        "MoCo v2 on COCO": 55.1,
        "BYOL on COCO": 57.8,
        "ORL on COCO": 59.0,
    }
    low_shot = {1: 42.25, 2: 51.81, 4: 63.46, 8: 72.16, 16: 77.86, 32: 81.17, 64: 83.73, 96: 84.59}
    expected = {("COCO detection, 1x", name): dict(zip(("box AP", "mask AP"), own)) for name, own in detection.items()}
    expected |= {("ImageNet linear, feat5", name): {"top-1": score} for name, score in linear.items()}
    by_shots = {f"k={k}": score for k, score in low_shot.items()}
    expected["VOC07 low-shot, feat5, cost by test labels", "ORL on COCO"] = by_shots
    expected["VOC07 SVM, feat5", "supervised on ImageNet"] = {"mAP": 87.17}
    corloc = {
        "ResNet-50, supervised on ImageNet": 33.5,
        "ResNet-50, DINO on ImageNet": 36.8,
        "ViT-S/16, DINO on ImageNet": 61.9,
    }
    expected |= {("Objects: corloc", name): {"CorLoc": score} for name, score in corloc.items()}
    assert {(row.comparison, row.backbone): row.scores for row in PUBLISHED} == expected
    assert len(PUBLISHED) == len(expected)


def test_the_list_has_each_evaluation_once_with_its_own_name() -> None:
    names = [evaluation.name for evaluation in EVALUATIONS]
    on_objects = [
        "roi-knn",
        "roi-linear",
        "dense-retrieval",
        "rank",
        "linear-segmentation",
        "overclustering",
        "corloc",
        "proposals",
        "pairs",
    ]
    on_images = ["linear", "linear-estimate", "semi", "detect", "detect-voc"]
    assert names == ["svm", "knn", "low-shot", *on_objects, *on_images]
    assert [evaluation.name for evaluation in OBJECT_EVALUATIONS] == on_objects
    assert [evaluation.name for evaluation in RUN_EVALUATIONS] == [
        "svm",
        "knn",
        "low-shot",
        "roi-knn",
        "dense-retrieval",
        "rank",
    ]
    assert all(find_evaluation(evaluation.name) is evaluation for evaluation in EVALUATIONS)


def test_defaults_of_every_config_are_the_protocol_and_name_the_file() -> None:
    stems = {evaluation.name: evaluation.result_stem(evaluation.config()) for evaluation in EVALUATIONS}
    assert stems.pop("semi") == "semi-1percent"
    assert all(name == stem for name, stem in stems.items())
    linear = find_evaluation("linear")
    assert linear.result_stem(linear.config(levels=True)) == "linear-levels"
