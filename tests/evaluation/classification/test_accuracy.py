"""Top-1 and top-5 against scikit-learn and a loop, ties by rule, counts that add up."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import top_k_accuracy_score

from orl.evaluation.classification.accuracy import Accuracy, top_k_accuracy


def scores(num_images: int, num_classes: int, seed: int, num_levels: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample scores; with `num_levels` many of them are equal."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_images, num_classes, generator=generator)
    if num_levels:
        logits = torch.randint(num_levels, logits.shape, generator=generator).float()
    return logits, torch.randint(num_classes, (num_images,), generator=generator)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_counts_equal_scikit_learns(k: int) -> None:
    logits, labels = scores(200, 7, seed=k)
    expected = top_k_accuracy_score(labels.numpy(), logits.numpy(), k=k, normalize=False, labels=np.arange(7))
    assert top_k_accuracy(logits, labels, k) == expected


@given(seed=st.integers(0, 1000), k=st.integers(1, 4))
def test_with_equal_scores_the_lower_class_ranks_higher(seed: int, k: int) -> None:
    logits, labels = scores(20, 4, seed, num_levels=2)
    expected = 0
    for row, label in zip(logits.tolist(), labels.tolist()):
        ranked = sorted(range(4), key=lambda index, row=row: (-row[index], index))
        expected += label in ranked[:k]
    assert top_k_accuracy(logits, labels, k) == expected


def test_equal_scores_by_hand() -> None:
    assert [top_k_accuracy(torch.zeros(1, 3), torch.tensor([label]), 1) for label in range(3)] == [1, 0, 0]
    assert [top_k_accuracy(torch.zeros(1, 3), torch.tensor([label]), 2) for label in range(3)] == [1, 1, 0]


def test_counts_of_batches_add_up() -> None:
    logits, labels = scores(50, 9, seed=3)
    parts = [Accuracy.of(logits[start : start + 16], labels[start : start + 16]) for start in range(0, 50, 16)]
    assert sum(parts, Accuracy()) == Accuracy.of(logits, labels)
    total = Accuracy.of(logits, labels)
    assert total.to_json() == {"top1": total.num_top1 / 50, "top5": total.num_top5 / 50}
    assert total.num_top1 < total.num_top5


def test_with_few_classes_there_is_no_top5() -> None:
    assert Accuracy.of(*scores(4, 5, seed=0)).to_json()["top5"] is None
    assert Accuracy.of(*scores(4, 6, seed=0)).to_json()["top5"] is not None


def test_invalid_scores_labels_and_counts_are_refused() -> None:
    logits, labels = scores(3, 4, seed=0)
    with pytest.raises(ValueError, match=r"top-5 accuracy needs at least 5 classes .* got 4"):
        top_k_accuracy(logits, labels, 5)
    with pytest.raises(ValueError, match="labels are from 4 to 4"):
        top_k_accuracy(logits, torch.full((3,), 4), 1)
    logits[1, 2] = torch.nan
    with pytest.raises(ValueError, match="1 of 3 images are NaN"):
        top_k_accuracy(logits, labels, 1)
    with pytest.raises(ValueError, match="cannot be added"):
        Accuracy.of(*scores(3, 4, seed=0)) + Accuracy.of(*scores(3, 9, seed=0))
    with pytest.raises(ValueError, match="0 images"):
        Accuracy().to_json()
