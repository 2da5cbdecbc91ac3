import gc
import multiprocessing
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orl.datasets.decode import ImageError
from orl.embed import Encode, ImageWorkers, at_precision, embed_boxes, embed_images
from orl.networks.backbones import build_backbone, pool
from orl.views.augment import normalise
from orl.views.crops import cut_boxes, resize_to_square


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for index in range(5):
        Image.fromarray(generator.integers(0, 256, (30 + index, 40, 3), dtype=np.uint8)).save(root / f"{index}.png")
    return [root / f"{index}.png" for index in range(5)]


def some_boxes() -> list[np.ndarray]:
    """Three, none, four, one and two boxes."""
    generator = np.random.default_rng(1)
    corners = [generator.integers(0, 15, (count, 2)) for count in (3, 0, 4, 1, 2)]
    return [np.concatenate([corner, corner + 12], axis=1).astype(np.float32) for corner in corners]


def embed(
    paths: Sequence[Path],
    boxes: Sequence[np.ndarray],
    workers: int | ImageWorkers = 0,
    encode: Encode = lambda views: views.flatten(1),
) -> np.ndarray:
    device = torch.device("cpu")
    parts = embed_boxes(encode, paths, boxes, size_px=8, device=device, workers=workers, report=lambda _: None)
    return np.concatenate(list(parts))


def crops_of(path: Path, boxes: np.ndarray, size_px: int = 8) -> torch.Tensor:
    return cut_boxes(np.asarray(Image.open(path)), boxes, size_px)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_every_box_is_embedded_once_in_order_whatever_the_batches(
    paths: list[Path], batch_size: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orl.embed.CPU_BATCH_SIZE", batch_size)
    boxes = some_boxes()
    sizes: list[int] = []
    done: list[int] = []

    def encode(views: torch.Tensor) -> torch.Tensor:
        sizes.append(len(views))
        return views.flatten(1)

    parts = embed_boxes(
        encode, paths, boxes, size_px=8, device=torch.device("cpu"), workers=workers, report=done.append
    )
    found = np.concatenate(list(parts))
    expected = normalise(torch.cat([crops_of(path, some) for path, some in zip(paths, boxes)])).flatten(1)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    assert sum(sizes) == 10
    assert all(size == batch_size for size in sizes[:-1])
    assert sum(done) == 5


def test_an_embedding_does_not_depend_on_the_others_in_its_batch(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet10").eval()
    together = embed(paths, some_boxes(), encode=lambda views: pool(backbone(views)))
    monkeypatch.setattr("orl.embed.CPU_BATCH_SIZE", 1)
    np.testing.assert_allclose(
        embed(paths, some_boxes(), encode=lambda views: pool(backbone(views))), together, atol=1e-5, rtol=1e-5
    )


def test_the_caller_may_train_between_two_batches(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orl.embed.CPU_BATCH_SIZE", 4)
    device = torch.device("cpu")
    parts = embed_boxes(
        lambda views: views.flatten(1), paths, some_boxes(), size_px=8, device=device, workers=0, report=lambda _: None
    )
    next(parts)
    assert not torch.is_inference_mode_enabled()
    parts.close()


def test_complete_images_are_resized_and_pooled(paths: list[Path]) -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet10")
    names = list(backbone.state_dict())
    found = embed_images(backbone, paths, size_px=32, quiet=True)
    assert found.shape == (5, 512)
    assert not backbone.training
    assert list(backbone.state_dict()) == names
    complete = resize_to_square(np.asarray(Image.open(paths[2])), 32)
    with torch.no_grad():
        expected = backbone(normalise(complete)).mean(dim=(2, 3))[0]
    np.testing.assert_allclose(found[2], expected.numpy(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("count", [0, 2])
def test_workers_serve_another_call_with_other_images_and_boxes(paths: list[Path], count: int) -> None:
    workers = ImageWorkers(count)
    first = embed(paths, some_boxes(), workers)
    np.testing.assert_array_equal(
        embed(paths[::-1], some_boxes()[::-1], workers), embed(paths[::-1], some_boxes()[::-1])
    )
    np.testing.assert_array_equal(embed(paths, some_boxes(), workers), first)
    np.testing.assert_array_equal(first, embed(paths, some_boxes()))


def test_workers_are_the_same_processes_in_every_call(paths: list[Path]) -> None:
    def running() -> set[int | None]:
        return {process.pid for process in multiprocessing.active_children()}

    before = running()
    workers = ImageWorkers(2)
    assert running() == before
    embed(paths, some_boxes(), workers)
    first = running() - before
    assert len(first) == 2
    embed(paths[:1], some_boxes()[:1], workers)
    assert running() - before == first
    del workers
    gc.collect()
    assert not running() & first


@pytest.mark.parametrize("count", [0, 2])
def test_workers_continue_after_an_unfinished_or_failed_call(paths: list[Path], tmp_path: Path, count: int) -> None:
    workers = ImageWorkers(count)
    left = workers.apply(paths, [partial(cut_boxes, boxes=boxes, size_px=8) for boxes in some_boxes()])
    next(left)
    with pytest.raises(RuntimeError, match="still read the images of an earlier call"):
        embed(paths, some_boxes(), workers)
    left.close()
    with pytest.raises(ImageError, match=r"missing.jpg: missing"):
        embed([paths[0], tmp_path / "missing.jpg", *paths[:3]], some_boxes(), workers)
    np.testing.assert_array_equal(embed(paths, some_boxes(), workers), embed(paths, some_boxes()))


def test_images_without_their_boxes_are_refused(paths: list[Path]) -> None:
    with pytest.raises(ValueError, match="shorter"):
        embed(paths, some_boxes()[:4])


def test_half_precision_is_close_to_full_precision(paths: list[Path]) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(3 * 8 * 8, 16)
    seen: list[torch.dtype] = []

    def encode(views: torch.Tensor) -> torch.Tensor:
        embeddings = linear(views.flatten(1))
        seen.append(embeddings.dtype)
        return embeddings

    exact = embed(paths, some_boxes(), encode=encode)
    half = embed(paths, some_boxes(), encode=at_precision(encode, torch.bfloat16))
    assert seen == [torch.float32, torch.bfloat16]
    assert half.dtype == np.float32
    # bfloat16 has 8 bits.
    np.testing.assert_allclose(half, exact, atol=0.03)
    assert not np.array_equal(half, exact)
    assert at_precision(encode, torch.float32) is encode


def test_no_images_give_no_features() -> None:
    assert embed_images(build_backbone("resnet10"), [], size_px=32, quiet=True).shape == (0, 512)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(paths: list[Path], tmp_path: Path, workers: int) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"")
    with pytest.raises(ImageError, match=r"broken.jpg: empty: 0 bytes"):
        embed_images(build_backbone("resnet10"), [*paths, broken], size_px=32, workers=workers, quiet=True)
