"""Stage 2 with boxes of the user: a function that fails and is resumed, the docs' example, and masks of a file."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from tests.pipeline.test_discover import new_config, run_stage2, stage_1

from orl import provenance, tables
from orl.cli import main
from orl.datasets.decode import load_image
from orl.datasets.image_table import ImageTable
from orl.datasets.masks import decode_masks
from orl.embed_maps import masks_on_map, rois_on_map
from orl.map_boxes import at_short_sides, find_boxes_on_maps
from orl.networks.backbones import read_backbone_file
from orl.networks.fuse_batch_norm import fuse_batch_norm
from orl.own_boxes.box_function import load_box_function
from orl.pipeline.proposal_tables import proposal_inputs
from orl.rundir import RunDir
from orl.views.augment import normalise

DOCS = Path(__file__).parents[2] / "docs" / "own-boxes.md"
SIZE_WH, NUM_IMAGES = (96, 72), 7
CPU = torch.device("cpu")
FUNCTION = "python:orl_own_boxes:propose"
MODULE = """
import os
import numpy as np

def propose(image):
    number = int(image[0, 0, 0])
    if number == int(os.environ.get("FAILS_AT", "-1")):
        raise RuntimeError("out of luck")
    mask = np.zeros((3, 72, 96), dtype=bool)
    mask[0, :30, : 20 + number] = mask[1, 40:, 40:] = True
    boxes = [[0, 0, 20 + number, 30], [40, 40, 96, 72], [1, 0, 20, 30]]
    return (boxes, [0.5, 0.9, 0.1], mask) if number % 2 else (boxes, [0.5, 0.9, 0.1])
