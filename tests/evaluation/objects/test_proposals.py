"""Scores of boxes of every source, beside those of selective search and random boxes."""

import json
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from orl.boxes import to_xywh
from orl.datasets.decode import image_size, load_image
from orl.discovery.baseline_boxes import grid_boxes
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.objects.object_dataset import ObjectDataset
from orl.evaluation.objects.proposals import MEASURES, PROPOSALS, ProposalsConfig, box_sums, find_rois
from orl.evaluation.output import EvaluationOutput
from orl.map_boxes import at_short_sides, find_boxes_on_maps
from orl.networks.backbones import Backbone
from orl.own_boxes.box_function import load_box_function
from orl.processes import Processes
from orl.provenance import StaleResultError

MODULE = """
from orl.discovery.baseline_boxes import grid_boxes

def grid(image):
    return grid_boxes((image.shape[1], image.shape[0]))

def broken(image):
    return [[0, 0, float("nan"), 1]]
"""


@pytest.fixture
def data(labelled_scenes: Path) -> ObjectDataset:
    return ObjectDataset(data=labelled_scenes, max_images=6)


@pytest.fixture
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Write a module of functions in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "orl_scored_boxes.py").write_text(MODULE)
    yield
    sys.modules.pop("orl_scored_boxes", None)
    load_box_function.cache_clear()


