"""Parts of the labels: published lists, and draws that are balanced, nested and seeded."""

from pathlib import Path

import numpy as np
import pytest

from orl.datasets.classified import ClassifiedImages
from orl.evaluation.classification.subsets import draw_subset, read_subset


def images(counts: tuple[int, ...] = (20, 30, 10)) -> ClassifiedImages:
    names = [f"n{label}/n{label}_{i}.JPEG" for label, count in enumerate(counts) for i in range(count)]
    labels = np.repeat(np.arange(len(counts)), counts)
    order = np.random.default_rng(0).permutation(len(names))
    return ClassifiedImages(
        root=Path("train"),
        split="train",
        classes=tuple(f"n{label}" for label in range(len(counts))),
        names=tuple(names[i] for i in order),
        labels=labels[order],
    )


def test_a_list_is_matched_by_file_name_with_and_without_folders(tmp_path: Path) -> None:
    path = tmp_path / "1percent.txt"
    path.write_text("n2_3.JPEG\nn0/n0_1.JPEG\ntrain/n1/n1_29.JPEG 1\n\nn1_0.JPEG\n")
    found = read_subset(images(), path)
    assert dict(zip(found.names, found.labels.tolist())) == {
        "n2/n2_3.JPEG": 2,
        "n0/n0_1.JPEG": 0,
        "n1/n1_29.JPEG": 1,
        "n1/n1_0.JPEG": 1,
    }
    assert found.split == "train, the 4 images of 1percent.txt"
    assert found.classes == images().classes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n0_1.JPEG\nn9_1.JPEG\n", "names 2 images, and 1 are not in 'train', such as n9_1.JPEG"),
        ("n1/n0_1.JPEG\n", "1 are not in"),
        ("\n", "names no image"),
        ("n0_1.JPEG\nn0/n0_1.JPEG\n", "names n0/n0_1.JPEG 2 times"),
        ("n0_1.JPEG\nn0_2.JPEG\n", "list.txt has images of one class only, 'n0'"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_subset(images(), path)


def test_a_file_name_of_two_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("1.jpg\n")
    two = ClassifiedImages(
        root=tmp_path, split="train", classes=("a", "b"), names=("a/1.jpg", "b/1.jpg"), labels=np.array([0, 1])
    )
    with pytest.raises(ValueError, match=r"1.jpg may be a/1.jpg or b/1.jpg"):
        read_subset(two, path)


def test_every_class_gives_as_many() -> None:
    # 10% of 60 images over 3 classes are 2 of each.
    drawn = draw_subset(images(), 0.1, seed=0)
    assert np.bincount(drawn.labels).tolist() == [2, 2, 2]
    assert drawn.split == "train, 2 images of each class drawn with seed 0"
    assert all(name.startswith(f"n{label}/") for name, label in zip(drawn.names, drawn.labels))
    assert np.bincount(draw_subset(images(), 0.001, seed=0).labels).tolist() == [1, 1, 1]


def test_a_class_with_fewer_gives_all_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    drawn = draw_subset(images(), 0.7, seed=0)  # 14 of each, where the last class has 10
    assert np.bincount(drawn.labels).tolist() == [14, 14, 10]
    assert "fewer of 1 classes" in drawn.split
    assert "['n2']" in caplog.text


def test_draws_are_seeded_and_nested() -> None:
    small, large = draw_subset(images(), 0.1, seed=1), draw_subset(images(), 0.3, seed=1)
    assert small.names == draw_subset(images(), 0.1, seed=1).names
    assert set(small.names) < set(large.names)
    assert set(small.names) != set(draw_subset(images(), 0.1, seed=2).names)


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5, float("nan")])
def test_a_share_outside_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"a share of {fraction:g}"):
        draw_subset(images(), fraction, seed=0)
