import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from orl.datasets.sources import read_labels
from orl.evaluation.detection.datasets import read_coco_detection
from orl.synthetic.coco_layout import uncompressed, write_coco
from orl.synthetic.scenes import CLASSES, draw_scenes


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_scenes(folder, num_trainval=8, num_test=4, size_wh=(96, 72), seed=5, quiet=True)
    write_coco(folder)
    return folder


@pytest.mark.parametrize(("split", "count"), [("trainval", 8), ("test", 4)])
def test_a_detector_finds_images_boxes_and_masks(devkit: Path, split: str, count: int) -> None:
    images, labels = read_coco_detection(devkit, split), read_labels(devkit, split)
    assert labels is not None
    assert len(images) == count
    assert images.classes == CLASSES
    assert images.areas is not None
    for row in range(count):
        assert (images.root / images.names[row]).is_file()
        np.testing.assert_array_equal(images.boxes[row], labels.boxes[row])
        np.testing.assert_array_equal(images.box_classes[row], labels.box_classes[row])
        written_scenes = np.asarray(Image.open(devkit / "SegmentationObject" / f"{Path(images.names[row]).stem}.png"))
        numbers = [number for number in range(1, written_scenes.max() + 1) if (written_scenes == number).any()]
        np.testing.assert_array_equal(images.masks(row), [written_scenes == number for number in numbers])
        assert images.areas[row].tolist() == [(written_scenes == number).sum() for number in numbers]
        assert images.sizes_wh[row] == (96, 72)


def test_a_second_call_changes_nothing(devkit: Path) -> None:
    path = devkit / "annotations" / "instances_trainval.json"
    before = path.read_bytes()
    write_coco(devkit)
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["instances_test.json", "instances_trainval.json"]


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9))
def test_runs_are_those_that_pycocotools_reads(seed: int, height: int, width: int) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.random((height, width)) < generator.random()
    rle = json.loads(json.dumps(uncompressed(mask)))
    np.testing.assert_array_equal(coco_mask.decode(coco_mask.frPyObjects(rle, height, width)), mask)


def test_a_folder_without_scenes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no finished synthetic scenes"):
        write_coco(tmp_path)


def test_a_mask_that_lacks_an_object_is_refused(tmp_path: Path) -> None:
    draw_scenes(tmp_path, num_trainval=1, num_test=0, size_wh=(64, 48), quiet=True)
    (path,) = (tmp_path / "SegmentationObject").iterdir()
    Image.fromarray(np.zeros((48, 64), dtype=np.uint8)).save(path)
    with pytest.raises(ValueError, match="shows 0 objects"):
        write_coco(tmp_path)
    assert not (tmp_path / "annotations").exists()
