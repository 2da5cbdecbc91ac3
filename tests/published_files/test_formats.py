import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from orl.published_files import formats

Write = Callable[[str, object], Path]
CONTENT = {
    formats.PROPOSALS: {"bbox": []},
    formats.NEIGHBOURS: {"images": {"file_name": [], "id": []}, "pseudo_annotations": {"knn_image_id": []}},
    formats.CORRESPONDENCES: {
        "pseudo_annotations": {"knn_bbox_pair": [], "knn_image_id": [], "bbox": []},
        "images": {"file_name": []},
    },
    formats.COCO: {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"bbox": [1, 2, 3, 4]}]},
}


@pytest.mark.parametrize("kind", CONTENT)
def test_each_format_is_distinguished_from_the_others(write: Write, kind: str) -> None:
    path = write("file", CONTENT[kind])
    assert formats.detect_format(path, [kind]) == kind
    others = [each for each in CONTENT if each != kind]
    with pytest.raises(ValueError, match=f"is a file of format '{kind}', where '{others[0]}' or '{others[1]}'"):
        formats.detect_format(path, others)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"bboxes": [], "scores": []}, r"keys: bboxes, scores\); the nearest is 'selective_search.*needs bbox"),
        ({"images": {"file_names": []}, "pseudo_annotation": {"knn_image_ids": []}}, "nearest is 'knn_instance'"),
        ([1, 2, 3], "its keys: none"),
        ("no JSON at all", "its keys: none"),
        ("", "its keys: none"),
    ],
)
def test_a_file_of_unknown_format_is_refused_with_its_keys_and_the_nearest(
    write: Write, content: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        formats.detect_format(write("file", content), [formats.PROPOSALS])


def test_boxes_are_left_top_width_height() -> None:
    found = formats.parse_boxes([[1, 2, 30, 40], [0.5, 0, 1, 2.25]], "f")
    assert found.tolist() == [[1, 2, 31, 42], [0.5, 0, 1.5, 2.25]]
    assert found.dtype == np.float32


def test_an_image_may_have_no_box_or_a_single_box_without_a_list() -> None:
    assert formats.parse_boxes([], "f").shape == (0, 4)
    assert formats.parse_boxes([1, 2, 3, 4], "f").tolist() == [[1, 2, 4, 6]]


def test_pairs_have_the_rank_of_the_neighbour() -> None:
    found = formats.parse_pairs([[[1, 2, 3, 4, 5, 6, 7, 8]], [], [[0, 0, 1, 1, 2, 2, 3, 3]] * 2], "f")
    assert found.tolist() == [[0, 1, 2, 4, 6, 5, 6, 12, 14]] + [[2, 0, 0, 1, 1, 2, 2, 5, 5]] * 2
    assert formats.parse_pairs([], "f").shape == (0, 9)


@pytest.mark.parametrize(
    ("item", "wrong"),
    [
        ([[1, 2, 3]], r"\[1, 2, 3\] is not a list of 4"),
        ([[1, 2, 3, 4], [1, 2, 3, 4, 5]], r"\[1, 2, 3, 4, 5\] is not"),
        ([[1, 2, 3, "4"]], r'\[1, 2, 3, "4"\] is not'),
        ([[1, 2, 3, None]], r"\[1, 2, 3, null\] is not"),
        ([[1, 2, 3, {}]], r"\[1, 2, 3, \{\}\] is not"),
        ([[]], r"\[\] is not"),
        ([[[1, 2, 3, 4]]], r"\[\[1, 2, 3, 4\]\] is not"),
        ([True], r"true is not"),
        ([[True, False, True, True]], r"\[true, false, true, true\] is not"),
        ({"x": 1}, r'\{"x": 1\} is not'),
        (7, "7 is not"),
        (None, "null is not"),
        ("1234", '"1234" is not'),
    ],
)
def test_boxes_of_other_than_four_numbers_are_refused(item: object, wrong: str) -> None:
    with pytest.raises(ValueError, match=f"image 3: {wrong}"):
        formats.parse_boxes(item, "image 3")


@pytest.mark.parametrize("box", [[1, 2, -3, 4], [1, 2, 3, -0.5]])
def test_a_negative_side_is_refused(box: list[float]) -> None:
    with pytest.raises(ValueError, match=r"image 3: box \[1\.0, 2\.0.*-.* has a width or height below 0"):
        formats.parse_boxes([[0, 0, 0, 0], box], "image 3")
    with pytest.raises(ValueError, match="below 0"):
        formats.parse_pairs([[[0, 0, 1, 1, *box]]], "image 3")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (3, "a list for each neighbour, not 3"),
        ([3], r"a list for each neighbour, not \[3\]"),
        ([[], [[1, 2, 3, 4]]], r"image 3, neighbour 1: \[1, 2, 3, 4\] is not a list of 8 numbers"),
    ],
)
def test_wrong_pairs_are_refused(item: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        formats.parse_pairs(item, "image 3")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ([], r"integers, not \[\]"),
        ([1.0], r"integers, not \[1\.0\]"),
        (["1"], r"integers, not \[\"1\"\]"),
        ([[1]], r"integers, not \[\[1\]\]"),
        (None, "integers, not null"),
        ([1, 5], "neighbour 5 is none of the 5 images"),
        ([-1], "neighbour -1 is none of the 5"),
    ],
)
def test_wrong_neighbours_are_refused(item: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"image 3: .*{message}"):
        formats.parse_neighbours(item, 5, "image 3")


