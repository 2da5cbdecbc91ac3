from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orl import provenance, tables
from orl.datasets.image_table import ImageTable
from orl.published_files.listing import (
    Listing,
    coco_images,
    load_listing,
    match_listing,
    match_names,
    read_listing,
    save_listing,
    source_listing,
)

Write = Callable[[str, object], Path]


def new_images(*names: str) -> ImageTable:
    return ImageTable(root=Path("images"), names=names, sizes_wh=((9, 9),) * len(names), digests=names)


def rows(listed: list[str], *names: str) -> list[int]:
    return match_listing(Listing(names=tuple(listed), ids=()), new_images(*names), Path("f.json")).tolist()


def test_names_with_backslashes_are_matched_as_with_slashes() -> None:
    assert match_names(["x\\a.jpg", "y\\a.jpg"], ["y/a.jpg", "x/a.jpg"]) == [[1], [0]]


def test_names_are_matched_by_path_or_else_by_file_name() -> None:
    assert rows(["b.jpg", "a.jpg"], "a.jpg", "b.jpg") == [1, 0]
    assert rows(["b.jpg", "x/a.jpg"], "train/a.jpg", "train/b.jpg") == [1, 0]
    assert rows(["train/b.jpg", "val/a.jpg"], "a.jpg", "b.jpg") == [1, 0]
    assert rows(["y/a.jpg", "x/a.jpg"], "x/a.jpg", "y/a.jpg") == [1, 0]
    assert match_names(["a", "x/b", "c"], ["a", "y/a", "b", "z/b"]) == [[0], [2, 3], []]


@pytest.mark.parametrize(
    ("listed", "names", "message"),
    [
        (["a.jpg"], ["x/a.jpg", "y/a.jpg"], r"lists 1 images and the run has 2: 1 \(a\.jpg\) match several images"),
        (["x/a.jpg", "y/a.jpg"], ["a.jpg"], r"1 \(a\.jpg\) match several images"),
        (["a", "b"], ["a", "c"], r"1 \(b\) of the file are not in the run, 1 \(c\) of the run are not in the file"),
        (["a"], ["a", "b", "c"], r"lists 1 images and the run has 3: none of the file .*, 2 \(b, c\) of the run"),
        (list("abcdefg"), ["a"], r"lists 7 images and the run has 1: 6 \(b, c, d, \.\.\.\) of the file"),
    ],
)
def test_other_images_are_refused_with_numbers_and_names(listed: list[str], names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=rf"f\.json {message}|{message}"):
        rows(listed, *names)


def test_names_and_ids_are_those_of_the_file(write: Write) -> None:
    found = read_listing(write("f", {"images": {"id": [5, "x"], "file_name": ["b", "a"]}}))
    assert (found.names, found.ids) == (("b", "a"), (5, "x"))
    assert read_listing(write("f", {"images": {"file_name": ["b", "a"]}})).ids == (0, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": {"id": [1]}}, "no list of image names"),
        ({"images": {"file_name": []}}, "no list of image names"),
        ({"images": {"file_name": "abc"}}, "no list of image names"),
        ({"images": {"file_name": ["a", 3]}}, "no list of image names"),
        ({"images": {"file_name": ["a", "b"], "id": [1]}}, "2 image names and 1 ids"),
        ({"images": {"file_name": ["a", "b"], "id": 7}}, "2 image names and no ids"),
    ],
)
def test_a_damaged_list_of_images_is_refused(write: Write, content: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_listing(write("f", content))


def test_files_without_names_are_in_the_order_of_the_coco_json_or_of_the_run(write: Write) -> None:
    images = new_images("a.jpg", "b.jpg", "c.jpg")
    entries = [{"id": 7, "file_name": "c.jpg"}, {"file_name": "gone.jpg", "id": 1}, {"id": 3, "file_name": "a.jpg"}]
    source = write("instances", {"annotations": [], "images": entries})
    assert source_listing(source, images) == Listing(names=("c.jpg", "a.jpg"), ids=(7, 3))
    assert source_listing(Path("folder"), images) == Listing(names=images.names, ids=(0, 1, 2))


def test_backslashes_and_absolute_names_of_the_coco_json_are_those_of_the_run(write: Write) -> None:
    images = replace(new_images("x/a.jpg", "b.jpg"), root=Path("/data"))
    source = write("mixed", {"images": [{"id": 7, "file_name": "/data/b.jpg"}, {"id": 3, "file_name": "x\\a.jpg"}]})
    assert source_listing(source, images) == Listing(names=("b.jpg", "x/a.jpg"), ids=(7, 3))


@pytest.mark.parametrize("entry", [3, {"id": 1}, {"file_name": "a"}, {"id": 1, "file_name": 2}])
def test_an_image_without_id_or_name_is_refused(write: Write, entry: object) -> None:
    with pytest.raises(ValueError, match="is not a COCO JSON: 'images' needs id and file_name, got"):
        coco_images(write("f", {"images": [entry]}))


def test_a_listing_survives_the_round_trip(tmp_path: Path) -> None:
    images = new_images("a", "b", "c")
    listing = Listing(names=("x/c", "x/a", "x/b"), ids=(4, "five", None))
    assert load_listing(images, tmp_path) is None
    save_listing(listing, np.array([2, 0, 1]), images, tmp_path, overwrite=False)
    assert load_listing(images, tmp_path) == listing
    assert tables.load(tmp_path / "published").column("file_name").tolist() == ["x/a", "x/b", "x/c"]
    with pytest.raises(provenance.StaleResultError, match="listing: was"):
        save_listing(replace(listing, ids=(4, 5, 6)), np.array([2, 0, 1]), images, tmp_path, overwrite=False)
    with pytest.raises(ValueError, match="belongs to other images"):
        load_listing(new_images("a", "b", "d"), tmp_path)
