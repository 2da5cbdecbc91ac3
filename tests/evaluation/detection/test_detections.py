from dataclasses import replace

import numpy as np
import pytest
from tests.evaluation.detection.found import random_detections, random_images

from orl.evaluation.detection.detections import Detections, require_of


def part(detections: Detections, chosen: np.ndarray) -> Detections:
    masks = detections.masks
    return Detections(
        image_ids=detections.image_ids[chosen],
        boxes=detections.boxes[chosen],
        classes=detections.classes[chosen],
        scores=detections.scores[chosen],
        masks=None if masks is None else tuple(masks[index] for index in np.flatnonzero(chosen)),
    )


@pytest.mark.parametrize("num_processes", [1, 2, 3, 20])
def test_shares_of_any_number_of_processes_join_to_the_same(num_processes: int) -> None:
    images = random_images(1)
    whole = random_detections(images, 2)
    assert np.all(np.diff(whole.image_ids) >= 0)
    fractions = [
        part(whole, np.isin(whole.image_ids, images.image_ids[rank::num_processes])) for rank in range(num_processes)
    ]
    joined = Detections.merge(fractions[::-1])
    np.testing.assert_array_equal(joined.image_ids, whole.image_ids)
    np.testing.assert_array_equal(joined.boxes, whole.boxes)
    np.testing.assert_array_equal(joined.classes, whole.classes)
    np.testing.assert_array_equal(joined.scores, whole.scores)
    assert joined.masks == whole.masks


def test_no_shares_join_to_no_detections() -> None:
    joined = Detections.merge([])
    assert (len(joined), joined.boxes.shape, joined.masks) == (0, (0, 4), None)


def test_shares_with_and_without_masks_are_refused() -> None:
    whole = random_detections(random_images(1), 2)
    with pytest.raises(ValueError, match="1 of 2 shares of detections lack masks"):
        Detections.merge([whole, replace(whole, masks=None)])


def test_detections_of_other_images_and_classes_are_refused() -> None:
    images = random_images(1)
    found = random_detections(images, 2)
    require_of(found, images.image_ids, 3)
    with pytest.raises(ValueError, match="unknown images, such as id 999"):
        require_of(replace(found, image_ids=np.full(len(found), 999)), images.image_ids, 3)
    with pytest.raises(ValueError, match="of class 2, and there are 2 classes"):
        require_of(found, images.image_ids, 2)
    with pytest.raises(ValueError, match="scores are not finite"):
        require_of(replace(found, scores=found.scores * np.float32("nan")), images.image_ids, 3)
