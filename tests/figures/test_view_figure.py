from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from tests.finished_run import HEIGHT, NUM_IMAGES, WIDTH, write_images, write_tables

from orl.cli import main
from orl.config import RunConfig, save_config
from orl.datasets.image_table import load_image_table
from orl.figures import view_figure as module
from orl.figures.figure_files import FigureFile
from orl.figures.run_images import RunImages
from orl.figures.view_figure import SampleViews, ViewOptions, draw_views, read_sample, view_figure
from orl.pipeline.view_samplers import build_view_sampler
from orl.recipes import demo
from orl.rundir import RunDir
from orl.views.augment import augment, normalise
from orl.views.crops import cut_boxes
from orl.views.view_dataset import ViewDataset, collate_views

OBJECT_VIEWS = ["view_1", "view_2", "intra_1", "intra_2", "inter_1", "inter_2"]


@pytest.fixture
def configured(tmp_path: Path) -> RunDir:
    """A run with its config and the tables of stage 2."""
    run = RunDir(tmp_path / "run")
    write_images(run, tmp_path / "images")
    write_tables(run)
    save_config(demo(images=tmp_path / "images", out=run.root), run.config)
    return run


def config_of(run: RunDir) -> RunConfig:
    return demo(images=run.root.parent / "images", out=run.root)


def without_colours(config: RunConfig) -> RunConfig:
    views = replace(
        config.stage1.views,
        jitter=(0.0, 0.0, 0.0, 0.0),
        blur_probabilities=(0.0, 0.0),
        solarise_probabilities=(0.0, 0.0),
    )
    return replace(config, stage1=replace(config.stage1, views=views))


def test_the_views_are_those_that_training_gets(configured: RunDir) -> None:
    images, config = load_image_table(configured.images), config_of(configured)
    smaller = replace(config.stage3.views, size_px=config.stage1.views.size_px - 8)
    config = replace(config, stage3=replace(config.stage3, views=smaller))
    view_sampler = build_view_sampler(config, "stage3", images)
    sample = read_sample(view_sampler, (2, 3), RunImages(configured, images, 110))
    assert list(sample.views) == OBJECT_VIEWS
    view_boxes = view_sampler.sample_boxes((2, 3))
    assert sample.names == tuple(images.names[view_boxes[name].image_id] for name in ("view_1", "inter_2"))
    assert [sample.boxes[name][0] for name in OBJECT_VIEWS] == [0, 0, 0, 0, 0, 1]
    for name, (_, box) in sample.boxes.items():
        np.testing.assert_array_equal(box, view_boxes[name].box)
    sides = [view.shape[0] for view in sample.views.values()]
    assert sides == [config.stage3.views.size_px] * 2 + [config.objects.roi_size_px] * 4


def test_without_colour_changes_a_view_is_its_crop_but_for_gray_and_flips(configured: RunDir) -> None:
    table = load_image_table(configured.images)
    view_sampler = build_view_sampler(without_colours(config_of(configured)), "stage1", table)
    images = RunImages(configured, table, 110)
    plain = 0
    for image_id in range(NUM_IMAGES):
        sample = read_sample(view_sampler, (0, image_id), images)
        for name, view_box in view_sampler.sample_boxes((0, image_id)).items():
            crop = cut_boxes(images.load(image_id), view_box.box[None], view_box.size_px)[0]
            if view_box.colours.gray:
                continue
            plain += 1
            expected = crop.flip(-1) if view_box.colours.flip else crop
            np.testing.assert_array_equal(sample.views[name], expected.permute(1, 2, 0).numpy())
    assert plain >= 6


def test_normalising_a_shown_view_again_gives_what_the_network_got(configured: RunDir) -> None:
    images = load_image_table(configured.images)
    view_sampler = build_view_sampler(config_of(configured), "stage1", images)
    sample = read_sample(view_sampler, (1, 0), RunImages(configured, images, 110))
    view = collate_views([ViewDataset(view_sampler)[1, 0]]).views["view_1"]
    network_input = augment(view.crop, view.colours, torch.device("cpu"))
    again = normalise(torch.from_numpy(sample.views["view_1"]).permute(2, 0, 1)[None])
    # Pixels are rounded to integers: an error of half a level, over the smallest std.
    torch.testing.assert_close(again, network_input, rtol=0, atol=0.51 / 255 / 0.224)


