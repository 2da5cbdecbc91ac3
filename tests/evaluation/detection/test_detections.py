from dataclasses import replace

import numpy as np
import pytest
from tests.evaluation.detection.found import random_detections, random_images

from orl.evaluation.detection.detections import Detections, check_detections


def select(detections: Detections, chosen: np.ndarray) -> Detections:
    masks = detections.masks
    return Detections(
        image_ids=detections.image_ids[chosen],
        boxes=detections.boxes[chosen],
        classes=detections.classes[chosen],
        scores=detections.scores[chosen],
        masks=None if masks is None else tuple(masks[index] for index in np.flatnonzero(chosen)),
    )


@pytest.mark.parametrize("num_processes", [1, 2, 3, 20])
def test_parts_of_any_number_of_processes_join_to_the_same(num_processes: int) -> None:
    images = random_images(1)
    complete = random_detections(images, 2)
    assert np.all(np.diff(complete.image_ids) >= 0)
    parts = [
        select(complete, np.isin(complete.image_ids, images.image_ids[rank::num_processes]))
        for rank in range(num_processes)
    ]
    joined = Detections.merge(parts[::-1])
    np.testing.assert_array_equal(joined.image_ids, complete.image_ids)
    np.testing.assert_array_equal(joined.boxes, complete.boxes)
    np.testing.assert_array_equal(joined.classes, complete.classes)
    np.testing.assert_array_equal(joined.scores, complete.scores)
    assert joined.masks == complete.masks


def test_no_parts_join_to_no_detections() -> None:
    joined = Detections.merge([])
    assert (len(joined), joined.boxes.shape, joined.masks) == (0, (0, 4), None)


def test_parts_with_and_without_masks_are_refused() -> None:
    complete = random_detections(random_images(1), 2)
    with pytest.raises(ValueError, match="1 of 2 parts of detections lack masks"):
        Detections.merge([complete, replace(complete, masks=None)])


def test_detections_of_other_images_and_classes_are_refused() -> None:
    images = random_images(1)
    found = random_detections(images, 2)
    check_detections(found, images.image_ids, 3)
    with pytest.raises(ValueError, match="unknown images, such as id 999"):
        check_detections(replace(found, image_ids=np.full(len(found), 999)), images.image_ids, 3)
    with pytest.raises(ValueError, match="has class 2, but there are 2 classes"):
        check_detections(found, images.image_ids, 2)
    with pytest.raises(ValueError, match="scores are not finite"):
        check_detections(replace(found, scores=found.scores * np.float32("nan")), images.image_ids, 3)
