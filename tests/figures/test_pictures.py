import base64
import io
import xml.etree.ElementTree as ElementTree

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from orl.figures.neighbours import draw_neighbours
from orl.figures.pictures import as_jpeg, as_svg, panel
from orl.figures.proposals import draw_proposals


def red_figure() -> Figure:
    figure = Figure(figsize=(2, 1), dpi=50)
    panel(figure, 0, 0, 1, 1).imshow(np.full((10, 20, 3), (255, 0, 0), dtype=np.uint8))
    return figure


def test_a_jpeg_shows_the_figure_at_its_size():
    picture = as_jpeg(red_figure())
    kind, data = picture.uri.split(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == "data:image/jpeg;base64"
    assert image.size == (picture.width_px, picture.height_px) == (100, 50)
    np.testing.assert_allclose(np.asarray(image)[25, 50], [255, 0, 0], atol=3)  # JPEG rounds


def test_an_svg_is_well_formed_and_the_same_each_time():
    first, second = as_svg(red_figure()), as_svg(red_figure())
    root = ElementTree.fromstring(base64.b64decode(first.uri.split(",")[1]))
    assert root.tag.endswith("svg")
    assert first == second


def test_neighbours_follow_the_query_with_their_similarity():
    photo = np.zeros((30, 40, 3), dtype=np.uint8)
    figure = draw_neighbours(photo, [photo[:, :20], photo], np.array([0.9, 0.8125]), num_columns=2)
    assert [axes.get_title() for axes in figure.axes] == ["query", "0.900", "0.812"]
    assert [len(axes.patches) for axes in figure.axes] == [1, 0, 0]
    rows = [axes.get_position(original=True).y0 for axes in figure.axes]
    assert rows[0] == rows[1] > rows[2]


def test_every_roi_is_drawn_the_largest_first():
    boxes = np.array([[0, 0, 10, 10], [5, 5, 35, 25], [2, 2, 20, 20]], dtype=np.float32)
    (axes,) = draw_proposals(np.zeros((30, 40, 3), dtype=np.uint8), boxes).axes
    assert [patch.get_bbox().extents.tolist() for patch in axes.patches] == boxes[[1, 2, 0]].tolist()
