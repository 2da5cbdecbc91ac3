import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure
from tests.finished_run import NUM_IMAGES, write_table

from orl.cli import main
from orl.datasets.image_table import load_image_table
from orl.figures import neighbour_figure as module
from orl.figures.figure_files import FigureFile
from orl.figures.neighbour_figure import NeighbourOptions, NeighbourRow, draw_neighbour_rows, neighbour_figure
from orl.rundir import RunDir


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures, collected in place of their files."""
    figures: list[Figure] = []
    monkeypatch.setattr(module, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def test_the_query_comes_before_its_neighbours_with_their_similarities(discovered: RunDir, saved: list[Figure]) -> None:
    options = NeighbourOptions(image="image_4.png", neighbours=2)
    assert neighbour_figure(discovered, options, FigureFile()) == discovered.figures / "neighbours.png"
    (figure,) = saved
    images = load_image_table(discovered.images)
    texts = [text.get_text() for text in figure.texts[:-1]]
    # The neighbours of every image are the first others, of 0.9, 0.8 and 0.7.
    assert texts == ["image_4.png", "", images.names[0], "0.900", "image_1.png", "0.800"]
    assert [axes.get_title() for axes in figure.axes] == ["query", "neighbour 1", "neighbour 2"]
    assert [len(axes.patches) for axes in figure.axes] == [1, 0, 0]


def test_images_are_sampled_by_the_seed(discovered: RunDir, saved: list[Figure]) -> None:
    for seed in (0, 0, 1):
        neighbour_figure(discovered, NeighbourOptions(images=3, neighbours=1, seed=seed), FigureFile())
    names = [[text.get_text() for text in figure.texts[:-1:4]] for figure in saved]
    assert names[0] == names[1] != names[2]
    images = load_image_table(discovered.images)
    order = np.random.default_rng(0).permutation(NUM_IMAGES)[:3]
    assert names[0] == [images.names[image_id] for image_id in order]


def test_at_most_all_neighbours_of_the_table_are_drawn(discovered: RunDir, saved: list[Figure]) -> None:
    neighbour_figure(discovered, NeighbourOptions(images=1, neighbours=50), FigureFile())
    assert len(saved[0].axes) == 4


def test_images_of_any_shape_keep_it_and_unknown_similarities_are_dashes() -> None:
    shapes = [(20, 80), (80, 20), (30, 40)]
    images = tuple(np.zeros((*shape, 3), dtype=np.uint8) for shape in shapes)
    row = NeighbourRow(names=("a", "b", "c"), images=images, similarities=(float("nan"), 0.5))
    figure = draw_neighbour_rows([row, row])
    sizes = [axes.get_position(original=True).size * figure.get_size_inches() for axes in figure.axes]
    for (width, height), shape in zip(sizes, shapes * 2):
        assert width / height == pytest.approx(shape[1] / shape[0])
    assert [text.get_text() for text in figure.texts[:6]] == ["a", "", "b", "–", "c", "0.500"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "images must be at least 1, got 0"),
        ({"neighbours": 0}, "neighbours must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"image": "image_44.png"}, r"did you mean image_4\.png"),
    ],
)
def test_options_out_of_range_are_refused(discovered: RunDir, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        neighbour_figure(discovered, NeighbourOptions(**options), FigureFile())


def test_a_table_of_other_images_and_a_missing_one_are_refused(discovered: RunDir) -> None:
    shutil.rmtree(discovered.table("neighbours"))
    with pytest.raises(FileNotFoundError, match="has no table of neighbours yet; make it with 'orl discover"):
        neighbour_figure(discovered, NeighbourOptions(), FigureFile())
    columns = {"neighbour_ids": np.zeros((2, 1), np.int32), "similarities": np.zeros((2, 1), np.float32)}
    write_table(discovered, "neighbours", columns)
    with pytest.raises(ValueError, match="neighbours has 2 rows, but there are 6 images; delete"):
        neighbour_figure(discovered, NeighbourOptions(), FigureFile())


def test_the_command_line_draws_the_same_each_time(discovered: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    contents = []
    for _ in range(2):
        assert main(["figures", "neighbours", str(discovered.root), "--pdf", "--dpi", "40", "--images", "2"]) == 0
        contents.append((discovered.figures / "neighbours.pdf").read_bytes())
    assert contents[0] == contents[1]
    assert capsys.readouterr().out.endswith(f"figure: {discovered.figures / 'neighbours.pdf'}\n")
    assert main(["figures", "neighbours", str(discovered.root / "nowhere")]) == 1
    assert "no run at" in capsys.readouterr().err