class Colours(nn.Module):
    """The mean colour of each block of 16 px."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images, 16)


def score(data: ObjectDataset, folder: Path, digest: str = "none", **options: Any) -> dict[str, Any]:
    config = ProposalsConfig(**options)
    PROPOSALS.check(data, config)
    output = EvaluationOutput(result=folder / "scores.json", workers=1, device="cpu", quiet=True)
    backbone = Backbone(OrderedDict(body=Colours()), "none", 3)
    evaluated = EvaluatedBackbone(label="none", network=backbone, digest=digest)
    result = PROPOSALS.run(evaluated, data, config, output, Processes())
    assert result is not None
    return result


def rows(result: dict[str, Any]) -> dict[str, tuple[float, float | None]]:
    """The value and the chance of each row but the time."""
    return {
        row["name"]: (row["estimate"]["value"], row["chance"])
        for row in result["rows"]
        if not row["name"].endswith("seconds an image")
    }


def times(result: dict[str, Any]) -> dict[str, float]:
    return {row["name"]: row["estimate"]["value"] for row in result["rows"] if row["name"].endswith("seconds an image")}


def labelled_npz(data: ObjectDataset, path: Path) -> Path:
    """Write the labelled boxes of the images to score."""
    images = data.boxes.test
    counts = [len(own) for own in images.boxes]
    np.savez(path, name=np.repeat(np.array(images.names), counts), xyxy=np.concatenate(images.boxes))
    return path


@pytest.mark.usefixtures("_module")
def test_other_sources_stand_beside_selective_search(data: ObjectDataset, tmp_path: Path) -> None:
    search, grid, own = (
        score(data, tmp_path / str(index), source=source)
        for index, source in enumerate(("selective-search", "grid", "python:orl_scored_boxes:grid"))
    )
    assert rows(own) == rows(grid)
    beside = {name.removeprefix("selective search: "): value for name, value in rows(grid).items() if ": " in name}
    assert beside == rows(search)
    assert {name for name in rows(grid) if ": " not in name} == set(beside)
    assert list(times(search)) == ["seconds an image"]
    assert list(times(own)) == ["seconds an image", "selective search: seconds an image"]
    assert min(times(own).values()) > 0
    images, config = data.boxes.test, ProposalsConfig(source="grid")
    kept = find_rois(images, config, EvaluationOutput(result=tmp_path / "r.json", workers=1, quiet=True))
    assert rows(grid)["RoIs, AR@100"][0] == pytest.approx(box_sums(images, kept, MEASURES["AR@100"]).value)
    assert len(kept[0]) < len(grid_boxes(image_size(images.paths[0])))
    assert set(grid["boxes_per_image"]) == {
        "proposals",
        "RoIs",
        "selective search: proposals",
        "selective search: RoIs",
    }


def test_labelled_boxes_from_a_file_are_found_and_have_no_time(data: ObjectDataset, tmp_path: Path) -> None:
    path = labelled_npz(data, tmp_path / "labels.npz")
    result = score(data, tmp_path, source="file", file=str(path))
    for title in ("AR@100", "recall at 0.7", "mean best overlap"):
        assert rows(result)[f"proposals, {title}"][0] == pytest.approx(1, abs=1e-6)
        assert rows(result)[f"selective search: proposals, {title}"][0] < 1
    assert list(times(result)) == ["selective search: seconds an image"]
    assert score(data, tmp_path, source="file", file=str(path)) == json.loads((tmp_path / "scores.json").read_text())
    moved = tmp_path / "moved.npz"
    path.rename(moved)
    assert score(data, tmp_path, source="file", file=str(moved))["elapsed_s"] == result["elapsed_s"]
    np.savez(moved, name=np.array(data.boxes.test.names), xyxy=np.tile([[0, 0, 9, 9]], (6, 1)))
    with pytest.raises(StaleResultError, match=r"was made from other weights or options \(file\)"):
        score(data, tmp_path, source="file", file=str(moved))


def test_rois_of_a_file_are_its_boxes_after_the_filter(data: ObjectDataset, tmp_path: Path) -> None:
    path = labelled_npz(data, tmp_path / "labels.npz")
    images = data.boxes.test
    output = EvaluationOutput(result=tmp_path / "r.json", workers=1, quiet=True)
    config = ProposalsConfig(source="file", file=str(path), min_side=0.01, max_aspect_ratio=50, max_iou=1)
    for own, found, image in zip(images.boxes, find_rois(images, config, output), images.paths):
        width, height = image_size(image)
        np.testing.assert_allclose(found, np.clip(own, 0, [width, height] * 2))


def test_results_with_the_ids_of_a_labelled_coco_json_are_read(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    generator = np.random.default_rng(0)
    for split in ("train2017", "val2017"):
        (tmp_path / split).mkdir()
        images, annotations = [], []
        for index in range(4):
            pixels = generator.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / f"{split}{index}.png")
            images.append({"id": 40 - index, "file_name": f"{split}{index}.png", "width": 64, "height": 48})
            box = [2 * index, 3, 30, 20]
            annotations.append({"id": index, "image_id": 40 - index, "category_id": 1, "bbox": box, "iscrowd": 0})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    data = ObjectDataset(data=tmp_path, max_images=3)
    names = data.boxes.test.names
    boxes = [to_xywh(own)[0].tolist() for own in data.boxes.test.boxes]
    ids = [40 - int(name[-5]) for name in names]
    results = [{"image_id": key, "bbox": box, "score": 0.5} for key, box in zip(ids, boxes, strict=True)]
    (tmp_path / "results.json").write_text(json.dumps(results))
    found = rows(score(data, tmp_path, source="file", file=str(tmp_path / "results.json")))
    assert found["proposals, recall at 0.7"][0] == 1


def test_boxes_on_feature_maps_are_of_the_backbone_and_stale_with_another(data: ObjectDataset, tmp_path: Path) -> None:
    result = score(data, tmp_path, source="extractor")
    assert result["backbone_used"]
    assert list(times(result)) == ["seconds an image", "selective search: seconds an image"]
    images = data.boxes.test
    found = [
        find_boxes_on_maps(Colours(), at_short_sides(load_image(path)), torch.device("cpu")) for path in images.paths
    ]
    expected = box_sums(images, found, MEASURES["AR@100"]).value
    assert rows(result)["proposals, AR@100"][0] == pytest.approx(expected)
    with pytest.raises(StaleResultError, match=r"other weights or options \(backbone\)"):
        score(data, tmp_path, digest="another", source="extractor")
    output = EvaluationOutput(result=tmp_path / "r.json", quiet=True)
    with pytest.raises(ValueError, match="source 'extractor' needs a backbone"):
        find_rois(images, ProposalsConfig(source="extractor"), output)


@pytest.mark.usefixtures("_module")
def test_a_function_that_returns_something_else_is_refused_with_the_image(data: ObjectDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"orl_scored_boxes:broken on image .*\.jpg returned box 0, .* not finite"):
        score(data, tmp_path, source="python:orl_scored_boxes:broken")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "file"}, "source 'file' and file None do not go together"),
        ({"file": "boxes.json"}, "source 'selective-search' and file boxes.json do not go together"),
        ({"source": "gird"}, "source must be one of .*, not 'gird'; did you mean 'grid'"),
        ({"source": "python:orl_no_such_module:grid"}, "module 'orl_no_such_module' .* cannot be imported"),
        ({"min_side": float("nan")}, "min_side must be a finite number, not nan"),
    ],
)
def test_a_wrong_source_is_refused_before_the_labels_are_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PROPOSALS.check(ObjectDataset(data=Path("nowhere")), ProposalsConfig(**options))


def test_a_file_of_another_format_is_refused_and_a_missing_one_named(data: ObjectDataset, tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text('{"boxes": []}')
    with pytest.raises(ValueError, match=r"own\.json has no known format, where 'COCO'"):
        PROPOSALS.check(data, ProposalsConfig(source="file", file=str(tmp_path / "own.json")))
    with pytest.raises(FileNotFoundError, match=r"no file at none\.json"):
        PROPOSALS.check(data, ProposalsConfig(source="file", file="none.json"))
