import itertools
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from orl.figures.figure_files import save_figure
from orl.figures.sheets import CaptionText, SheetImage, SheetOptions, draw_sheet, shorten_to_fit, shrink_to_cell

DPI = 50


def sheet_image(
    aspect_ratio: float = 2.0,
    names: tuple[str, str] = ("a.jpg", "b.jpg"),
    num_badges: int = 2,
    text: str = "similarity",
) -> SheetImage:
    def draw(axes: Axes) -> None:
        axes.imshow(np.full((4, 8, 3), (255, 0, 0), dtype=np.uint8), aspect="auto")

    badges = (("0.987", "#ffb000"),) * num_badges
    halves = (CaptionText(text=names[0], right=0.5), CaptionText(text=names[1], left=0.5))
    return SheetImage(aspect_ratio=aspect_ratio, draw=draw, lines=(halves, (CaptionText(text=text, badges=badges),)))


def boxes_of_texts(figure: Figure) -> dict[Text, np.ndarray]:
    """Return the box of each text in pixels (left, bottom, right, top), with its background if it has one."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    found = {}
    for text in figure.texts:
        ground = text.get_bbox_patch()
        found[text] = (ground or text).get_window_extent(canvas.get_renderer()).extents
    return found


@settings(max_examples=15, deadline=None)
@given(
    aspect_ratios=st.lists(st.floats(0.01, 100), min_size=1, max_size=5),
    cols=st.integers(1, 3),
    names=st.tuples(*[st.text(alphabet="aWi_$/ ", min_size=1, max_size=80)] * 2),
    num_badges=st.integers(1, 6),
)
@example(aspect_ratios=[0.1, 4.0, 20.0], cols=2, names=("W" * 80, "W" * 80), num_badges=6)
def test_texts_never_overlap_and_never_leave_the_sheet(
    aspect_ratios: list[float], cols: int, names: tuple[str, str], num_badges: int
) -> None:
    images = [sheet_image(aspect_ratio, names, num_badges, names[1]) for aspect_ratio in aspect_ratios]
    figure = draw_sheet(names[0], names[1], images, cols, DPI)
    width, height = figure.get_size_inches() * DPI
    axes_boxes = [axes.get_window_extent().extents for axes in figure.axes]
    found = [box for box in boxes_of_texts(figure).values() if box[2] > box[0]]
    for left, bottom, right, top in [*found, *axes_boxes]:
        # Letters are drawn on whole pixels.
        assert left >= -1
        assert bottom >= -1
        assert right <= width + 1
        assert top <= height + 1
    for one, other in itertools.combinations([*found, *axes_boxes], 2):
        overlap = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
        assert overlap.min() <= 1.0, (one, other)


def test_an_image_keeps_its_aspect_ratio_and_fills_its_column_unless_too_tall() -> None:
    figure = draw_sheet("title", "run", [sheet_image(4.0), sheet_image(1.0), sheet_image(0.1)], 2, DPI)
    sizes = [axes.get_position(original=True).size * figure.get_size_inches() for axes in figure.axes]
    np.testing.assert_allclose(sizes, [[6, 1.5], [3, 3], [0.3, 3]])
    # Two columns of 6 inches with 0.3 between and 0.2 about them; rows of 3 inches, two lines of 0.2 and a gap of 0.3.
    np.testing.assert_allclose(figure.get_size_inches(), [12.7, 0.4 + 0.2 + 2 * (3 + 0.4 + 0.3)])
    lefts = [axes.get_position(original=True).x0 * 12.7 for axes in figure.axes]
    np.testing.assert_allclose(lefts, [0.2, 6.5 + 1.5, 0.2 + 2.85])


def test_a_sheet_has_no_empty_columns() -> None:
    assert draw_sheet("title", "run", [sheet_image()], 3, DPI).get_size_inches()[0] == pytest.approx(6.4)


def test_texts_are_not_read_as_formulas() -> None:
    figure = draw_sheet("$x_1$", "run", [sheet_image(names=("$a_b$.png", "c.png"))], 1, DPI)
    shown = {text.get_text() for text in figure.texts}
    assert {"$x_1$", "run", "$a_b$.png", "c.png", "similarity", "0.987"} <= shown
    assert not any(text.get_parse_math() for text in figure.texts)


def test_captions_below_a_narrow_image_have_room() -> None:
    figure = draw_sheet("title", "run", [sheet_image(0.01, ("image_1.jpg", "image_2.jpg"))], 1, DPI)
    assert {"image_1.jpg", "image_2.jpg"} <= {text.get_text() for text in figure.texts}


def test_text_that_fits_is_kept_and_other_text_loses_its_beginning() -> None:
    assert shorten_to_fit("image.jpg", 3, 10) == "image.jpg"
    short = shorten_to_fit("a/folder/with/a/long/name/image.jpg", 1, 10)
    assert short.startswith("…")
    assert short.endswith("image.jpg")
    assert shorten_to_fit("image.jpg", 0.01, 10) == ""
    assert shorten_to_fit("", 1, 10) == ""
    assert shorten_to_fit("a\nb\x00c", 3, 10) == "a?b?c"


def test_a_shorter_text_would_not_fit_either_if_one_letter_were_added() -> None:
    name = "a/folder/with/a/long/name/image.jpg"
    short = shorten_to_fit(name, 1, 10)
    one_more = name[-len(short) :]
    assert short[1:] == one_more[1:]
    assert shorten_to_fit("…" + one_more, 1, 10) != "…" + one_more


def test_a_large_image_is_made_small_and_a_small_one_is_left_alone() -> None:
    wide = np.zeros((500, 4000, 3), dtype=np.uint8)
    tall = np.zeros((4000, 500, 3), dtype=np.uint8)
    assert shrink_to_cell(wide, 100).shape == (75, 600, 3)  # a column of 6 inches
    assert shrink_to_cell(tall, 100).shape == (300, 38, 3)  # 3 inches, the tallest
    small = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    np.testing.assert_array_equal(shrink_to_cell(small, 100), small)
    assert shrink_to_cell(np.zeros((1, 4000, 3), dtype=np.uint8), 100).shape == (1, 600, 3)


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")])
def test_a_file_has_the_format_of_its_suffix_and_the_same_bytes_each_time(
    tmp_path: Path, suffix: str, begins: bytes
) -> None:
    contents = []
    for name in ("one", "two"):
        path = tmp_path / "new folder" / f"{name}{suffix}"
        save_figure(draw_sheet("title", "run", [sheet_image()], 1, DPI), path)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert contents[0].startswith(begins)
    assert b"Date" not in contents[0]


def test_a_png_has_the_size_of_the_sheet_and_shows_it(tmp_path: Path) -> None:
    figure = draw_sheet("title", "run", [sheet_image(2.0)], 1, DPI)
    save_figure(figure, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size == tuple((figure.get_size_inches() * DPI).astype(int))
        assert image.mode == "RGB"
        assert image.getpixel((160, 80)) == (255, 0, 0)
        assert image.getpixel((1, 1)) == (255, 255, 255)


def test_an_svg_is_well_formed_and_its_images_have_the_resolution_asked_for(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 600, 3), dtype=np.uint8)
    shown = SheetImage(aspect_ratio=2, draw=lambda axes: axes.imshow(noise) and None, lines=())
    sizes = {}
    for dpi in (40, 160):
        save_figure(draw_sheet("title", "run", [shown], 1, dpi), tmp_path / "sheet.svg")
        root = ElementTree.parse(tmp_path / "sheet.svg").getroot()
        assert root.tag.endswith("svg")
        sizes[dpi] = (tmp_path / "sheet.svg").stat().st_size
    assert sizes[160] > 4 * sizes[40]


def test_letters_that_the_font_lacks_do_not_warn(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for suffix in (".png", ".svg", ".pdf"):
        save_figure(
            draw_sheet("写真", "写真", [sheet_image(names=("日本.jpg", "b"))], 1, DPI), tmp_path / f"sheet{suffix}"
        )
    assert [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "rows must be at least 1, got 0"),
        ({"cols": -2}, "cols must be at least 1, got -2"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SheetOptions(**options)


@pytest.mark.parametrize(("num_images", "cols", "dpi"), [(80, 2, 200), (180, 1, 100)])
def test_a_sheet_too_large_to_draw_is_refused(num_images: int, cols: int, dpi: int) -> None:
    with pytest.raises(ValueError, match=r"pixels, over the limit .*; show fewer rows or cols, or lower the dpi"):
        draw_sheet("title", "run", [sheet_image()] * num_images, cols, dpi)
