import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from tests.finished_run import write_table

from orl import tables
from orl.cli import main
from orl.config import save_config
from orl.datasets.image_table import ImageTable, save_image_table
from orl.datasets.sources import read_labels
from orl.figures import roi_map_figure as roi_map_job
from orl.figures.roi_map import NO_OBJECT_COLOUR
from orl.figures.roi_map_figure import RoiMapOptions, roi_map_figure
from orl.networks.backbones import build_backbone, save_backbone
from orl.recipes import demo
from orl.rundir import RunDir
from orl.synthetic.scenes import draw_scenes

NUM_IMAGES, SIZE_WH = 6, (64, 48)
OPTIONS = RoiMapOptions(thumbnails=5, dpi=40, device="cpu")


@pytest.fixture
def found(tmp_path: Path) -> RunDir:
    """A run on drawn scenes whose RoIs are their objects, and two boxes without one in each image."""
    scenes, run = tmp_path / "scenes", RunDir(tmp_path / "run")
    draw_scenes(scenes, num_trainval=NUM_IMAGES, num_test=0, size_wh=SIZE_WH, quiet=True)
    names = tuple(f"JPEGImages/{index:06d}.jpg" for index in range(NUM_IMAGES))
    save_image_table(
        ImageTable(root=scenes, names=names, sizes_wh=(SIZE_WH,) * NUM_IMAGES, digests=tuple("abcdef")), run.images
    )
    save_config(demo(images=scenes, out=run.root), run.config)
    labels = read_labels(scenes)
    assert labels is not None
    corners = np.array([[0, 0, 5, 5], [60, 44, 64, 48]], dtype=np.float32)
    boxes = [np.concatenate([each, corners]) for each in labels.boxes]
    image_ids = np.arange(NUM_IMAGES, dtype=np.int32).repeat([len(each) for each in boxes])
    write_table(run, "rois", {"image_id": image_ids, "box": np.concatenate(boxes)})
    embeddings = np.random.default_rng(0).normal(size=(len(image_ids), 16)).astype(np.float16)
    write_table(run, "roi_embeddings", {"embedding": embeddings})
    return run


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The maps that were made, instead of files."""
    figures: list[Figure] = []
    monkeypatch.setattr(roi_map_job, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def num_rois(run: RunDir) -> int:
    return tables.load(run.table("rois")).num_rows


def test_rois_that_cover_objects_have_the_colours_of_their_classes(found: RunDir, drawn: list[Figure]) -> None:
    assert roi_map_figure(found, OPTIONS) == found.root / "figures" / "roi_map.png"
    (axes,) = drawn[0].axes
    colours = [to_hex(colour) for colour in axes.collections[0].get_facecolors()]
    assert len(colours) == num_rois(found)
    assert colours.count(NO_OBJECT_COLOUR) == 2 * NUM_IMAGES
    labels = read_labels(found.root.parent / "scenes")
    assert labels is not None
    seen = sorted({labels.classes[label] for each in labels.box_classes for label in each})
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [*seen, "no object"]
    assert len(axes.images) <= 5


def test_of_many_rois_some_are_drawn_at_random(found: RunDir, drawn: list[Figure]) -> None:
    for seed in (0, 0, 1):
        roi_map_figure(found, replace(OPTIONS, points=12, seed=seed))
    places = [figure.axes[0].collections[0].get_offsets() for figure in drawn]
    assert [len(each) for each in places] == [12] * 3
    assert np.array_equal(places[0], places[1])
    assert not np.array_equal(places[0], places[2])
    assert drawn[0].texts[0].get_text().startswith(f"12 of {num_rois(found)} RoIs, as stage 2 embedded them")


def test_another_backbone_embeds_the_rois_anew_and_needs_no_table(found: RunDir, drawn: list[Figure]) -> None:
    save_backbone(build_backbone("resnet10").eval(), found.backbone("stage3"))
    config = demo(images=found.root.parent / "scenes", out=found.root)
    save_config(replace(config, discover=replace(config.discover, roi_embed_px=32)), found.config)
    roi_map_figure(found, OPTIONS)
    shutil.rmtree(found.table("roi_embeddings"))
    roi_map_figure(found, replace(OPTIONS, backbone=found.root))
    places = [figure.axes[0].collections[0].get_offsets() for figure in drawn]
    assert places[0].shape == places[1].shape
    assert not np.array_equal(*places)
    assert "embedded by" in drawn[1].texts[0].get_text()


def test_without_labels_there_are_no_classes(found: RunDir, drawn: list[Figure]) -> None:
    scenes = found.root.parent / "scenes"
    shutil.rmtree(scenes / "ImageSets")
    roi_map_figure(found, OPTIONS)
    assert drawn[0].axes[0].get_legend() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 0}, "points must be from 1 to 10000, not 0"),
        ({"points": 10_001}, "points must be from 1 to 10000, not 10001"),
        ({"thumbnails": -1}, "thumbnails must be from 0 to 10000, not -1"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"points": 9}, "9 RoIs make no map"),
        ({"to": Path("a.gif")}, r"a\.gif ends in \.gif"),
    ],
)
def test_options_that_make_no_map_are_refused(found: RunDir, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        roi_map_figure(found, RoiMapOptions(**options))


def test_embeddings_of_other_rois_and_missing_ones_are_refused(found: RunDir) -> None:
    shutil.rmtree(found.table("roi_embeddings"))
    with pytest.raises(FileNotFoundError, match="has no embeddings of its RoIs; make them with 'orl discover"):
        roi_map_figure(found, OPTIONS)
    write_table(found, "roi_embeddings", {"embedding": np.zeros((3, 16), dtype=np.float16)})
    with pytest.raises(ValueError, match="roi_embeddings was made from other RoIs; rebuild it with"):
        roi_map_figure(found, OPTIONS)


def test_the_command_line_draws_the_same_each_time(found: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    contents = []
    for _ in range(2):
        assert main(["figures", "roi-map", str(found.root), "--svg", "--dpi", "40", "--thumbnails", "4"]) == 0
        contents.append((found.figures / "roi_map.svg").read_bytes())
    assert contents[0] == contents[1]
    assert capsys.readouterr().out.endswith(f"figure: {found.figures / 'roi_map.svg'}\n")
    assert main(["figures", "roi-map", str(found.root / "nowhere")]) == 1
    assert "no run at" in capsys.readouterr().err
