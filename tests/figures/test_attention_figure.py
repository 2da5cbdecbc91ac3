import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orl.cli import main
from orl.config import save_config
from orl.datasets.image_table import ImageTable, save_image_table
from orl.figures.attention_figure import AttentionOptions, attention_figure, draw_attention_sheet, format_scores
from orl.figures.figure_files import FigureFile
from orl.networks.backbones import build_backbone, save_backbone
from orl.recipes import demo
from orl.rundir import RunDir
from orl.synthetic.scenes import draw_scenes

NUM_IMAGES, SIZE_WH = 5, (64, 48)
OPTIONS = AttentionOptions(images=2, side_px=64, device="cpu")
SMALL = FigureFile(dpi=40)


@pytest.fixture
def scenes_run(tmp_path: Path) -> RunDir:
    """A run on synthetic scenes with two untrained backbones."""
    scenes, run = tmp_path / "scenes", RunDir(tmp_path / "run")
    draw_scenes(scenes, num_trainval=NUM_IMAGES, num_test=0, size_wh=SIZE_WH, quiet=True)
    names = tuple(f"JPEGImages/{index:06d}.jpg" for index in range(NUM_IMAGES))
    save_image_table(
        ImageTable(root=scenes, names=names, sizes_wh=(SIZE_WH,) * NUM_IMAGES, digests=tuple("abcde")), run.images
    )
    config = demo(images=scenes, out=run.root)
    save_config(replace(config, network=replace(config.network, backbone="resnet10")), run.config)
    for seed, stage in enumerate(("stage1", "stage3")):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            save_backbone(build_backbone("resnet10").eval(), run.backbone(stage))
    return run


def test_both_stages_are_drawn_and_scored_against_the_masks(scenes_run: RunDir):
    path, scores = attention_figure(scenes_run, OPTIONS, SMALL)
    assert path == scenes_run.root / "figures" / "attention.png"
    assert scores is not None
    assert json.loads((scenes_run.root / "figures" / "attention.json").read_text()) == scores
    assert (scores["against"], scores["num_images"], scores["side_px"]) == ("masks", NUM_IMAGES, 64)
    assert list(scores["backbones"]) == ["stage 1", "stage 3"]
    assert [(each["of"], each["less"]) for each in scores["differences"]] == [("stage 3", "stage 1")]
    masks = [Image.open(path) for path in (scenes_run.root.parent / "scenes" / "SegmentationObject").glob("*.png")]
    fraction = np.mean([np.asarray(mask) > 0 for mask in masks])
    for measure in ("pointing", "overlap", "inside"):
        estimate = scores["baselines"]["even"][measure]
        assert estimate["value"] == pytest.approx(fraction)
        assert estimate["low"] <= estimate["value"] <= estimate["high"]
    before = path.read_bytes()
    assert attention_figure(scenes_run, OPTIONS, SMALL)[1] == scores
    assert path.read_bytes() == before


def test_a_backbone_does_not_differ_from_itself_and_differs_from_others(scenes_run: RunDir):
    stage1 = str(scenes_run.root / "stage1")
    options = replace(OPTIONS, seed=5, backbones=(stage1, stage1, "random"), labels=("one", "same", "other"))
    _, scores = attention_figure(scenes_run, options, SMALL)
    assert scores is not None
    same, *others = scores["differences"]
    assert [same[measure]["high"] - same[measure]["low"] for measure in ("pointing", "overlap", "inside")] == [0, 0, 0]
    assert same["overlap"]["value"] == 0
    assert [(each["of"], each["less"]) for each in others] == [("other", "one"), ("other", "same")]
    assert others[0]["inside"]["value"] != 0


@pytest.mark.parametrize("reduction", ["component", "similarity"])
def test_other_reductions_give_other_maps(scenes_run: RunDir, reduction: str):
    by_magnitude = attention_figure(scenes_run, OPTIONS, SMALL)[1]
    found = attention_figure(scenes_run, replace(OPTIONS, reduction=reduction), SMALL)[1]
    assert found is not None
    assert by_magnitude is not None
    assert found["reduction"] == reduction
    assert found["backbones"] != by_magnitude["backbones"]


def test_maps_are_scored_against_boxes_on_request_and_not_without_annotations(scenes_run: RunDir, tmp_path: Path):
    _, scores = attention_figure(scenes_run, replace(OPTIONS, against="boxes", scored=3), SMALL)
    assert scores is not None
    assert (scores["against"], scores["num_images"]) == ("boxes", 3)
    to = tmp_path / "a.svg"
    file = FigureFile(dpi=40, to=to)
    assert attention_figure(scenes_run, replace(OPTIONS, scored=0), file) == (to, None)
    for folder in ("SegmentationObject", "ImageSets"):
        (scenes_run.root.parent / "scenes" / folder).rename(tmp_path / folder)
    assert attention_figure(scenes_run, OPTIONS, file) == (to, None)
    assert not to.with_suffix(".json").exists()


