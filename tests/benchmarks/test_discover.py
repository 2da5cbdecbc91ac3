import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def discover() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("benchmark_discover", BENCHMARKS / "discover.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in coarse squares; the last image carries a turn in its EXIF."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for index in range(5):
        coarse = generator.integers(0, 256, (6, 8 + index, 3), dtype=np.uint8)
        image = Image.fromarray(coarse.repeat(10, axis=0).repeat(10, axis=1))
        exif = Image.Exif()
        exif[0x0112] = 6 if index == 4 else 1
        image.save(folder / f"{index}.png", exif=exif)
    return folder


def test_the_published_program_and_ours_find_the_same_pairs(discover: ModuleType, images: Path, tmp_path: Path) -> None:
    sizes = [
        "--num-images",
        "5",
        "--rois",
        "10",
        "--neighbours",
        "2",
        "--size-px",
        "48",
        "--runs",
        "2",
        "--map-px",
        "96",
    ]
    argv = ["--images", str(images), "--json", str(tmp_path / "out.json"), "--backbone", "resnet10", *sizes]
    discover.main(argv)
    published, once, map_published, map_crops = json.loads((tmp_path / "out.json").read_text())
    assert published["alternative"] == "the published way"
    for result in (published, once):
        assert result["runs"] == 2
        assert result["ratio_p10"] <= result["ratio_median"] <= result["ratio_p90"]
        assert result["agreement"]["same_pairs_fraction"] > 0.9
        assert result["agreement"]["similarity_difference_max"] <= 1e-4
        assert result["agreement"]["pairs"] >= 5 * 2
        assert result["settings"]["rois_embedded_by_us"] == result["settings"]["rois"]
    assert published["settings"]["rois_embedded_by_alternative"] == 3 * published["settings"]["rois"]
    assert once["settings"]["rois_embedded_by_alternative"] == once["settings"]["rois"]
    assert [each["alternative"] for each in (map_published, map_crops)] == [
        "the published way",
        "our crops, embedded once",
    ]
    for result in (map_published, map_crops):
        assert 0 <= result["agreement"]["same_pairs_fraction"] <= 1
        assert result["settings"]["map_px"] == 96


def test_neighbours_are_other_images_each_once(discover: ModuleType, images: Path) -> None:
    task = discover.draw_task(images, 5, 4, 3, 48)
    for image_id, neighbours in enumerate(task.neighbour_ids.tolist()):
        assert image_id not in neighbours
        assert len(set(neighbours)) == 3
    assert [len(rois) for rois in task.rois] == [4] * 5


def test_another_result_is_reported(discover: ModuleType) -> None:
    pairs = torch.tensor([[0, 1], [2, 0]])
    ours = [(pairs, torch.tensor([0.9, 0.8]))]
    swapped = [(pairs.flip(0), torch.tensor([0.90004, 0.80004]))]
    with pytest.raises(SystemExit, match=r"disagree by more than 0\.0001"):
        discover.check_agreement(ours, swapped)
    near_tie = [(torch.tensor([[0, 1], [3, 3]]), torch.tensor([0.90004, 0.80004]))]
    agreement = discover.check_agreement(ours, near_tie)
    assert agreement["same_pairs_fraction"] == 0.5
    assert agreement["similarity_difference_max"] == pytest.approx(4e-5, rel=0.01)
    with pytest.raises(SystemExit, match="disagree"):
        discover.check_agreement(ours, [(pairs, torch.tensor([0.9, 0.7]))])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give the images"),
        (["--num-images", "6"], "of 5; got 6"),
        (["--num-images", "3", "--neighbours", "3"], "3 neighbours need more images than that, of 5; got 3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(discover: ModuleType, images: Path, argv: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        discover.main([*(["--images", str(images)] if argv else []), *argv])
