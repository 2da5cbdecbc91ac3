import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from tests.discovery.images import mottled
from tests.reference.selective_search import blur_by_loops, numbered, segment_by_loops

from orl.discovery.graph_segmentation import segment_image, smooth_image
from orl.synthetic.scenes import draw_scene

SCALES = (150.0, 300.0, 450.0)
sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


@pytest.mark.parametrize("axis", [0, 1])
def test_flat_stripes_are_segmented_exactly(axis: int) -> None:
    wanted = np.repeat([0, 1, 2, 3], [20, 25, 30, 15])[None].repeat(60, axis=0)
    colours = np.array([[40, 40, 40], [220, 30, 30], [30, 200, 60], [90, 90, 200]], dtype=np.uint8)
    wanted = wanted if axis else wanted.T
    for labels in segment_image(colours[wanted], SCALES):
        np.testing.assert_array_equal(labels, wanted)


def test_flat_squares_keep_all_but_their_smoothed_borders() -> None:
    image = np.full((60, 80, 3), 40, dtype=np.uint8)
    squares = [(slice(10, 30), slice(10, 30)), (slice(25, 55), slice(40, 70))]
    image[squares[0]], image[squares[1]] = (220, 30, 30), (30, 200, 60)
    for labels in segment_image(image, SCALES):
        insides = [np.unique(labels[rows, columns][2:-2, 2:-2]).tolist() for rows, columns in squares]
        assert [len(inside) for inside in insides] == [1, 1]
        assert len({labels[0, 0], insides[0][0], insides[1][0]}) == 3
        for (rows, columns), inside in zip(squares, insides):
            there = np.argwhere(labels == inside[0])
            assert (there.min(axis=0) >= [rows.start - 2, columns.start - 2]).all()
            assert (there.max(axis=0) < [rows.stop + 2, columns.stop + 2]).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("length", "num_regions"), [(99, 1), (100, 2)])
def test_a_hundred_pixels_are_a_region_and_fewer_are_joined(axis: int, length: int, num_regions: int) -> None:
    line = np.zeros((1, length + 150, 3), dtype=np.uint8)
    line[:, length:] = 255
    labels = segment_image(line if axis else line.transpose(1, 0, 2), (150.0,)).ravel()
    assert labels.max() + 1 == num_regions
    if num_regions == 2:
        assert np.flatnonzero(labels).tolist() == list(range(length, length + 150))


def test_a_small_region_joins_the_neighbour_that_it_differs_least_from() -> None:
    image = np.full((40, 60, 3), 100, dtype=np.uint8)
    image[:, 30:] = 250
    image[16:24, 26:34] = 190
    labels = segment_image(image, (150.0,))[0]
    assert labels.max() == 1
    assert (labels[17:23, 27:33] == labels[0, 59]).all()


@pytest.mark.parametrize("nearer", [0, 2])
def test_edges_are_distinguished_to_their_last_bits(nearer: int) -> None:
    # 200, 50 and 0 against 200, 50 and 1: the weights differ by one in a hundred thousand.
    colours = np.array([[0, 60, 101], [200, 10, 100], [0, 60, 101]], dtype=np.uint8)
    colours[nearer, 2] = 100
    stripes = np.repeat([0, 1, 2], [30, 10, 30])[None].repeat(5, axis=0)
    wanted = np.repeat([0, 0, 1] if nearer == 0 else [0, 1, 1], [30, 10, 30])[None].repeat(5, axis=0)
    np.testing.assert_array_equal(segment_image(colours[stripes], (150.0,))[0], wanted)


def test_an_image_of_one_colour_is_one_region() -> None:
    assert (segment_image(np.full((20, 30, 3), 77, dtype=np.uint8), SCALES) == 0).all()


