import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from tests.finished_run import write_table

from orl import tables
from orl.cli import main
from orl.config import save_config
from orl.datasets.image_table import ImageTable, save_image_table
from orl.datasets.labels import NO_OBJECT
from orl.datasets.sources import read_labels
from orl.figures import roi_map_figure as module
from orl.figures.figure_files import FigureFile
from orl.figures.roi_map_figure import (
    NO_OBJECT_COLOUR,
    OTHER_COLOUR,
    RoiMapOptions,
    choose_separate,
    draw_roi_map,
    map_points,
    roi_map_figure,
)
from orl.networks.backbones import build_backbone, save_backbone
from orl.recipes import demo
from orl.rundir import RunDir
from orl.synthetic.scenes import draw_scenes

NUM_IMAGES, SIZE_WH = 6, (64, 48)
OPTIONS = RoiMapOptions(thumbnails=5, device="cpu")
SMALL = FigureFile(dpi=40)


@pytest.fixture
def configured(tmp_path: Path) -> RunDir:
    """A run on synthetic scenes whose RoIs are the objects, and two boxes without object in each image."""
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
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The maps, collected in place of their files."""
    figures: list[Figure] = []
    monkeypatch.setattr(module, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def num_rois(run: RunDir) -> int:
    return tables.load(run.table("rois")).num_rows


def test_rois_that_cover_objects_have_the_colours_of_their_classes(configured: RunDir, saved: list[Figure]) -> None:
    assert roi_map_figure(configured, OPTIONS, SMALL) == configured.root / "figures" / "roi_map.png"
    (axes,) = saved[0].axes
    colours = [to_hex(colour) for colour in axes.collections[0].get_facecolors()]
    assert len(colours) == num_rois(configured)
    assert colours.count(NO_OBJECT_COLOUR) == 2 * NUM_IMAGES
    labels = read_labels(configured.root.parent / "scenes")
    assert labels is not None
    seen = sorted({labels.classes[label] for each in labels.box_classes for label in each})
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [*seen, "no object"]
    assert len(axes.images) <= 5


def test_of_many_rois_a_random_choice_is_drawn(configured: RunDir, saved: list[Figure]) -> None:
    for seed in (0, 0, 1):
        roi_map_figure(configured, replace(OPTIONS, points=12, seed=seed), SMALL)
    positions = [figure.axes[0].collections[0].get_offsets() for figure in saved]
    assert [len(each) for each in positions] == [12] * 3
    assert np.array_equal(positions[0], positions[1])
    assert not np.array_equal(positions[0], positions[2])
    assert saved[0].texts[0].get_text().startswith(f"12 of {num_rois(configured)} RoIs, as stage 2 embedded them")


def test_another_backbone_embeds_the_rois_and_needs_no_table(configured: RunDir, saved: list[Figure]) -> None:
    save_backbone(build_backbone("resnet10").eval(), configured.backbone("stage3"))
    config = demo(images=configured.root.parent / "scenes", out=configured.root)
    save_config(replace(config, discover=replace(config.discover, roi_embed_px=32)), configured.config)
    roi_map_figure(configured, OPTIONS, SMALL)
    shutil.rmtree(configured.table("roi_embeddings"))
    roi_map_figure(configured, replace(OPTIONS, backbone=configured.root), SMALL)
    positions = [figure.axes[0].collections[0].get_offsets() for figure in saved]
    assert positions[0].shape == positions[1].shape
    assert not np.array_equal(*positions)
    assert "embedded by" in saved[1].texts[0].get_text()


def test_without_labels_there_are_no_classes(configured: RunDir, saved: list[Figure]) -> None:
    scenes = configured.root.parent / "scenes"
    shutil.rmtree(scenes / "ImageSets")
    roi_map_figure(configured, OPTIONS, SMALL)
    assert saved[0].axes[0].get_legend() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 0}, "points must be from 1 to 10000, got 0"),
        ({"points": 10_001}, "points must be from 1 to 10000, got 10001"),
        ({"thumbnails": -1}, "thumbnails must be from 0 to 10000, got -1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"points": 9}, "a map needs at least 10 RoIs, got 9"),
    ],
)
def test_options_out_of_range_are_refused(configured: RunDir, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        roi_map_figure(configured, RoiMapOptions(**options), SMALL)


def test_embeddings_of_other_rois_and_missing_ones_are_refused(configured: RunDir) -> None:
    shutil.rmtree(configured.table("roi_embeddings"))
    with pytest.raises(FileNotFoundError, match="has no embeddings of its RoIs; make them with 'orl discover"):
        roi_map_figure(configured, OPTIONS, SMALL)
    write_table(configured, "roi_embeddings", {"embedding": np.zeros((3, 16), dtype=np.float16)})
    with pytest.raises(ValueError, match="roi_embeddings was made from other RoIs; rebuild it with"):
        roi_map_figure(configured, OPTIONS, SMALL)


def test_the_command_line_draws_the_same_each_time(configured: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    contents = []
    for _ in range(2):
        assert main(["figures", "roi-map", str(configured.root), "--svg", "--dpi", "40", "--thumbnails", "4"]) == 0
        contents.append((configured.figures / "roi_map.svg").read_bytes())
    assert contents[0] == contents[1]
    assert capsys.readouterr().out.endswith(f"figure: {configured.figures / 'roi_map.svg'}\n")
    assert main(["figures", "roi-map", str(configured.root / "nowhere")]) == 1
    assert "no run at" in capsys.readouterr().err


def groups(num_points: int, num_groups: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of any length about a few directions, and the direction of each."""
    generator = np.random.default_rng(0)
    middles = np.eye(num_groups, 8)
    group = np.arange(num_points) % num_groups
    vectors = middles[group] + generator.normal(0, 0.05, (num_points, 8))
    return (vectors * generator.uniform(0.1, 10, (num_points, 1))).astype(np.float32), group


