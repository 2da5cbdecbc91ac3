import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orl.boxes import iou
from orl.datasets.sources import find_images, read_labels
from orl.discovery.selective_search import selective_search
from orl.synthetic.scenes import CLASSES, draw_scene, draw_scenes

SIZE = (96, 72)


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_scenes(folder, num_trainval=30, num_test=10, size_wh=SIZE, seed=5, quiet=True)
    return folder


def test_scenes_are_a_voc_devkit_of_eight_classes(devkit: Path) -> None:
    assert len(find_images(devkit)[1]) == 30
    assert len(find_images(devkit, "test")[1]) == 10
    labels = read_labels(devkit)
    assert labels is not None
    assert labels.classes == CLASSES
    assert len(CLASSES) == 8
    assert 30 < sum(len(boxes) for boxes in labels.boxes) < 4 * 30


def test_class_lists_agree_with_the_annotations(devkit: Path) -> None:
    labels = read_labels(devkit)
    assert labels is not None
    for row in range(len(labels)):
        for column in range(len(labels.classes)):
            difficult = labels.box_difficult[row][labels.box_classes[row] == column]
            expected = -1 if not len(difficult) else 0 if difficult.all() else 1
            assert labels.labels[row, column] == expected


def test_boxes_enclose_their_masks(devkit: Path) -> None:
    labels = read_labels(devkit)
    assert labels is not None
    for name, boxes in zip(labels.names, labels.boxes):
        mask = np.asarray(Image.open(devkit / "SegmentationObject" / f"{Path(name).stem}.png"))
        assert mask.shape == SIZE[::-1]
        found = []
        for number in range(1, mask.max() + 1):
            rows, columns = np.nonzero(mask == number)
            if len(rows):
                found.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert boxes.tolist() == found


def test_a_scene_depends_on_seed_and_index_alone() -> None:
    first, again = draw_scene(3, 7, SIZE), draw_scene(3, 7, SIZE)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert first.objects == again.objects
    assert not np.array_equal(draw_scene(3, 8, SIZE).image, first.image)
    assert not np.array_equal(draw_scene(4, 7, SIZE).image, first.image)


def test_more_scenes_begin_with_the_same_ones(devkit: Path, tmp_path: Path) -> None:
    draw_scenes(tmp_path / "more", num_trainval=32, num_test=11, size_wh=SIZE, seed=5, quiet=True)
    for path in (devkit / "JPEGImages").iterdir():
        assert (tmp_path / "more" / "JPEGImages" / path.name).read_bytes() == path.read_bytes()


def test_the_class_cannot_be_predicted_from_the_colour() -> None:
    """The mean colour of an object varies far more within a class than between the classes' means."""
    colours: dict[str, list[np.ndarray]] = {name: [] for name in CLASSES}
    for index in range(150):
        scene = draw_scene(0, index, SIZE)
        for each in scene.objects:
            colours[each.class_name].append(scene.image[scene.mask == each.number].mean(axis=0))
    within = np.mean([np.std(values, axis=0).mean() for values in colours.values()])
    between = np.std([np.mean(values, axis=0) for values in colours.values()], axis=0).mean()
    assert min(map(len, colours.values())) > 15
    assert between < within / 3


def test_objects_overlap_little_and_selective_search_finds_most() -> None:
    best = []
    for index in range(12):
        scene = draw_scene(1, index, (160, 120))
        boxes = np.array([each.box for each in scene.objects], dtype=np.float32)
        overlaps = iou(boxes, boxes)
        np.fill_diagonal(overlaps, 0)
        assert overlaps.max() < 0.4
        best += iou(boxes, selective_search(scene.image, seed=0)).max(axis=1).tolist()
    assert np.mean(np.array(best) > 0.5) > 0.8


def test_finished_scenes_are_kept_and_unfinished_ones_completed(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    config = {"num_trainval": 4, "num_test": 2, "size_wh": SIZE, "seed": 0, "quiet": True}
    draw_scenes(folder, **config)
    image = folder / "JPEGImages" / "000002.jpg"
    before = image.read_bytes()
    written = image.stat().st_mtime_ns
    draw_scenes(folder, **config)
    assert image.stat().st_mtime_ns == written
    (folder / "scenes.json").rename(folder / "scenes.unfinished.json")
    image.unlink()
    draw_scenes(folder, **config)
    assert image.read_bytes() == before


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    config = {"num_trainval": 2, "num_test": 1, "size_wh": SIZE, "quiet": True}
    draw_scenes(tmp_path / "a", seed=0, **config)
    with pytest.raises(ValueError, match="has scenes of other options"):
        draw_scenes(tmp_path / "a", seed=1, **config)
    assert json.loads((tmp_path / "a" / "scenes.json").read_text())["seed"] == 0
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match="is not empty and has no synthetic scenes"):
        draw_scenes(tmp_path / "b", seed=0, **config)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"num_test": -1}, "num_test must be from 0 to 500000, got -1"), ({"size_wh": (20, 90)}, "20x90")],
)
def test_impossible_scenes_are_refused(tmp_path: Path, change: dict, complaint: str) -> None:
    config = {"num_trainval": 2, "num_test": 1, "size_wh": SIZE, "seed": 0, "quiet": True}
    with pytest.raises(ValueError, match=complaint):
        draw_scenes(tmp_path / "a", **(config | change))