def test_an_edge_as_heavy_as_the_limit_is_joined() -> None:
    # At scale 0 the limit is 0. The arms of the U are large before the edges that join them are looked at.
    image = np.full((40, 60, 3), 90, dtype=np.uint8)
    image[:20, 20:40] = 200
    labels = segment_image(image, (0.0,))[0]
    assert labels[0, 0] == labels[0, 59] == labels[39, 30] != labels[0, 30]


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 50), (50, 1)])
def test_an_image_of_less_than_a_hundred_pixels_is_one_region(size_hw: tuple[int, int]) -> None:
    assert (segment_image(mottled(0, *size_hw), SCALES) == 0).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [20.0, 150.0, 450.0])
def test_regions_are_those_of_the_slow_reference(seed: int, scale: float) -> None:
    image = mottled(seed, 44, 60, patch_px=14)
    ours = segment_image(image, (scale,))[0]
    assert ours.max() > 0
    np.testing.assert_array_equal(ours, segment_by_loops(image, scale))


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 9), (9, 1), (2, 3), (4, 3), (12, 17)])
def test_the_blur_is_that_of_the_slow_reference(size_hw: tuple[int, int]) -> None:
    image = mottled(3, *size_hw, patch_px=2)
    # Levels reach 255, in single precision.
    np.testing.assert_allclose(smooth_image(image), blur_by_loops(image), atol=1e-4)


@pytest.mark.parametrize("index", range(3))
def test_regions_and_their_numbers_are_those_of_opencv(index: int) -> None:
    graph = pytest.importorskip("cv2.ximgproc").segmentation
    image = draw_scene(5, index, (181, 140)).image
    for scale, ours in zip(SCALES, segment_image(image, SCALES)):
        theirs = graph.createGraphSegmentation(float(np.float32(0.8)), scale, 100).processImage(image)
        np.testing.assert_array_equal(ours, theirs)
    assert ours.max() > 2


def test_the_blur_is_that_of_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    image = draw_scene(5, 0, (181, 140)).image
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), float(np.float32(0.8)))
    # To the last bit, except in a few columns at the right, where OpenCV does not fuse products and sums.
    assert (smooth_image(image) != smooth).mean() < 0.02
    assert np.abs(smooth_image(image) - smooth).max() < 1e-4


@given(st.integers(0, 1000), sizes)
@settings(max_examples=25, deadline=None)
def test_several_scales_at_once_are_each_scale_alone(seed: int, size_hw: tuple[int, int]) -> None:
    image = mottled(seed, *size_hw)
    scales = (1.0, 40.0, 40.0, 150.0, 1000.0)
    for scale, together in zip(scales, segment_image(image, scales)):
        np.testing.assert_array_equal(together, segment_image(image, (scale,))[0])


@given(st.integers(0, 1000), sizes, st.floats(0, 2000))
@settings(max_examples=40, deadline=None)
def test_regions_are_connected_numbered_in_order_and_large_or_alone(
    seed: int, size_hw: tuple[int, int], scale: float
) -> None:
    labels = segment_image(mottled(seed, *size_hw), (scale,))[0]
    np.testing.assert_array_equal(numbered(labels.ravel().tolist()), labels.ravel())
    assert labels.max() == 0 or np.bincount(labels.ravel()).min() >= 100
    assert all(ndimage.label(labels == number)[1] == 1 for number in range(labels.max() + 1))


@pytest.mark.parametrize("index", range(3))
def test_a_turned_or_mirrored_image_has_the_same_regions(index: int) -> None:
    image = draw_scene(6, index, (90, 120)).image
    labels = segment_image(image, SCALES)
    assert labels.max() > 2
    for ours, moved in (
        (labels.transpose(0, 2, 1), image.transpose(1, 0, 2)),
        (labels[:, ::-1], image[::-1]),
        (labels[:, :, ::-1], image[:, ::-1]),
    ):
        for scale, same in zip(segment_image(moved, SCALES), ours):
            np.testing.assert_array_equal(scale, numbered(same.ravel().tolist()).reshape(same.shape))


@pytest.mark.parametrize("scales", [(300.0, 150.0), (150.0, 450.0, 300.0)])
def test_scales_that_do_not_rise_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=rf"rising order, got \({scales[0]}, {scales[1]}"):
        segment_image(mottled(0, 12, 12), scales)