def test_embeddings_of_one_direction_lie_together_whatever_their_length():
    embeddings, group = groups(60)
    positions = map_points(embeddings)
    assert positions.min() == 0
    assert positions.max() == 1
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert np.array_equal(group[distances.argmin(axis=1)], group)


def test_the_map_is_the_same_for_one_seed_and_finite_for_equal_points():
    embeddings, _ = groups(30)
    assert np.array_equal(map_points(embeddings, seed=1), map_points(embeddings, seed=1))
    positions = map_points(np.repeat(np.eye(2, 4, dtype=np.float32), 6, axis=0))
    assert np.isfinite(positions).all()
    assert positions.min() >= 0
    assert positions.max() <= 1


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="a map needs at least 10 RoIs, got 9"):
        map_points(np.zeros((9, 4), dtype=np.float32))


def test_embeddings_that_are_all_the_same_are_refused():
    lengths = np.arange(1, 13, dtype=np.float32)[:, None]
    with pytest.raises(ValueError, match="the embeddings of 12 RoIs are all the same"):
        map_points(lengths * np.ones((1, 4), dtype=np.float32))


def test_thumbnails_are_chosen_in_turn_while_they_have_room():
    positions = np.array([[0.0, 0.0], [0.05, 0.0], [0.05, 0.1], [0.1, 0.05], [0.9, 0.9]])
    assert choose_separate(positions, 10, side=0.1) == [0, 2, 4]
    assert choose_separate(positions, 2, side=0.1) == [0, 2]
    assert choose_separate(positions, 0, side=0.1) == []


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), side=st.floats(0.02, 0.4))
def test_thumbnails_never_overlap_and_no_other_would_have_room(seed: int, side: float):
    positions = np.random.default_rng(seed).random((80, 2))
    chosen = choose_separate(positions, 80, side)
    apart = np.abs(positions[chosen][:, None] - positions[chosen][None]).max(axis=2)
    np.fill_diagonal(apart, np.inf)
    assert apart.min() >= side
    left = [index for index in range(80) if index not in chosen]
    assert all(np.abs(positions[chosen] - positions[index]).max(axis=1).min() < side for index in left)


def test_dots_and_frames_have_the_colour_of_their_class_as_in_the_legend():
    positions = np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5], [0.2, 0.8]])
    classes = np.array([1, NO_OBJECT, 0, 1])
    wide, tall = np.zeros((20, 40, 3), dtype=np.uint8), np.zeros((40, 20, 3), dtype=np.uint8)
    figure = draw_roi_map(positions, {0: wide, 1: tall}, classes, ("cat", "dog", "never"), "all of it")
    (axes,) = figure.axes
    dots = [to_hex(colour) for colour in axes.collections[0].get_facecolors()]
    assert dots[0] == dots[3] != dots[2]
    assert dots[1] == NO_OBJECT_COLOUR
    assert [to_hex(frame.get_edgecolor()) for frame in axes.patches] == [dots[0], dots[1]]
    boxes = [frame.get_bbox() for frame in axes.patches]
    assert [box.width / box.height for box in boxes] == pytest.approx([2, 0.5])
    assert [(box.x0 + box.x1) / 2 for box in boxes] == pytest.approx([0, 1])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["cat", "dog", "no object"]
    assert [text.get_text() for text in figure.texts] == ["all of it"]


def test_the_most_frequent_classes_have_own_colours_and_the_rest_one_colour():
    classes = np.repeat(np.arange(25), 26 - np.arange(25))[::-1].copy()
    figure = draw_roi_map(np.random.default_rng(0).random((len(classes), 2)), {}, classes, [f"c{i}" for i in range(25)])
    (axes,) = figure.axes
    dots = [to_hex(colour) for colour in axes.collections[0].get_facecolors()]
    of_class = {label: {dots[row] for row in np.flatnonzero(classes == label)} for label in range(25)}
    assert all(len(colours) == 1 for colours in of_class.values())
    assert len(set().union(*(of_class[label] for label in range(18)))) == 18
    assert set().union(*(of_class[label] for label in range(18, 25))) == {OTHER_COLOUR}
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == [*(f"c{i}" for i in range(18)), "7 other classes", "no object"]


def test_without_labels_there_is_one_colour_and_no_legend():
    figure = draw_roi_map(np.random.default_rng(0).random((5, 2)), {})
    (axes,) = figure.axes
    assert len({to_hex(colour) for colour in axes.collections[0].get_facecolors()}) == 1
    assert axes.get_legend() is None