def test_boxes_shrink_with_an_image_that_is_shown_smaller(configured: RunDir) -> None:
    images = load_image_table(configured.images)
    view_sampler = build_view_sampler(config_of(configured), "stage1", images)
    full = read_sample(view_sampler, (0, 1), RunImages(configured, images, 110)).boxes["view_1"][1]
    # At 20 dpi a sheet shows images of at most 60 pixels of height: 64 become 60.
    small = read_sample(view_sampler, (0, 1), RunImages(configured, images, 20)).boxes["view_1"][1]
    np.testing.assert_allclose(small, full * 60 / 64, rtol=1e-6)


def sample_of(num_images: int) -> SampleViews:
    image = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    boxes = {"view_1": (0, np.array([1.0, 2, 30, 40])), "inter_2": (num_images - 1, np.array([5.0, 6, 25, 26]))}
    views = {name: np.full((8, 8, 3), 9, dtype=np.uint8) for name in boxes}
    return SampleViews(names=("a.png", "b.png")[:num_images], images=(image,) * num_images, boxes=boxes, views=views)


def frames(figure: Figure, at: int) -> list[tuple[list[float], tuple[float, ...]]]:
    return [(patch.get_bbox().extents.tolist(), patch.get_edgecolor()) for patch in figure.axes[at].patches]


def test_a_view_has_the_colour_of_its_box_in_the_image_that_it_was_cut_from() -> None:
    figure = draw_views([sample_of(2)], "all of them")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["image", "neighbour", "view 1, 8 px", "inter 2, 8 px"]
    (box, colour), (other_box, other_colour) = frames(figure, 0)[0], frames(figure, 1)[0]
    # Pixels are centred on whole numbers.
    assert (box, other_box) == ([0.5, 1.5, 29.5, 39.5], [4.5, 5.5, 24.5, 25.5])
    assert [frames(figure, at)[0][1] for at in (2, 3)] == [colour, other_colour]
    assert colour != other_colour
    assert [text.get_text() for text in figure.texts] == ["a.png", "b.png", "all of them"]


def test_a_sample_of_one_image_has_no_neighbour() -> None:
    figure = draw_views([sample_of(1)] * 3)
    assert [axes.get_title() for axes in figure.axes] == ["image", "view 1, 8 px", "inter 2, 8 px"] + [""] * 6


def test_the_views_are_those_of_the_epoch_asked_for(configured: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(module, "save_figure", lambda figure, path: figures.append(figure))
    view_sampler = build_view_sampler(config_of(configured), "stage1", load_image_table(configured.images))
    view_figure(configured, view_sampler, "stage1", ViewOptions(image="image_1.png", epoch=4), FigureFile())
    shown = np.asarray(figures[0].axes[1].images[0].get_array())
    at_4, at_0 = (
        read_sample(view_sampler, (epoch, 1), RunImages(configured, view_sampler.images, 110)).views["view_1"]
        for epoch in (4, 0)
    )
    np.testing.assert_array_equal(shown, at_4)
    assert not np.array_equal(at_4, at_0)


@pytest.mark.parametrize("stage", ["stage1", "stage3"])
def test_the_command_line_draws_the_same_each_time(
    configured: RunDir, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--images", "2", "--epoch", "3", "--dpi", "40"]
    contents = []
    for _ in range(2):
        assert main(["figures", "views", str(configured.root), "--stage", stage, *options]) == 0
        contents.append((configured.figures / f"views_{stage}.png").read_bytes())
    assert contents[0] == contents[1]
    assert capsys.readouterr().out.endswith(f"figure: {configured.figures / f'views_{stage}.png'}\n")
    with Image.open(configured.figures / f"views_{stage}.png") as image:
        assert image.width > 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "images must be at least 1, got 0"),
        ({"epoch": -1}, "epoch must be at least 0, got -1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"image": "nothing.png"}, r"no image 'nothing\.png' among the 6 of the run"),
    ],
)
def test_options_out_of_range_are_refused(configured: RunDir, options: dict, message: str) -> None:
    view_sampler = build_view_sampler(config_of(configured), "stage1", load_image_table(configured.images))
    with pytest.raises(ValueError, match=message):
        view_figure(configured, view_sampler, "stage1", ViewOptions(**options), FigureFile())


def test_stage_3_needs_stage_2_and_a_run(
    configured: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (configured.root / "discover").rename(tmp_path / "elsewhere")
    assert main(["figures", "views", str(configured.root)]) == 1
    assert "make it with 'orl discover'" in capsys.readouterr().err
    assert main(["figures", "views", str(tmp_path / "nowhere")]) == 1
    assert "no run at" in capsys.readouterr().err
