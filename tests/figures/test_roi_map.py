import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from orl.datasets.labels import NO_OBJECT
from orl.figures.roi_map import NO_OBJECT_COLOUR, OTHER_COLOUR, draw_roi_map, map_points, spread_out


def groups(num_points: int, num_groups: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of any length about a few directions, and the direction of each."""
    generator = np.random.default_rng(0)
    middles = np.eye(num_groups, 8)
    which = np.arange(num_points) % num_groups
    vectors = middles[which] + generator.normal(0, 0.05, (num_points, 8))
    return (vectors * generator.uniform(0.1, 10, (num_points, 1))).astype(np.float32), which


def test_what_points_in_one_direction_lies_together_however_long_it_is():
    embeddings, which = groups(60)
    places = map_points(embeddings)
    assert places.min() == 0
    assert places.max() == 1
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert np.array_equal(which[distances.argmin(axis=1)], which)


def test_the_map_is_the_same_for_the_same_seed_and_stays_in_its_square_where_points_are_equal():
    embeddings, _ = groups(30)
    assert np.array_equal(map_points(embeddings, seed=1), map_points(embeddings, seed=1))
    places = map_points(np.repeat(np.eye(2, 4, dtype=np.float32), 6, axis=0))
    assert np.isfinite(places).all()
    assert places.min() >= 0
    assert places.max() <= 1


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="9 RoIs make no map; 10 or more are needed"):
        map_points(np.zeros((9, 4), dtype=np.float32))


def test_embeddings_that_are_all_the_same_are_refused():
    lengths = np.arange(1, 13, dtype=np.float32)[:, None]
    with pytest.raises(ValueError, match="the embeddings of 12 RoIs are all the same"):
        map_points(lengths * np.ones((1, 4), dtype=np.float32))


def test_thumbnails_are_taken_in_turn_while_they_have_room():
    places = np.array([[0.0, 0.0], [0.05, 0.0], [0.05, 0.1], [0.1, 0.05], [0.9, 0.9]])
    assert spread_out(places, 10, side=0.1) == [0, 2, 4]
    assert spread_out(places, 2, side=0.1) == [0, 2]
    assert spread_out(places, 0, side=0.1) == []


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), side=st.floats(0.02, 0.4))
def test_thumbnails_never_overlap_and_no_other_would_have_room(seed: int, side: float):
    places = np.random.default_rng(seed).random((80, 2))
    chosen = spread_out(places, 80, side)
    apart = np.abs(places[chosen][:, None] - places[chosen][None]).max(axis=2)
    np.fill_diagonal(apart, np.inf)
    assert apart.min() >= side
    left = [index for index in range(80) if index not in chosen]
    assert all(np.abs(places[chosen] - places[index]).max(axis=1).min() < side for index in left)


def test_dots_and_frames_have_the_colour_of_their_class_and_the_legend_tells_it():
    places = np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5], [0.2, 0.8]])
    classes = np.array([1, NO_OBJECT, 0, 1])
    wide, tall = np.zeros((20, 40, 3), dtype=np.uint8), np.zeros((40, 20, 3), dtype=np.uint8)
    figure = draw_roi_map(places, {0: wide, 1: tall}, classes, ("cat", "dog", "never"), "all of it")
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


def test_of_many_classes_the_most_frequent_have_colours_of_their_own_and_the_rest_one_together():
    classes = np.repeat(np.arange(25), 26 - np.arange(25))[::-1].copy()
    figure = draw_roi_map(np.random.default_rng(0).random((len(classes), 2)), {}, classes, [f"c{i}" for i in range(25)])
    (axes,) = figure.axes
    dots = [to_hex(colour) for colour in axes.collections[0].get_facecolors()]
    of_class = {label: {dots[row] for row in np.flatnonzero(classes == label)} for label in range(25)}
    assert all(len(colours) == 1 for colours in of_class.values())
    assert len(set().union(*(of_class[label] for label in range(18)))) == 18
    assert set().union(*(of_class[label] for label in range(18, 25))) == {OTHER_COLOUR}
    told = [text.get_text() for text in axes.get_legend().get_texts()]
    assert told == [*(f"c{i}" for i in range(18)), "7 other classes", "no object"]


def test_without_labels_there_is_one_colour_and_no_legend():
    figure = draw_roi_map(np.random.default_rng(0).random((5, 2)), {})
    (axes,) = figure.axes
    assert len({to_hex(colour) for colour in axes.collections[0].get_facecolors()}) == 1
    assert axes.get_legend() is None
