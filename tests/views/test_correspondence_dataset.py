"""The correspondences of a finished stage 2, read as a torch data set."""

import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from orl import tables
from orl.datasets.decode import ImageError
from orl.datasets.image_table import ImageTable, save_image_table
from orl.rundir import RunDir
from orl.views.correspondence_dataset import Correspondence, CorrespondenceDataset

COLOURS = ((200, 0, 0), (0, 200, 0), (0, 0, 200))
ROIS = ((2, 3, 22, 13), (10, 4, 30, 24), (0, 0, 40, 30), (5.4, 6.6, 15.2, 26.9))
ROI_IMAGES = (0, 0, 1, 2)
CORRESPONDENCES = {
    "image_id": np.array([0, 0, 1, 2], np.int32),
    "neighbour_id": np.array([1, 2, 0, 0], np.int32),
    "roi": np.array([0, 1, 2, 3]),
    "neighbour_roi": np.array([2, 3, 1, 0]),
    "similarity": np.array([0.9, 0.5, 0.75, 0.25], np.float32),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Write a run of three images, each of one colour that brightens from left to right."""
    folder = tmp_path / "images"
    folder.mkdir()
    names = tuple(f"{index}.png" for index in range(3))
    for name, colour in zip(names, COLOURS):
        pixels = np.array(colour)[None, None] * np.linspace(0.5, 1, 40)[None, :, None]
        Image.fromarray(np.broadcast_to(pixels, (30, 40, 3)).astype(np.uint8)).save(folder / name)
    found = RunDir(tmp_path / "run")
    found.root.mkdir()
    images = ImageTable(root=folder, names=names, sizes_wh=((40, 30),) * 3, digests=names)
    save_image_table(images, found.images)
    rois = {"image_id": np.array(ROI_IMAGES, np.int32), "box": np.array(ROIS, np.float32)}
    for name, columns in (("rois", rois), ("correspondences", CORRESPONDENCES)):
        tables.begin(found.table(name), {"images": images.fingerprint}, 1)
        tables.write_shard(found.table(name), 0, columns)
    return found.root


def crop(run: Path, image_id: int, box: tuple[int, int, int, int]) -> np.ndarray:
    left, top, right, bottom = box
    return np.array(Image.open(run.parent / "images" / f"{image_id}.png"))[top:bottom, left:right]


def test_an_item_is_the_rois_of_a_correspondence_with_its_similarity_and_rows(run: Path) -> None:
    pairs = CorrespondenceDataset(run)
    assert len(pairs) == 4
    item = pairs[1]
    np.testing.assert_array_equal(np.array(item.crop), crop(run, 0, (10, 4, 30, 24)))
    np.testing.assert_array_equal(np.array(item.neighbour_crop), crop(run, 2, (5, 7, 15, 27)))
    assert item[2:] == (0.5, 0, 2, 1, 3)
    assert [(each.image_id, each.neighbour_id) for each in pairs] == [(0, 1), (0, 2), (1, 0), (2, 0)]


def test_a_transform_is_applied_to_each_crop(run: Path) -> None:
    to_size = CorrespondenceDataset(run, transform=lambda image: image.size)
    assert (to_size[0].crop, to_size[0].neighbour_crop) == ((20, 10), (40, 30))
    two = CorrespondenceDataset(str(run), transform=lambda image: image.size, neighbour_transform=lambda _: "other")
    assert (two[0].crop, two[0].neighbour_crop) == ((20, 10), "other")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_loader_joins_items_into_a_batch(run: Path, workers: int) -> None:
    transform = v2.Compose([v2.Resize((8, 8)), v2.PILToTensor()])
    loader = DataLoader(
        CorrespondenceDataset(run, transform), batch_size=4, num_workers=workers, multiprocessing_context=spawn(workers)
    )
    (batch,) = loader
    assert isinstance(batch, Correspondence)
    assert batch.crop.shape == batch.neighbour_crop.shape == (4, 3, 8, 8)
    assert batch.similarity.tolist() == pytest.approx([0.9, 0.5, 0.75, 0.25])
    assert batch.neighbour_id.tolist() == [1, 2, 0, 0]


def spawn(workers: int) -> str | None:
    """Start workers afresh, so that the data set has to be pickled."""
    return "spawn" if workers else None


def test_the_example_in_the_docstring_runs(run: Path) -> None:
    docstring = CorrespondenceDataset.__doc__
    assert docstring is not None
    code = textwrap.dedent(docstring.split("```python\n")[1].split("```")[0])
    names = {"CorrespondenceDataset": CorrespondenceDataset}
    exec(code.replace("runs/coco", str(run)), names)
    batch: Correspondence = names["batch"]
    assert batch.crop.shape == batch.neighbour_crop.shape == (4, 3, 96, 96)


def test_a_run_without_stage_2_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no image table at"):
        CorrespondenceDataset(tmp_path / "elsewhere")
    (RunDir(run).table("correspondences") / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no table at .*correspondences; make it with 'orl discover'"):
        CorrespondenceDataset(run)


def test_correspondences_of_another_image_list_are_refused(run: Path) -> None:
    images = CorrespondenceDataset(run).images
    fewer = ImageTable(root=images.root, names=images.names[:2], sizes_wh=images.sizes_wh[:2], digests=("a", "b"))
    save_image_table(fewer, RunDir(run).images)
    with pytest.raises(ValueError, match="was made from another image list"):
        CorrespondenceDataset(run)


def test_an_image_that_changed_its_size_is_refused(run: Path) -> None:
    pairs = CorrespondenceDataset(run)
    Image.new("RGB", (41, 30)).save(run.parent / "images" / "1.png")
    with pytest.raises(ImageError, match="has 41x30 px, and had 40x30"):
        pairs[0]