def test_the_feature_extractor_of_stage_2_is_drawn_if_there_is_no_stage_1(scenes_run: RunDir):
    config = demo(images=scenes_run.root.parent / "scenes", out=scenes_run.root)
    outside = scenes_run.root.parent / "outside.safetensors"
    scenes_run.backbone("stage1").rename(outside)
    discover = replace(config.discover, feature_extractor=outside)
    save_config(replace(config, discover=discover), scenes_run.config)
    _, scores = attention_figure(scenes_run, OPTIONS, SMALL)
    assert scores is not None
    assert list(scores["backbones"]) == ["feature extractor", "stage 3"]


def test_a_network_of_timm_is_drawn_beside_ours(scenes_run: RunDir, tmp_path: Path):
    timm = pytest.importorskip("timm")
    network = timm.create_model("test_efficientnet", num_classes=3)
    folder = tmp_path / "hub"
    folder.mkdir()
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({"architecture": "test_efficientnet"}))
    backbones = (str(scenes_run.root), str(folder / "pytorch_model.bin"))
    options = replace(OPTIONS, backbones=backbones, labels=("ours", "test_efficientnet"))
    _, scores = attention_figure(scenes_run, options, SMALL)
    assert scores is not None
    assert list(scores["backbones"]) == ["ours", "test_efficientnet"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.0}, "threshold must be above 0 and below 1, got 1"),
        ({"images": 0}, "images must be at least 1, got 0"),
        ({"side_px": 31}, "side_px must be at least 32, .*, got 31"),
        ({"scored": -1}, "scored must be at least 0, got -1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"backbones": ("a", "b"), "labels": ("one",)}, "1 labels do not fit 2 backbones"),
        ({"labels": ("one",)}, "1 labels do not fit 0 backbones"),
        ({"backbones": ("a", "a")}, "two backbones have the same name: a, a; give each its own with --labels"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionOptions(**options)


def test_the_command_line_prints_the_scores_and_their_paths(
    scenes_run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    to = tmp_path / "maps.pdf"
    options = ["--images", "1", "--side-px", "64", "--dpi", "40", "--device", "cpu", "--reduction", "similarity"]
    backbones = ["--backbones", "random", str(scenes_run.root / "stage1"), "--labels", "random weights", "BYOL"]
    assert main(["figures", "attention", str(scenes_run.root), *options, *backbones, "--pdf", "--to", str(to)]) == 0
    text = capsys.readouterr().out
    scores = json.loads(to.with_suffix(".json").read_text())
    assert format_scores(scores) in text
    assert "BYOL less random weights" in text
    assert f"% of {NUM_IMAGES} images, against masks; [95% interval]" in text
    assert text.endswith(f"scores: {to.with_suffix('.json')}\nfigure: {to}\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{run}/nowhere"], "no run at"),
        (["{run}", "--backbones", "{run}/nowhere"], "nothing at"),
        (["{run}", "--reduction", "mean"], "mean"),
        (["{run}", "--pdf", "--svg"], "--pdf and --svg are both given"),
        (["{run}", "--image", "00000.jpg"], "did you mean"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(
    scenes_run: RunDir, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
):
    options = ["--scored", "0", "--device", "cpu"]
    assert main(["figures", "attention", *(each.format(run=scenes_run.root) for each in arguments), *options]) in (1, 2)
    assert complaint in capsys.readouterr().err


def test_a_sheet_has_a_row_for_each_image_and_one_scale_for_all():
    ramp = np.tile(np.linspace(0, 1, 60, dtype=np.float32), (40, 1))
    tall = ramp.T.copy()
    maps = {"one": [ramp, tall], "two": [ramp * 0.5, tall]}
    figure = draw_attention_sheet(
        [np.zeros((40, 60, 3), np.uint8), np.zeros((60, 40, 3), np.uint8)],
        maps,
        ["first line", "second line"],
        threshold=0.7,
    )
    *panels, scale = figure.axes
    assert [axes.get_title() for axes in panels] == ["image", "one", "two", "", "", ""]
    assert [axes.images[-1].get_clim() for axes in panels[1:3] + panels[4:]] == [(0, 1)] * 4
    assert [len(axes.collections) for axes in panels] == [0, 1, 0, 0, 1, 1]
    assert panels[1].collections[0].levels.tolist() == [0.7]
    assert "0.7" in [tick.get_text() for tick in scale.get_yticklabels()]
    assert [text.get_text() for text in figure.texts] == ["second line", "first line"]
    sizes = [axes.get_position(original=True).size * figure.get_size_inches() for axes in panels]
    for (width, height), shape in zip(sizes, [(40, 60)] * 3 + [(60, 40)] * 3):
        assert width / height == pytest.approx(shape[1] / shape[0])
