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
from orl.figures.attention_figure import AttentionOptions, attention_figure, format_scores
from orl.networks.backbones import build_backbone, save_backbone
from orl.recipes import demo
from orl.rundir import RunDir
from orl.synthetic.scenes import draw_scenes

NUM_IMAGES, SIZE_WH = 5, (64, 48)
SMALL = AttentionOptions(images=2, side_px=64, dpi=40, device="cpu")


@pytest.fixture
def drawn(tmp_path: Path) -> RunDir:
    """A run on drawn scenes with two untrained backbones and nothing else."""
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


def test_both_stages_are_drawn_and_scored_against_the_masks(drawn: RunDir):
    path, scores = attention_figure(drawn, SMALL)
    assert path == drawn.root / "figures" / "attention.png"
    assert scores is not None
    assert json.loads((drawn.root / "figures" / "attention.json").read_text()) == scores
    assert (scores["against"], scores["num_images"], scores["side_px"]) == ("masks", NUM_IMAGES, 64)
    assert list(scores["backbones"]) == ["stage 1", "stage 3"]
    assert [(each["of"], each["less"]) for each in scores["differences"]] == [("stage 3", "stage 1")]
    masks = [Image.open(path) for path in (drawn.root.parent / "scenes" / "SegmentationObject").glob("*.png")]
    fraction = np.mean([np.asarray(mask) > 0 for mask in masks])
    for measure in ("pointing", "overlap", "inside"):
        estimate = scores["yardsticks"]["even"][measure]
        assert estimate["value"] == pytest.approx(fraction)
        assert estimate["low"] <= estimate["value"] <= estimate["high"]
    before = path.read_bytes()
    assert attention_figure(drawn, SMALL)[1] == scores
    assert path.read_bytes() == before


def test_a_backbone_against_itself_differs_by_nothing_and_others_are_told_apart(drawn: RunDir):
    stage1 = str(drawn.root / "stage1")
    options = replace(SMALL, seed=5)
    _, scores = attention_figure(drawn, options, (stage1, stage1, "random"), ("one", "same", "other"))
    assert scores is not None
    same, *others = scores["differences"]
    assert [same[measure]["high"] - same[measure]["low"] for measure in ("pointing", "overlap", "inside")] == [0, 0, 0]
    assert same["overlap"]["value"] == 0
    assert [(each["of"], each["less"]) for each in others] == [("other", "one"), ("other", "same")]
    assert others[0]["inside"]["value"] != 0


@pytest.mark.parametrize("reduction", ["component", "similarity"])
def test_other_reductions_give_other_maps(drawn: RunDir, reduction: str):
    by_magnitude = attention_figure(drawn, SMALL)[1]
    found = attention_figure(drawn, replace(SMALL, reduction=reduction))[1]
    assert found is not None
    assert by_magnitude is not None
    assert found["reduction"] == reduction
    assert found["backbones"] != by_magnitude["backbones"]


def test_boxes_are_scored_where_they_are_asked_for_and_nothing_where_nothing_is_known(drawn: RunDir, tmp_path: Path):
    _, scores = attention_figure(drawn, replace(SMALL, against="boxes", scored=3))
    assert scores is not None
    assert (scores["against"], scores["num_images"]) == ("boxes", 3)
    to = tmp_path / "a.svg"
    assert attention_figure(drawn, replace(SMALL, scored=0, to=to)) == (to, None)
    for folder in ("SegmentationObject", "ImageSets"):
        (drawn.root.parent / "scenes" / folder).rename(tmp_path / folder)
    assert attention_figure(drawn, replace(SMALL, to=to)) == (to, None)
    assert not to.with_suffix(".json").exists()


def test_what_stage_2_looked_with_takes_the_place_of_a_stage_1_that_is_not_there(drawn: RunDir):
    config = demo(images=drawn.root.parent / "scenes", out=drawn.root)
    outside = drawn.root.parent / "outside.safetensors"
    drawn.backbone("stage1").rename(outside)
    discover = replace(config.discover, feature_extractor=outside)
    save_config(replace(config, discover=discover), drawn.config)
    _, scores = attention_figure(drawn, SMALL)
    assert scores is not None
    assert list(scores["backbones"]) == ["the prior", "stage 3"]


def test_a_network_of_timm_is_drawn_beside_ours(drawn: RunDir, tmp_path: Path):
    timm = pytest.importorskip("timm")
    network = timm.create_model("test_efficientnet", num_classes=3)
    folder = tmp_path / "hub"
    folder.mkdir()
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({"architecture": "test_efficientnet"}))
    _, scores = attention_figure(
        drawn, SMALL, (str(drawn.root), str(folder / "pytorch_model.bin")), ("ours", "test_efficientnet")
    )
    assert scores is not None
    assert list(scores["backbones"]) == ["ours", "test_efficientnet"]


@pytest.mark.parametrize(
    ("options", "backbones", "labels", "message"),
    [
        ({"threshold": 1.0}, (), (), "threshold must be above 0 and below 1, not 1"),
        ({"images": 0}, (), (), "images must be at least 1, not 0"),
        ({"side_px": 31}, (), (), "side_px must be at least 32, .*, not 31"),
        ({"scored": -1}, (), (), "scored must be 0 or more, not -1"),
        ({"seed": -1}, (), (), "seed must be 0 or more, not -1"),
        ({"dpi": 1}, (), (), "dpi must be from 30 to 600, not 1"),
        ({}, ("a", "b"), ("one",), "1 labels do not name 2 backbones"),
        ({}, (), ("one",), "1 labels do not name 0 backbones"),
        ({}, ("a", "a"), (), "two backbones are called the same: a, a; tell them apart with --labels"),
    ],
)
def test_options_that_make_no_figure_are_refused(tmp_path: Path, options, backbones, labels, message):
    with pytest.raises(ValueError, match=message):
        attention_figure(RunDir(tmp_path), AttentionOptions(**options), backbones, labels)


def test_the_command_line_prints_the_scores_and_says_where_they_are(
    drawn: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    to = tmp_path / "maps.pdf"
    options = ["--images", "1", "--side-px", "64", "--dpi", "40", "--device", "cpu", "--reduction", "similarity"]
    backbones = ["--backbones", "random", str(drawn.root / "stage1"), "--labels", "random weights", "BYOL"]
    assert main(["figures", "attention", str(drawn.root), *options, *backbones, "--pdf", "--to", str(to)]) == 0
    told = capsys.readouterr().out
    scores = json.loads(to.with_suffix(".json").read_text())
    assert format_scores(scores) in told
    assert "BYOL less random weights" in told
    assert f"% of {NUM_IMAGES} images, against masks; [95% interval]" in told
    assert told.endswith(f"scores: {to.with_suffix('.json')}\nfigure: {to}\n")


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
    drawn: RunDir, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
):
    options = ["--scored", "0", "--device", "cpu"]
    assert main(["figures", "attention", *(each.format(run=drawn.root) for each in arguments), *options]) in (1, 2)
    assert complaint in capsys.readouterr().err
