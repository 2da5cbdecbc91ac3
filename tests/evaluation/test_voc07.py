import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from PIL import Image

from orl.embed import embed_images
from orl.evaluation.voc07 import embed_labelled, evaluate_knn, evaluate_svm
from orl.evaluation.voc_dataset import read_labelled
from orl.networks.backbones import build_backbone

COLOURS = {"cat": (220, 30, 30), "dog": (30, 30, 220)}


def draw_devkit(root, num_images=12):
    """Images of one flat colour with a little noise: red ones show a cat, blue ones a dog."""
    lists = root / "ImageSets" / "Main"
    for folder in (lists, root / "JPEGImages", root / "Annotations"):
        folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split in ("trainval", "test"):
        names = [f"{split}{index:02}" for index in range(num_images)]
        (lists / f"{split}.txt").write_text("\n".join(names))
        for name, shown in zip(names, [*COLOURS] * num_images):
            pixels = np.clip(COLOURS[shown] + generator.integers(-20, 20, size=(40, 48, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
        for label in COLOURS:
            signs = [1 if shown == label else -1 for shown in [*COLOURS] * num_images]
            (lists / f"{label}_{split}.txt").write_text("\n".join(f"{n} {s}" for n, s in zip(names, signs)))
    return root


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    root = draw_devkit(tmp_path_factory.mktemp("drawn") / "VOC2007")
    (root / "JPEGImages" / "test03.jpg").write_bytes(b"not an image")
    return root


@pytest.fixture(scope="module")
def backbone():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_backbone("resnet10")


@pytest.fixture(scope="module")
def features(devkit, backbone):
    train, test = (read_labelled(devkit, split, quiet=True) for split in ("trainval", "test"))
    return embed_labelled(backbone, train, test, size_px=32, quiet=True)


def test_a_broken_image_is_left_out_with_its_label_and_recorded(devkit):
    images = read_labelled(devkit, "test", quiet=True)
    assert [path.stem for path in images.paths] == [f"test{index:02}" for index in range(12) if index != 3]
    assert images.labels[:, images.classes.index("cat")].tolist() == [1, -1, 1, *[1, -1] * 4]
    assert [image.name for image in images.rejected] == ["JPEGImages/test03.jpg"]


def test_features_are_those_of_the_images_in_their_order(features, backbone):
    expected = embed_images(backbone, features.test.paths, size_px=32, quiet=True)
    assert_array_equal(features.test_features, expected)
    assert features.train_features.shape == (12, 512)


def test_judges_tell_red_images_from_blue_ones(features):
    svm = evaluate_svm(features, "random", quiet=True)
    knn = evaluate_knn(features, "random", k=3, quiet=True)
    assert svm["per_class_ap"] == knn["per_class_ap"] == {"cat": 1, "dog": 1}
    assert (svm["task"], knn["task"], svm["backbone"], svm["size_px"]) == ("svm", "knn", "random", 32)
    assert (svm["num_train"], svm["num_test"], svm["num_rejected"]) == (12, 11, 1)
    assert json.loads(json.dumps(svm, allow_nan=False)) == svm
    assert json.loads(json.dumps(knn, allow_nan=False)) == knn


def test_a_missing_split_is_refused(devkit):
    with pytest.raises(ValueError, match="no split 'val'"):
        read_labelled(devkit, "val", quiet=True)


def test_a_split_without_a_readable_image_is_refused(tmp_path):
    root = draw_devkit(tmp_path / "VOC2007", num_images=2)
    for path in (root / "JPEGImages").glob("test*"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 2 images of split 'test' .* \(empty"):
        read_labelled(root, "test", quiet=True)


def test_splits_of_different_classes_are_refused(tmp_path, backbone):
    root = draw_devkit(tmp_path / "VOC2007", num_images=2)
    (root / "ImageSets" / "Main" / "dog_test.txt").unlink()
    train, test = (read_labelled(root, split, quiet=True) for split in ("trainval", "test"))
    with pytest.raises(ValueError, match=r"'trainval' and 'test' .* \['dog'\]"):
        embed_labelled(backbone, train, test, size_px=32, quiet=True)
