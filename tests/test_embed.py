from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orl import embed
from orl.embed import centre_crop_boxes, embed_boxes, embed_photos
from orl.images.augment import normalise
from orl.images.crops import cut
from orl.images.decode import PhotoError
from orl.networks.backbones import build_backbone


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for index in range(5):
        Image.fromarray(generator.integers(0, 256, (30 + index, 40, 3), dtype=np.uint8)).save(root / f"{index}.png")
    return [root / f"{index}.png" for index in range(5)]


def some_boxes() -> list[np.ndarray]:
    """Three, none, four, one and two boxes."""
    generator = np.random.default_rng(1)
    corners = [generator.integers(0, 15, (count, 2)) for count in (3, 0, 4, 1, 2)]
    return [np.concatenate([corner, corner + 12], axis=1).astype(np.float32) for corner in corners]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_every_box_is_embedded_once_in_order_whatever_the_batches(
    paths: list[Path], batch_size: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "BATCH_SIZE", batch_size)
    boxes = some_boxes()
    boxes[1] = np.array([[0, 0, 40, 31]], dtype=np.float32)
    sizes: list[int] = []
    done: list[int] = []

    def encode(views: torch.Tensor) -> torch.Tensor:
        sizes.append(len(views))
        return views.flatten(1)

    parts = embed_boxes(
        encode, paths, boxes, size_px=8, device=torch.device("cpu"), workers=workers, report=done.append
    )
    found = np.concatenate(list(parts))
    crops = [
        cut(np.asarray(Image.open(path)), box, 8).transpose(2, 0, 1) for path, some in zip(paths, boxes) for box in some
    ]
    expected = normalise(torch.from_numpy(np.stack(crops))).flatten(1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert sum(sizes) == 11
    assert all(size == batch_size for size in sizes[:-1])
    assert sum(done) == 5


def test_photos_are_squeezed_whole_and_pooled(paths: list[Path]) -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet10")
    found = embed_photos(backbone, paths, size_px=32, quiet=True)
    assert found.shape == (5, 512)
    assert not backbone.training
    whole = cut(np.asarray(Image.open(paths[2])), np.array([0, 0, 40, 32], dtype=np.float32), 32)
    with torch.no_grad():
        expected = backbone(normalise(torch.from_numpy(whole.transpose(2, 0, 1).copy())[None])).mean(dim=(2, 3))[0]
    np.testing.assert_allclose(found[2], expected.numpy(), atol=1e-5, rtol=1e-4)


def test_no_photos_give_no_features() -> None:
    assert embed_photos(build_backbone("resnet10"), [], size_px=32, quiet=True).shape == (0, 512)


def test_the_centre_crop_takes_224_of_256_of_the_short_side() -> None:
    wide, high = centre_crop_boxes([(640, 256), (256, 512)])
    np.testing.assert_allclose(wide, [[208, 16, 432, 240]])
    np.testing.assert_allclose(high, [[16, 144, 240, 368]])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_has_gone_bad_is_named(paths: list[Path], tmp_path: Path, workers: int) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"")
    with pytest.raises((PhotoError, RuntimeError, ValueError), match=r"broken.jpg"):
        embed_photos(build_backbone("resnet10"), [*paths, broken], size_px=32, workers=workers, quiet=True)
