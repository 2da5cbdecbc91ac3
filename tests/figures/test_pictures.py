import base64
import io
import xml.etree.ElementTree as ElementTree

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from orl.figures.pictures import as_jpeg, as_svg, encode_jpeg, image_axes


def red_figure() -> Figure:
    figure = Figure(figsize=(2, 1), dpi=50)
    image_axes(figure, 0, 0, 1, 1).imshow(np.full((10, 20, 3), (255, 0, 0), dtype=np.uint8))
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


def test_only_charts_may_be_turned_in_the_dark():
    assert as_svg(red_figure()).is_chart
    assert not as_jpeg(red_figure()).is_chart


def test_a_picture_over_the_limit_is_encoded_at_less_quality():
    pixels = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    sizes = [len(encode_jpeg(pixels, limit)) for limit in (10**6, 6_000, 1)]
    assert sizes[1] <= 6_000 < sizes[0]
    assert sizes[2] < sizes[1]  # the least quality there is, over the limit or not
