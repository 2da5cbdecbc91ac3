import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.boxes import filter_by_loops

from orl.boxes import iou
from orl.discovery.proposal_filter import filter_proposals

corner = st.tuples(st.integers(0, 90), st.integers(0, 90), st.integers(1, 60), st.integers(1, 60))
proposals = st.lists(corner, max_size=40).map(
    lambda corners: np.array([[x, y, x + w, y + h] for x, y, w, h in corners], dtype=np.float32).reshape(-1, 4)
)


@given(proposals)
@settings(max_examples=200)
def test_the_box_filter_equals_its_rule_as_loops(found: np.ndarray) -> None:
    ours = filter_proposals(found, (150, 150), min_side_px=20, max_aspect_ratio=2, max_iou=0.5, max_rois=6)
    np.testing.assert_array_equal(ours, filter_by_loops(found, (150, 150), 20, 2, 0.5, 6))


@given(proposals)
def test_rois_obey_every_limit_or_are_the_fallback(found: np.ndarray) -> None:
    kept = filter_proposals(found, (150, 150), min_side_px=20, max_aspect_ratio=2, max_iou=0.3, max_rois=10)
    assert 1 <= len(kept) <= 10
    if len(kept) > 1:
        overlaps = iou(kept, kept)
        np.fill_diagonal(overlaps, 0)
        assert overlaps.max() <= 0.3
        sides = kept[:, 2:] - kept[:, :2]
        assert sides.min() >= 20
        assert (sides.max(1) / sides.min(1)).max() <= 2


def test_of_two_overlapping_proposals_the_first_is_kept() -> None:
    first, second = [0, 0, 100, 100], [5, 0, 105, 100]
    for boxes in ([first, second], [second, first]):
        kept = filter_proposals(np.array(boxes, dtype=np.float32), (200, 200))
        assert kept.tolist() == [boxes[0]]


def test_boxes_at_the_limits_are_kept() -> None:
    limit = np.array([[0, 0, 96, 288]], dtype=np.float32)
    assert filter_proposals(limit, (500, 500)).tolist() == limit.tolist()
    # Two boxes of 96 x 192 that share 96 x 128 overlap by exactly one half.
    pair = np.array([[0, 0, 96, 192], [0, 64, 96, 256]], dtype=np.float32)
    assert len(filter_proposals(pair, (500, 500))) == 2


def test_when_none_passes_the_first_proposal_is_the_roi() -> None:
    small = np.array([[1, 2, 30, 40], [0, 0, 50, 50]], dtype=np.float32)
    assert filter_proposals(small, (500, 500)).tolist() == [[1, 2, 30, 40]]


def test_without_proposals_the_complete_image_is_the_roi() -> None:
    assert filter_proposals(np.zeros((0, 4), dtype=np.float32), (320, 240)).tolist() == [[0, 0, 320, 240]]


@pytest.mark.parametrize("most", [1, 3])
def test_at_most_max_rois_are_kept(most: int) -> None:
    apart = np.array([[200 * i, 0, 200 * i + 100, 100] for i in range(5)], dtype=np.float32)
    assert filter_proposals(apart, (2000, 100), max_rois=most).tolist() == apart[:most].tolist()
