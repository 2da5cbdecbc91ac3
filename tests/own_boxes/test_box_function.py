import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orl.config import DiscoverConfig
from orl.datasets.masks import decode_masks
from orl.files import file_digest
from orl.own_boxes.box_function import BoxFunction, load_box_function

IMAGE = np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3)
BOX = [[1.0, 2.0, 20.0, 10.0]]


def returning(output: Any) -> BoxFunction:
    return BoxFunction("my_boxes:propose", lambda image: output, "digest")


def test_boxes_are_ranked_by_score_clipped_within_a_pixel_and_empty_ones_left_out() -> None:
    boxes = [[0, 0, 9, 9], [-0.5, 1, 41, 30.25], [5, 5, 5, 9], [1, 1, 9, 9]]
    found = returning((boxes, [0.2, 0.1, 0.9, 0.2]))(IMAGE, "a.jpg")
    assert found.xyxy.tolist() == [[0, 0, 9, 9], [1, 1, 9, 9], [0, 1, 40, 30]]
    assert found.xyxy.dtype == np.float32
    assert found.rles is None
    assert returning(np.array(boxes))(IMAGE, "a.jpg").xyxy[0].tolist() == [0, 0, 9, 9]


@pytest.mark.parametrize(
    "nothing", [[], np.zeros((0, 4)), ([], []), ([], [], []), ([], [], np.zeros((0, 30, 40), bool))]
)
def test_an_image_may_have_no_boxes(nothing: Any) -> None:
    assert returning(nothing)(IMAGE, "a.jpg").xyxy.shape == (0, 4)


def test_masks_stay_with_their_boxes() -> None:
    masks = np.random.default_rng(0).random((3, 30, 40)) < 0.5
    boxes = [[0, 0, 9, 9], [4, 4, 4, 9], [1, 1, 9, 9]]
    found = returning((boxes, [0.1, 0.3, 0.2], masks))(IMAGE, "a.jpg")
    assert found.xyxy[:, 0].tolist() == [1, 0]
    assert found.rles is not None
    kept = decode_masks([{"size": [30, 40], "counts": rle} for rle in found.rles], (40, 30))
    np.testing.assert_array_equal(kept, masks[[2, 0]])


def test_the_function_gets_a_copy_of_the_image_in_memory_order() -> None:
    seen = []

    def propose(image: np.ndarray) -> list:
        seen.append((image.copy(), image.flags["C_CONTIGUOUS"]))
        image[:] = 0
        return []

    turned = IMAGE[::-1, ::-1]
    BoxFunction("my_boxes:propose", propose, "digest")(turned, "a.jpg")
    np.testing.assert_array_equal(seen[0][0], turned)
    assert (seen[0][1], IMAGE.max()) == (True, 255)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ([[0, 0, np.nan, 9]], r"box 0, \[0\.0, 0\.0, nan, 9\.0\], which is not finite"),
        ([*BOX, [0, 0, 42, 9]], r"box 1, \[0\.0, 0\.0, 42\.0, 9\.0\], which is outside of the image of 40x30 px"),
        ([[0, -2, 9, 9]], "which is outside of the image of 40x30 px"),
        ([[9, 0, 1, 9]], "which is reversed; boxes are left, top, right, bottom"),
        ([1, 2, 3, 4], r"boxes of shape \(4,\); return xyxy as an array \(n, 4\)"),
        ([[1, 2, 3]], r"boxes of shape \(1, 3\)"),
        ([BOX[0], [1]], "boxes that are no array of numbers: ValueError"),
        ("boxes", "boxes that are no array of numbers: ValueError: could not convert"),
        (None, r"boxes of shape \(\)"),
        ((BOX, [0.1, 0.2]), r"scores of shape \(2,\) for 1 boxes"),
        ((BOX, [np.inf]), "the score inf, which is not finite"),
        ((BOX, [0.1], np.ones((2, 30, 40), bool)), r"masks of bool and shape \(2, 30, 40\); .* of shape \(1, 30, 40\)"),
        ((BOX, [0.1], np.ones((1, 40, 30), bool)), r"shape \(1, 40, 30\); return bool masks of shape \(1, 30, 40\)"),
        ((BOX, [0.1], np.ones((1, 30, 40))), "masks of float64 and shape"),
        ((BOX, [0.1], None, "more"), r"returned a tuple of 4; return boxes"),
    ],
)
def test_a_wrong_output_is_refused_with_the_function_the_image_and_the_value(output: Any, message: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^my_boxes:propose on image x/a\.jpg returned .*{message}|{message}"
    ) as found:
        returning(output)(IMAGE, "x/a.jpg")
    assert str(found.value).startswith("my_boxes:propose on image x/a.jpg returned")


