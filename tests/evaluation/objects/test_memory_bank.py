"""Memory bank and predictions of dense retrieval against loops, and known answers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import dense_retrieval as reference

from orl.evaluation.objects import memory_bank
from orl.evaluation.objects.memory_bank import (
    BankWriter,
    MemoryBank,
    patch_frequencies,
    patches_per_image,
    predict_mask,
    predict_patches,
    sample_patches,
)

VOID = 255


def random_mask(seed: int, size_hw: tuple[int, int], num_classes: int = 4) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mask = generator.integers(0, num_classes, size_hw).astype(np.uint8)
    mask[generator.random(size_hw) < 0.3] = VOID
    return mask


def random_bank(seed: int, size: int = 40, channels: int = 6, classes: int = 3) -> MemoryBank:
    generator = np.random.default_rng(seed)
    writer = BankWriter(size, channels, classes)
    features = torch.from_numpy(generator.normal(size=(size, channels))).float()
    writer.add(features, generator.dirichlet(np.ones(classes), size).astype(np.float32))
    return writer.finish()


@pytest.mark.parametrize(
    ("size_hw", "map_hw"), [((12, 8), (3, 2)), ((7, 10), (3, 4)), ((5, 5), (1, 1)), ((3, 3), (2, 2))]
)
def test_frequencies_equal_loops_over_pixels(size_hw: tuple[int, int], map_hw: tuple[int, int]) -> None:
    mask = random_mask(0, size_hw)
    expected = reference.frequencies_by_loops(mask.tolist(), map_hw, 4)
    np.testing.assert_allclose(patch_frequencies(mask, map_hw, 4), expected, rtol=1e-6)


def test_void_pixels_are_left_out_of_the_frequencies() -> None:
    mask = np.array([[0, 0, VOID, VOID], [0, 1, VOID, VOID]], np.uint8)
    found = patch_frequencies(mask, (1, 2), 2)
    assert found.tolist() == [[0.75, 0.25], [0.0, 0.0]]
    mask[0, 0] = VOID
    np.testing.assert_allclose(patch_frequencies(mask, (1, 2), 2)[0], [2 / 3, 1 / 3], rtol=1e-6)


@given(st.integers(0, 2**31), st.integers(1, 20))
@settings(deadline=None)
def test_sampled_patches_equal_loops(seed: int, num_patches: int) -> None:
    frequencies = patch_frequencies(random_mask(seed, (8, 8), 3), (4, 4), 3)
    uniform = np.random.default_rng(seed).random(16)
    expected = reference.sample_by_loops(frequencies.tolist(), num_patches, uniform.tolist())
    assert sample_patches(frequencies, num_patches, np.random.default_rng(seed)).tolist() == expected


def test_a_patch_of_void_only_is_never_sampled() -> None:
    frequencies = np.array([[0, 0], [1, 0], [0, 0], [0.5, 0.5]], np.float32)
    assert sorted(sample_patches(frequencies, 4, np.random.default_rng(0)).tolist()) == [1, 3]


def test_rare_classes_are_sampled_more_often() -> None:
    frequencies = np.zeros((100, 2), np.float32)
    frequencies[:90, 0] = frequencies[90:, 1] = 1
    generator = np.random.default_rng(0)
    rare = np.mean([(sample_patches(frequencies, 10, generator) >= 90).mean() for _ in range(200)])
    assert rare > 0.4  # a uniform sample has 0.1


@pytest.mark.parametrize(
    ("memory", "images", "epochs", "expected"), [(100_000, 367, 2, 136), (100, 100, 2, 1), (10, 5, 1, 2)]
)
def test_patches_per_image_divide_the_memory(memory: int, images: int, epochs: int, expected: int) -> None:
    assert patches_per_image(memory, images, epochs) == expected


@pytest.mark.parametrize("block_rows", [3, 17, 1000])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_predictions_equal_loops_for_every_block_size(k: int, block_rows: int) -> None:
    bank = random_bank(0)
    queries = torch.from_numpy(np.random.default_rng(1).normal(size=(9, 6))).float()
    found = predict_patches(bank, queries, k=k, temperature=0.1, block_rows=block_rows)
    features, frequencies = bank.features.tolist(), bank.frequencies.tolist()
    expected = [reference.predict_by_loops(features, frequencies, query, k, 0.1) for query in queries.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_a_low_temperature_takes_the_nearest_patch_and_a_high_one_the_mean() -> None:
    bank = random_bank(2)
    queries = bank.features[:5] * 3  # the length of a query does not count
    torch.testing.assert_close(predict_patches(bank, queries, k=10, temperature=1e-4), bank.frequencies[:5])
    mean = predict_patches(bank, queries, k=40, temperature=1e6)
    torch.testing.assert_close(mean, bank.frequencies.mean(dim=0).expand(5, -1))


def test_the_order_of_the_bank_changes_nothing() -> None:
    bank = random_bank(3)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    other = MemoryBank(features=bank.features[order], frequencies=bank.frequencies[order])
    queries = random_bank(4).features
    one, two = (predict_patches(each, queries, k=7, temperature=0.02) for each in (bank, other))
    torch.testing.assert_close(one, two)


def test_a_bank_of_fewer_patches_than_k_lets_all_of_them_vote() -> None:
    bank = random_bank(5, size=4)
    found = predict_patches(bank, bank.features, k=30, temperature=0.5)
    torch.testing.assert_close(found, predict_patches(bank, bank.features, k=4, temperature=0.5))


def test_predicted_masks_equal_bilinear_interpolation_by_loops() -> None:
    frequencies = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(3), 12)).float()
    found = predict_mask(frequencies, (3, 4), (10, 9))
    maps = [reference.interpolate_by_loops(own.reshape(3, 4).tolist(), (10, 9)) for own in frequencies.T]
    np.testing.assert_array_equal(found, np.argmax(maps, axis=0))


def test_a_map_of_pure_patches_is_predicted_without_an_error_inside_the_patches() -> None:
    labels = np.array([[0, 1], [2, 1]], np.uint8)
    found = predict_mask(torch.eye(3)[torch.from_numpy(labels).long().flatten()], (2, 2), (8, 8))
    np.testing.assert_array_equal(found, labels.repeat(4, axis=0).repeat(4, axis=1))


def test_the_bank_has_unit_features_and_no_row_that_was_not_added() -> None:
    writer = BankWriter(5, 3, 2)
    features = torch.tensor([[3.0, 0.0, 4.0], [0.0, 2.0, 0.0]])
    writer.add(features, np.array([[1, 0], [0.5, 0.5]], np.float32))
    writer.add(features[:1] * 10, np.array([[0, 1]], np.float32))
    bank = writer.finish()
    torch.testing.assert_close(bank.features, torch.tensor([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0], [0.6, 0.0, 0.8]]))
    assert bank.frequencies.tolist() == [[1, 0], [0.5, 0.5], [0, 1]]


def test_a_large_bank_is_stored_in_half_precision_and_predicts_almost_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    full = random_bank(6)
    monkeypatch.setattr(memory_bank, "HALF_PRECISION_BYTES", 10)
    half = random_bank(6)
    assert half.features.dtype == torch.float16
    assert full.features.dtype == half.frequencies.dtype == torch.float32
    one, two = (predict_patches(bank, full.features + 0.1, k=5, temperature=0.5) for bank in (full, half))
    # Half precision changes a cosine by up to 0.001.
    torch.testing.assert_close(one, two, atol=0.01, rtol=0)


def test_a_bank_larger_than_the_memory_is_refused_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_bank, "available_bytes", lambda: 10**9)
    with pytest.raises(
        ValueError, match=r"10,000,000 patches of 2,048 numbers and 21 classes takes 41\.8 GB, and 1\.0"
    ):
        BankWriter(10**7, 2048, 21)


def test_features_that_are_not_finite_are_refused() -> None:
    bank = random_bank(7)
    with pytest.raises(ValueError, match="not finite"):
        predict_patches(bank, torch.full((2, 6), torch.nan), k=3, temperature=0.1)
