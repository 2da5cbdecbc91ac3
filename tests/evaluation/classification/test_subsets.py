"""Subsets of the labels: published lists, and balanced, nested, seeded samples."""

from pathlib import Path

import numpy as np
import pytest

from orl.datasets.classified import ClassifiedImages
from orl.evaluation.classification.subsets import read_subset, sample_subset


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
def test_lists_that_do_not_match_the_split_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_subset(images(), path)


def test_an_ambiguous_file_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("1.jpg\n")
    two = ClassifiedImages(
        root=tmp_path, split="train", classes=("a", "b"), names=("a/1.jpg", "b/1.jpg"), labels=np.array([0, 1])
    )
    with pytest.raises(ValueError, match=r"1.jpg is ambiguous: a/1.jpg or b/1.jpg"):
        read_subset(two, path)


def test_every_class_contributes_equally_many() -> None:
    # 10% of 60 images over 3 classes are 2 of each.
    sampled = sample_subset(images(), 0.1, seed=0)
    assert np.bincount(sampled.labels).tolist() == [2, 2, 2]
    assert sampled.split == "train, 2 images of each class sampled with seed 0"
    assert all(name.startswith(f"n{label}/") for name, label in zip(sampled.names, sampled.labels))
    assert np.bincount(sample_subset(images(), 0.001, seed=0).labels).tolist() == [1, 1, 1]


def test_a_smaller_class_contributes_all_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    sampled = sample_subset(images(), 0.7, seed=0)  # 14 of each, where the last class has 10
    assert np.bincount(sampled.labels).tolist() == [14, 14, 10]
    assert "fewer of 1 smaller classes" in sampled.split
    assert "['n2']" in caplog.text


def test_samples_are_seeded_and_nested() -> None:
    small, large = sample_subset(images(), 0.1, seed=1), sample_subset(images(), 0.3, seed=1)
    assert small.names == sample_subset(images(), 0.1, seed=1).names
    assert set(small.names) < set(large.names)
    assert set(small.names) != set(sample_subset(images(), 0.1, seed=2).names)


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"at most 1, got {fraction:g}"):
        sample_subset(images(), fraction, seed=0)
