"""The boxes and colour changes that view samplers give each view."""

from pathlib import Path

import numpy as np
import pytest

from orl.datasets.image_table import ImageTable
from orl.views.colour import ColourDistribution
from orl.views.cut import ViewBox
from orl.views.view_samplers import GlobalViewSampler, ObjectTable, ObjectViewSampler, ViewDistribution

VIEW_1 = ColourDistribution(blur_probability=1.0, solarise_probability=0.0, brightness=0.4, gray_probability=0.0)
VIEW_2 = ColourDistribution(blur_probability=0.1, solarise_probability=0.2, brightness=0.0, gray_probability=1.0)
DISTRIBUTION = ViewDistribution(
    size_px=16, area_range=(0.2, 1.0), aspect_ratio_range=(3 / 4, 4 / 3), colours=(VIEW_1, VIEW_2)
)
NUM_EPOCHS = 500


@pytest.fixture(scope="module")
def images() -> ImageTable:
    return ImageTable(root=Path("images"), names=("a", "b"), sizes_wh=((60, 40),) * 2, digests=("a", "b"))


@pytest.fixture(scope="module")
def objects() -> ObjectTable:
    """Build one RoI an image, and a correspondence with the other image."""
    return ObjectTable(
        rois=np.array([[5, 5, 45, 35], [10, 0, 50, 30]], np.float32),
        roi_starts=np.arange(3),
        roi_image_ids=np.arange(2),
        correspondences=np.array([[0, 1], [1, 0]]),
        neighbour_slices=[np.array([[0, 1]]), np.array([[1, 2]])],
    )


def sampled(images: ImageTable, objects: ObjectTable, view: str) -> list[ViewBox]:
    """Sample a view of image 0 in many epochs."""
    view_sampler = ObjectViewSampler(images, DISTRIBUTION, objects, 8, seed=0)
    return [view_sampler.sample_boxes((epoch, 0))[view] for epoch in range(NUM_EPOCHS)]


def assert_first_view(views: list[ViewBox]) -> None:
    """Check blur and solarisation of view 1 in BYOL: always blurred, never solarised."""
    assert all(view.colours.blur_sigma_px > 0 for view in views)
    assert not any(view.colours.solarise for view in views)
    assert not any(view.colours.gray for view in views)
    assert len({view.colours.brightness for view in views}) > NUM_EPOCHS / 2


def assert_second_view(views: list[ViewBox]) -> None:
    """Check blur and solarisation of view 2 in BYOL: one in ten blurred, one in five solarised."""
    assert np.mean([view.colours.blur_sigma_px > 0 for view in views]) == pytest.approx(0.1, abs=0.04)
    assert np.mean([view.colours.solarise for view in views]) == pytest.approx(0.2, abs=0.05)
    assert all(view.colours.gray for view in views)
    assert {view.colours.brightness for view in views} == {1}


def test_each_global_view_of_stage_1_has_its_own_colour_distribution(images: ImageTable) -> None:
    view_sampler = GlobalViewSampler(images, DISTRIBUTION, seed=0)
    samples = [view_sampler.sample_boxes((epoch, 0)) for epoch in range(NUM_EPOCHS)]
    assert_first_view([sample["view_1"] for sample in samples])
    assert_second_view([sample["view_2"] for sample in samples])


@pytest.mark.parametrize("pair", ["view", "intra", "inter"])
def test_each_view_of_a_pair_of_stage_3_has_its_own_colour_distribution(
    images: ImageTable, objects: ObjectTable, pair: str
) -> None:
    assert_first_view(sampled(images, objects, f"{pair}_1"))
    assert_second_view(sampled(images, objects, f"{pair}_2"))


def test_the_views_of_a_pair_have_their_own_random_numbers(images: ImageTable, objects: ObjectTable) -> None:
    for pair in ("view", "intra", "inter"):
        orders = [[view.colours.jitter_order for view in sampled(images, objects, f"{pair}_{i}")] for i in (1, 2)]
        assert np.mean(np.equal(*orders)) < 0.1


def test_without_jitter_both_views_of_the_intra_pair_are_one_box(images: ImageTable, objects: ObjectTable) -> None:
    view_sampler = ObjectViewSampler(images, DISTRIBUTION, objects, 16, seed=0, jitter_min_iou=1.0)
    for epoch in range(10):
        view_boxes = view_sampler.sample_boxes((epoch, 1))
        np.testing.assert_array_equal(view_boxes["intra_1"].box, view_boxes["intra_2"].box)
