import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orl import tables
from orl.config import DiscoverConfig, RunConfig
from orl.datasets.decode import ImageError, load_image
from orl.datasets.image_table import ImageTable
from orl.discovery.baseline_boxes import grid_boxes
from orl.discovery.opencv_search import opencv_selective_search
from orl.discovery.selective_search import selective_search
from orl.pipeline.proposal_tables import proposal_inputs, proposer

SIZES_WH = ((96, 72), (60, 80), (1, 40), (48, 48), (120, 40))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    """Smooth noise of several sizes; one image is a pixel wide, and one of one colour."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for index, (width, height) in enumerate(SIZES_WH):
        coarse = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)
        (Image.new("RGB", (width, height), (9, 80, 7)) if index == 3 else image).save(root / f"{index}.png")
    names = tuple(f"{index}.png" for index in range(len(SIZES_WH)))
    return ImageTable(root=root, names=names, sizes_wh=SIZES_WH, digests=names)


def new_config(images: ImageTable, workers: int = 0, seed: int = 0, **discover: object) -> RunConfig:
    config = DiscoverConfig(**discover)
    return RunConfig(images=images.root, out=Path("out"), workers=workers, seed=seed, discover=config)


def found_by(images: ImageTable, config: RunConfig, folder: Path = Path("unused")) -> list[np.ndarray]:
    """The boxes of each image, made in two shards."""
    make = proposer(images, config, folder)
    reported: list[int] = []
    parts = [make(rows, reported.append) for rows in tables.shard_slices(len(images), 3)]
    assert sum(reported) == len(images)
    ids = np.concatenate([part["image_id"] for part in parts])
    boxes = np.concatenate([part["box"] for part in parts])
    return [boxes[ids == image] for image in range(len(images))]


def test_our_search_is_the_default_and_does_not_depend_on_the_number_of_threads(images: ImageTable) -> None:
    one, three = (found_by(images, new_config(images, workers=workers)) for workers in (0, 3))
    for first, second in zip(one, three):
        np.testing.assert_array_equal(first, second)
    image = load_image(images.path(0))
    assert set(map(tuple, selective_search(image, 5).tolist())) == set(map(tuple, one[0].tolist()))


def test_the_order_of_a_images_boxes_depends_on_its_name_and_the_seed(images: ImageTable) -> None:
    found = found_by(images, new_config(images))
    renamed = replace(images, names=("1.png", "0.png", *images.names[2:]))
    swapped = found_by(renamed, new_config(images))
    np.testing.assert_array_equal(swapped[0], found[1])
    other_seed = found_by(images, new_config(images, seed=1))
    assert not np.array_equal(other_seed[0], found[0])
    assert set(map(tuple, other_seed[0].tolist())) == set(map(tuple, found[0].tolist()))


def test_a_reduced_search_is_another_search(images: ImageTable) -> None:
    half = found_by(images, new_config(images, search_scale=0.5))
    expected = selective_search(load_image(images.path(0)), 0, scale=0.5)
    assert set(map(tuple, half[0].tolist())) == set(map(tuple, expected.tolist()))


def test_opencvs_boxes_are_opencvs(images: ImageTable) -> None:
    pytest.importorskip("cv2")
    some = replace(images, names=images.names[:2], sizes_wh=SIZES_WH[:2], digests=images.digests[:2])
    found = found_by(some, new_config(some, workers=2, proposals="opencv"))
    expected = opencv_selective_search(load_image(images.path(1)), 0)
    assert set(map(tuple, found[1].tolist())) == set(map(tuple, expected.tolist()))


def test_a_grid_asks_for_no_image_and_no_seed(images: ImageTable) -> None:
    config = new_config(images, proposals="grid")
    found = found_by(replace(images, root=Path("nowhere")), config)
    np.testing.assert_array_equal(found[4], grid_boxes((120, 40)))
    assert proposal_inputs(images, config) == proposal_inputs(images, replace(config, seed=7))


def test_random_boxes_depend_on_the_image(images: ImageTable) -> None:
    found = found_by(images, new_config(images, proposals="random"))
    again = found_by(images, new_config(images, proposals="random", workers=3))
    for boxes, others, (width, height) in zip(found, again, SIZES_WH):
        np.testing.assert_array_equal(boxes, others)
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= [width, height]).all()
    fractions = [boxes / np.array([width, height] * 2) for boxes, (width, height) in zip(found, SIZES_WH)]
    assert not np.allclose(fractions[0], fractions[1])


def test_boxes_of_ones_own_come_from_a_coco_file(images: ImageTable, tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    annotations = [{"id": 1, "image_id": 11, "category_id": 1, "bbox": [10, 20, 30, 25]}]
    rows = [
        {"id": 10 + index, "file_name": name, "width": width, "height": height}
        for index, (name, (width, height)) in enumerate(zip(images.names, SIZES_WH))
    ]
    categories = [{"id": 1, "name": "thing"}]
    path.write_text(json.dumps({"images": rows, "annotations": annotations, "categories": categories}))
    config = new_config(images, proposals="file", proposals_file=path)
    found = found_by(images, config, tmp_path / "table")
    assert found[1].tolist() == [[10, 20, 40, 45]]
    assert [len(boxes) for boxes in found] == [0, 1, 0, 0, 0]
    before = proposal_inputs(images, config)
    path.write_text(path.read_text().replace("[10, 20", "[11, 20"))
    assert proposal_inputs(images, config) != before


def test_a_missing_file_of_boxes_is_named(images: ImageTable, tmp_path: Path) -> None:
    config = new_config(images, proposals="file", proposals_file=tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match=r"no file of boxes at .*none\.json"):
        proposal_inputs(images, config)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_damaged_since_the_scan_is_named(images: ImageTable, tmp_path: Path, workers: int) -> None:
    for name in images.names:
        (tmp_path / name).write_bytes((images.root / name).read_bytes())
    (tmp_path / "2.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"2\.png: not an image"):
        found_by(replace(images, root=tmp_path), new_config(images, workers=workers))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"search_scale": 0.5}, False),
        ({"proposals": "opencv"}, False),
        ({"min_side": 0.3}, True),
        ({"num_neighbours": 3}, True),
    ],
)
def test_only_options_of_the_proposals_make_them_stale(
    images: ImageTable, change: dict[str, object], same: bool
) -> None:
    inputs = proposal_inputs(images, new_config(images))
    assert (proposal_inputs(images, new_config(images, **change)) == inputs) == same
    assert proposal_inputs(images, new_config(images, seed=3)) != inputs


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"proposals": "file"}, "'file' and proposals_file None do not go together"),
        ({"proposals_file": Path("boxes.json")}, "'selective-search' and proposals_file boxes.json"),
        ({"proposals": "grid", "search_scale": 0.5}, "search_scale 0.5 has no effect on proposals 'grid'"),
        ({"search_scale": 1.5}, "search_scale must be above 0 and at most 1, not 1.5"),
    ],
)
def test_options_that_exclude_each_other_are_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiscoverConfig(**config)