def test_long_values_are_shortened_in_messages() -> None:
    with pytest.raises(ValueError, match=r"^image 3: \[0, 0, .{60,70}\.\.\. is not a list of 4 numbers$"):
        formats.parse_boxes([[0] * 100], "image 3")


@given(arrays.arrays(np.int64, st.tuples(st.integers(0, 5), st.just(4)), elements=st.integers(0, 20_000)))
def test_integer_boxes_survive_the_round_trip(boxes_xywh: np.ndarray) -> None:
    text = json.dumps(boxes_xywh.tolist())
    assert json.dumps(formats.boxes_to_json(formats.parse_boxes(json.loads(text), "f"))) == text


@given(st.lists(st.lists(st.decimals(0, 4000, places=3, allow_nan=False), min_size=4, max_size=4), max_size=5))
def test_boxes_of_three_decimals_survive_the_round_trip(decimals: list) -> None:
    text = json.dumps([[int(each) if each == int(each) else float(each) for each in box] for box in decimals])
    assert json.dumps(formats.boxes_to_json(formats.parse_boxes(json.loads(text), "f"))) == text


float32 = st.floats(0, 1e5, width=32).map(abs)  # without -0


@given(arrays.arrays(np.float32, st.tuples(st.integers(0, 5), st.just(4)), elements=float32))
def test_any_boxes_survive_the_round_trip_bit_for_bit(corners: np.ndarray) -> None:
    boxes = np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1)
    again = formats.parse_boxes(json.loads(json.dumps(formats.boxes_to_json(boxes))), "f")
    assert again.tobytes() == boxes.tobytes()


def test_integers_are_written_without_a_point() -> None:
    assert json.dumps(formats.boxes_to_json(np.array([[0, 1, 10.5, 21]], dtype=np.float32))) == "[[0, 1, 10.5, 20]]"


def test_each_box_has_as_few_decimals_as_it_needs() -> None:
    boxes = np.array([[0.1, 0, 1.1, 1], [1 / 3, 0, 1, 1], [5, 5, 7, 7]], dtype=np.float32)
    third = float(np.float32(1 / 3))
    assert formats.boxes_to_json(boxes) == [[0.1, 0, 1, 1], [third, 0, 1 - third, 1], [5, 5, 2, 2]]
