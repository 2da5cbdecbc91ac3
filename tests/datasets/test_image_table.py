from pathlib import Path

import pytest

from orl.datasets.image_table import ImageTable, load_image_table, save_image_table


@pytest.fixture
def images() -> ImageTable:
    names = tuple(f"{index}.png" for index in range(4))
    return ImageTable(root=Path("images"), names=names, sizes_wh=((60, 40),) * 4, digests=names)


def test_the_image_table_survives_the_round_trip(images: ImageTable, tmp_path: Path) -> None:
    save_image_table(images, tmp_path / "images.parquet")
    assert load_image_table(tmp_path / "images.parquet") == images


def test_a_moved_folder_keeps_its_fingerprint_and_an_edited_image_does_not(images: ImageTable) -> None:
    values = {"names": images.names, "sizes_wh": images.sizes_wh}
    moved = ImageTable(root=Path("elsewhere"), digests=images.digests, **values)
    edited = ImageTable(root=images.root, digests=("other", *images.digests[1:]), **values)
    assert moved.fingerprint == images.fingerprint
    assert edited.fingerprint != images.fingerprint


def test_files_that_are_no_image_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no image table"):
        load_image_table(tmp_path / "images.parquet")
    (tmp_path / "images.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="is not an image table"):
        load_image_table(tmp_path / "images.parquet")
