"""mIoU of predicted masks: loops, known values, and the chance level."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.reference.dense_retrieval import miou_by_loops

from orl.evaluation.objects.image_sums import ImageSums
from orl.evaluation.objects.mask_overlaps import class_pixels, constant_miou, mask_overlaps


def miou(predictions: list[np.ndarray], masks: list[np.ndarray], num_classes: int) -> float:
    overlaps = [mask_overlaps(prediction, mask, num_classes) for prediction, mask in zip(predictions, masks)]
    intersections, unions = (np.array([[own[part] for own in overlaps]], dtype=float) for part in (0, 1))
    names = tuple(f"{row}.jpg" for row in range(len(masks)))
    return ImageSums(images=names, numerators=intersections, denominators=unions).value


def random_masks(seed: int, num_classes: int, with_void: bool = False) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    masks = [generator.integers(0, num_classes, (5, 7)).astype(np.uint8) for _ in range(3)]
    if with_void:
        for mask in masks:
            mask[generator.random(mask.shape) < 0.3] = 255
    return masks


@given(st.integers(0, 2**31), st.integers(2, 12))
def test_miou_equals_loops_over_pixels(seed: int, num_classes: int) -> None:
    predictions, masks = random_masks(seed, num_classes), random_masks(seed + 1, num_classes, with_void=True)
    expected = miou_by_loops([each.tolist() for each in predictions], [each.tolist() for each in masks], num_classes)
    assert miou(predictions, masks, num_classes) == pytest.approx(expected)


def test_the_labels_themselves_score_one() -> None:
    masks = random_masks(0, 4)
    assert miou(masks, masks, 4) == 1.0


def test_a_class_that_is_only_predicted_counts_as_zero_and_an_absent_one_not() -> None:
    mask = np.zeros((2, 2), np.uint8)
    prediction = np.array([[0, 0], [0, 1]], np.uint8)
    assert miou([prediction], [mask], 5) == pytest.approx((0.75 + 0.0) / 2)


def test_void_pixels_change_nothing_whatever_is_predicted_there() -> None:
    (mask,), (prediction,) = random_masks(0, 3, with_void=True)[:1], random_masks(1, 3)[:1]
    other = np.where(mask == 255, (prediction + 1) % 3, prediction).astype(np.uint8)
    for one, two in zip(mask_overlaps(prediction, mask, 3), mask_overlaps(other, mask, 3)):
        np.testing.assert_array_equal(one, two)


def test_the_chance_level_is_the_miou_of_the_most_frequent_class_predicted_everywhere() -> None:
    masks = random_masks(3, 5, with_void=True)
    pixels = sum(class_pixels(mask, 6) for mask in masks)
    constant = [np.full_like(mask, pixels.argmax()) for mask in masks]
    assert constant_miou(pixels) == pytest.approx(miou(constant, masks, 6))