"""
"""Masks for every other image; the third box is covered by the first."""


@pytest.fixture
def images(tmp_path: Path) -> ImageTable:
    """Images of one grey each, which is their number."""
    names = tuple(f"{index}.png" for index in range(NUM_IMAGES))
    (tmp_path / "images").mkdir()
    for index, name in enumerate(names):
        Image.new("RGB", SIZE_WH, (index,) * 3).save(tmp_path / "images" / name)
    return ImageTable(root=tmp_path / "images", names=names, sizes_wh=(SIZE_WH,) * NUM_IMAGES, digests=names)


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write the module of the function in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "orl_own_boxes.py"
    path.write_text(MODULE)
    yield path
    forget()


def forget() -> None:
    """Let the module be imported again, as in a new process."""
    sys.modules.pop("orl_own_boxes", None)
    load_box_function.cache_clear()


def columns(out: Path, name: str) -> dict[str, np.ndarray]:
    table = tables.load(RunDir(out).table(name))
    return {column: table.column(column) for column in table.column_names}


def test_a_function_that_fails_leaves_its_finished_shards_and_is_resumed(
    images: ImageTable, function: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    for out in (straight, broken):
        stage_1(out)
    assert run_stage2(new_config(straight, proposals=FUNCTION, shard_size=100), images)
    monkeypatch.setenv("FAILS_AT", "5")
    message = r"orl_own_boxes:propose on image 5\.png failed: RuntimeError: out of luck \(orl_own_boxes\.py, line 8\)"
    with pytest.raises(ValueError, match=message):
        run_stage2(new_config(broken, proposals=FUNCTION), images)
    kept = {path: path.stat().st_mtime_ns for path in RunDir(broken).table("proposals").glob("*.arrow")}
    assert [path.name for path in sorted(kept)] == ["00000.arrow", "00001.arrow"]
    monkeypatch.delenv("FAILS_AT")
    assert run_stage2(new_config(broken, proposals=FUNCTION), images)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    for name in ("proposals", "rois"):
        first, second = columns(straight, name), columns(broken, name)
        assert set(first) == {"image_id", "box", "rle"}
        for column, values in first.items():
            np.testing.assert_array_equal(values, second[column], err_msg=column)
    rois = columns(broken, "rois")
    assert rois["image_id"].tolist() == np.repeat(np.arange(NUM_IMAGES), 2).tolist()
    assert rois["box"][2:4].tolist() == [[40, 40, 96, 72], [0, 0, 21, 30]]
    assert [bool(rle) for rle in rois["rle"]] == [image % 2 == 1 for image in range(NUM_IMAGES) for _ in range(2)]
    areas = coco_mask.area([{"size": [72, 96], "counts": rle} for rle in rois["rle"] if rle])
    assert areas.tolist() == [area for image in (1, 3, 5) for area in (32 * 56, 30 * (20 + image))]


def test_boxes_on_the_maps_of_the_feature_extractor_depend_on_its_weights(images: ImageTable, tmp_path: Path) -> None:
    for out, seed in ((tmp_path / "one", 0), (tmp_path / "other", 1)):
        stage_1(out, seed)
        run_stage2(new_config(out, proposals="extractor"), images)
    first = columns(tmp_path / "one", "proposals")
    assert set(first) == {"image_id", "box"}
    inputs = [tables.load(RunDir(tmp_path / name).table("proposals")).inputs for name in ("one", "other")]
    assert {key for key in inputs[0] if inputs[0][key] != inputs[1][key]} == {"backbone"}
    backbone = read_backbone_file(RunDir(tmp_path / "one").backbone("stage1"))
    expected = find_boxes_on_maps(fuse_batch_norm(backbone), at_short_sides(load_image(images.path(3))), CPU)
    np.testing.assert_array_equal(first["box"][first["image_id"] == 3], expected)


def test_a_changed_module_is_another_source(images: ImageTable, function: Path, tmp_path: Path) -> None:
    stage_1(tmp_path / "run")
    config = new_config(tmp_path / "run", proposals=FUNCTION)
    run_stage2(config, images)
    before = proposal_inputs(images, config)
    function.write_text(MODULE.replace("0.5, 0.9", "0.9, 0.5"))
    forget()
    assert {key for key, value in proposal_inputs(images, config).items() if value != before[key]} == {"source"}
    with pytest.raises(provenance.StaleResultError, match=r"proposals was made from other inputs \(source: was"):
        run_stage2(config, images)


def test_the_command_names_a_function_that_fails_in_one_line(
    images: ImageTable, function: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stage_1(tmp_path / "run")
    options = ["discover", "demo", "--images", str(images.root), "--out", str(tmp_path / "run"), "--device", "cpu"]
    options += ["--discover.num-neighbours", "3", "--discover.embed-px", "32", "--workers", "0", "--discover.proposals"]
    assert main([*options, "python:orl_own_boxes:proposed"]) == 1
    assert "has no function 'proposed', for 'python:orl_own_boxes:proposed'" in capfd.readouterr().err
    assert not (tmp_path / "run" / "discover").exists(), "the function is found before anything is done"
    function.write_text("def propose(image):\n    return [[0, 0, 500, 9]]\n")
    forget()
    assert main([*options, FUNCTION]) == 1
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert "orl_own_boxes:propose on image 0.png returned box 0, [0.0, 0.0, 500.0, 9.0], which is outside" in last


def test_the_example_of_the_docs_gives_the_masks_of_a_segmenter(
    images: ImageTable, function: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stub of segment_anything, whose records have the fields of `SamAutomaticMaskGenerator.generate`."""
    (code,) = re.findall(r"```python\n# my_boxes\.py\n(.*?)```", DOCS.read_text(), re.DOTALL)
    function.write_text(code)
    masks = np.zeros((2, 72, 96), dtype=bool)
    masks[0, 10:40, 20:70] = masks[1, 41:70, 2:50] = True

    class StubGenerator:
        def __init__(self, network: object) -> None:
            self.network = network

        def generate(self, image: np.ndarray) -> list[dict]:
            if image[0, 0, 0] == 3:
                return []
            records = []
            for mask, score in zip(masks, (0.8, 0.9)):
                rows, found = np.nonzero(mask)
                box = [found.min(), rows.min(), found.max() - found.min(), rows.max() - rows.min()]
                records.append({"segmentation": mask, "bbox": box, "predicted_iou": score, "stability_score": 0.95})
            return records

    stub = ModuleType("segment_anything")
    network = SimpleNamespace(to=lambda device: device)
    stub.sam_model_registry = {"vit_b": lambda checkpoint: network}  # type: ignore[attr-defined]
    stub.SamAutomaticMaskGenerator = StubGenerator  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "segment_anything", stub)
    stage_1(tmp_path / "run")
    run_stage2(new_config(tmp_path / "run", proposals=FUNCTION), images)
    rois = columns(tmp_path / "run", "rois")
    assert rois["box"][:2].tolist() == [[2, 41, 50, 70], [20, 10, 70, 40]]
    assert rois["box"][rois["image_id"] == 3].tolist() == [[0, 0, *SIZE_WH]]
    decoded = coco_mask.decode([{"size": [72, 96], "counts": rle} for rle in rois["rle"][:2]])
    np.testing.assert_array_equal(decoded.transpose(2, 0, 1).astype(bool), masks[::-1])