def test_an_error_of_the_function_is_shown_with_its_line_and_image() -> None:
    def propose(image: np.ndarray) -> list:
        raise KeyError("no\nmodel")

    message = r"my_boxes:propose on image a\.jpg failed: KeyError: 'no\\nmodel' \(test_box_function\.py, line \d+\)"
    with pytest.raises(ValueError, match=message):
        BoxFunction("my_boxes:propose", propose, "digest")(IMAGE, "a.jpg")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Write `orl_test_boxes.py` in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def to_file(text: str) -> Path:
        sys.modules.pop("orl_test_boxes", None)
        load_box_function.cache_clear()
        path = tmp_path / "orl_test_boxes.py"
        path.write_text(text)
        return path

    yield to_file
    sys.modules.pop("orl_test_boxes", None)
    load_box_function.cache_clear()


def test_a_function_is_imported_from_the_current_folder_with_the_digest_of_its_module(
    module: Callable[[str], Path],
) -> None:
    path = module("def propose(image):\n    return [[0, 0, image.shape[1], 4]]\n")
    found = load_box_function("orl_test_boxes:propose")
    assert found(IMAGE, "a.jpg").xyxy.tolist() == [[0, 0, 40, 4]]
    assert found.digest == file_digest(path)
    path.write_text(path.read_text() + "\n")
    assert load_box_function("orl_test_boxes:propose").digest == found.digest, (
        "the code that was imported is the old one"
    )
    module(path.read_text())
    assert load_box_function("orl_test_boxes:propose").digest == file_digest(path) != found.digest


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (
            "x = 1",
            "orl_test_none:propose",
            "'orl_test_none' of .* cannot be imported: ModuleNotFoundError: .*PYTHONPATH",
        ),
        ("x = y", "orl_test_boxes:propose", r"cannot be imported: NameError: .* \(orl_test_boxes\.py, line 1\)"),
        ("def", "orl_test_boxes:propose", "cannot be imported: SyntaxError"),
        ("x = 1", "orl_test_boxes:propose", r"orl_test_boxes \(.*orl_test_boxes\.py\) has no function 'propose'"),
        ("x = 1", "orl_test_boxes:x", "has no function 'x'"),
        ("x = 1", "sys:exit", "sys has no source file"),
    ],
)
def test_a_function_that_cannot_be_imported_is_refused(
    module: Callable[[str], Path], text: str, name: str, message: str
) -> None:
    module(text)
    with pytest.raises(ValueError, match=message):
        load_box_function(name)


@pytest.mark.parametrize(
    "name", ["python:", "python:my_boxes", "python:my boxes:propose", "python:my_boxes:", "python:a:b:c"]
)
def test_a_name_that_is_no_function_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"proposals must be 'python:module:function', .*, not '{name}'"):
        DiscoverConfig(proposals=name)


def test_an_unknown_source_is_refused_with_the_closest_one() -> None:
    with pytest.raises(ValueError, match=r"proposals must be one of .*, python:module:function, not 'gird'; .* 'grid'"):
        DiscoverConfig(proposals="gird")