def test_masks_of_a_file_are_kept_and_tables_without_masks_keep_their_inputs(
    images: ImageTable, tmp_path: Path
) -> None:
    path = tmp_path / "results.json"
    results = [
        {"image_id": "2", "bbox": [4, 4, 40, 40], "score": 0.3},
        {"image_id": "2", "bbox": [50, 4, 40, 40], "score": 1},
    ]
    path.write_text(json.dumps(results))
    config = new_config(tmp_path / "run", proposals="file", proposals_file=path)
    assert set(proposal_inputs(images, config)) == {"images", "proposals", "file"}
    results[0]["segmentation"] = [[4, 4, 44, 4, 44, 44, 4, 44]]
    path.write_text(json.dumps(results))
    assert proposal_inputs(images, config)["masks"]
    stage_1(tmp_path / "run")
    run_stage2(config, images)
    rois = columns(tmp_path / "run", "rois")
    assert rois["box"][rois["image_id"] == 2].tolist() == [[50, 4, 90, 44], [4, 4, 44, 44]]
    assert [len(rle) > 0 for rle in rois["rle"]] == [False] * 3 + [True] + [False] * 4


def test_a_file_of_another_format_is_refused_before_anything_is_done(images: ImageTable, tmp_path: Path) -> None:
    stage_1(tmp_path / "run")
    (tmp_path / "boxes.json").write_text('{"boxes": []}')
    config = new_config(tmp_path / "run", proposals="file", proposals_file=tmp_path / "boxes.json")
    with pytest.raises(ValueError, match="has no known format, where 'COCO' or 'selective_search_proposal'"):
        run_stage2(config, images)
    assert not (tmp_path / "run" / "discover").exists()


def test_features_are_averaged_inside_masks_and_inside_boxes_without_one(
    images: ImageTable, function: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    stage_1(out)
    options = {"proposals": FUNCTION, "roi_map_px": 72, "num_neighbours": 2}
    run_stage2(new_config(out, roi_features="mask", **options), images)
    run = RunDir(out)
    backbone = read_backbone_file(run.backbone("stage1")).eval()
    rois, found = tables.load(run.table("rois")), tables.load(run.table("roi_embeddings")).column("embedding")
    expected, by_boxes = [], []
    for image_id, box, rle in zip(*(rois.column(name) for name in ("image_id", "box", tables.RLE))):
        pixels = torch.from_numpy(load_image(images.path(int(image_id)))).permute(2, 0, 1)[None]
        with torch.no_grad():
            feature_map = backbone(normalise(pixels))
        by_boxes.append(rois_on_map(feature_map, box[None], SIZE_WH))
        masks = [] if not rle else decode_masks([{"size": [72, 96], "counts": str(rle)}], SIZE_WH)
        expected.append(masks_on_map(feature_map, masks)[0] if len(masks) else by_boxes[-1])
    units = torch.nn.functional.normalize(torch.cat(expected))
    torch.testing.assert_close(torch.from_numpy(found.astype(np.float32)), units, atol=2e-3, rtol=0)
    assert (units - torch.nn.functional.normalize(torch.cat(by_boxes))).abs().max() > 0.005


def test_masks_are_needed_for_features_inside_masks(images: ImageTable, tmp_path: Path) -> None:
    stage_1(tmp_path / "run")
    with pytest.raises(ValueError, match="'mask' needs boxes with masks, and proposals 'grid' give none"):
        run_stage2(new_config(tmp_path / "run", roi_features="mask", proposals="grid"), images)
