"""The fast estimate of the linear score on synthetic images."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orl import provenance, tables
from orl.datasets.class_folders import read_train_val
from orl.embed import embed_crops
from orl.evaluation.classification import feature_cache
from orl.evaluation.classification.class_data import ClassData
from orl.evaluation.classification.linear_estimate import LINEAR_ESTIMATE, EstimateConfig
from orl.evaluation.evaluated_backbone import EvaluatedBackbone, load_evaluated_backbone
from orl.evaluation.output import EvaluationOutput
from orl.networks.backbones import build_backbone, pool
from orl.processes import Processes
from orl.views.crops import centre_crop

COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200))


@pytest.fixture(scope="module")
def backbone() -> EvaluatedBackbone:
    return load_evaluated_backbone(Path("random"), "resnet18")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write noise images of three colours, one for each class."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 14), ("val", 6)):
        for colour, mean in zip("rgb", COLOURS):
            folder = tmp_path / "set" / split / colour
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.normal(mean, 40, (40, 48, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "set"


def estimate(backbone: EvaluatedBackbone, data: Path, result: Path, **options: bool) -> dict[str, object]:
    output = EvaluationOutput(result=result, workers=0, device="cpu", quiet=True, **options)
    config = EstimateConfig(dataset="folder", size_px=32)
    return LINEAR_ESTIMATE.run(backbone, ClassData(data=data), config, output, Processes())


def test_colours_are_classified_and_the_result_is_named_an_estimate(
    backbone: EvaluatedBackbone, data: Path, tmp_path: Path
) -> None:
    result = estimate(backbone, data, tmp_path / "estimate.json")
    assert result["task"] == "linear-estimate"
    assert str(result["protocol"]).startswith("fast estimate")
    assert result["top1"] > 0.9
    assert result["top5"] is None
    assert (result["num_train"], result["num_validation"], result["num_test"]) == (42, 4, 18)
    assert json.loads((tmp_path / "estimate.json").read_text()) == result


def test_random_labels_give_a_low_score(backbone: EvaluatedBackbone, data: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        paths = sorted((data / split).glob("*/*.png"))
        contents = [path.read_bytes() for path in paths]
        for path, index in zip(paths, np.random.default_rng(1).permutation(len(paths))):
            path.write_bytes(contents[index])
    result = estimate(backbone, data, tmp_path / "estimate.json")
    assert result["top1"] < 0.7
    # With 512 features the weakest penalty fits all 42 images, but not the validation images.
    assert result["validation_top1"]["0.0001"] < 1


def test_a_killed_job_resumes_at_its_shard(
    backbone: EvaluatedBackbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "SHARD_SIZE", 16)
    complete = estimate(backbone, data, tmp_path / "complete.json")
    assert complete["top1"] > 0.9
    write, written = tables.write_shard, []

    def killed(folder: Path, index: int, columns: dict[str, np.ndarray]) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(index)
        write(folder, index, columns)

    monkeypatch.setattr(tables, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        estimate(backbone, data, tmp_path / "part.json")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "part" / "train").glob("*.arrow")}
    assert len(before) == 2
    monkeypatch.setattr(tables, "write_shard", write)
    resumed = estimate(backbone, data, tmp_path / "part.json")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {key: value for key, value in resumed.items() if "elapsed" not in key} == {
        key: value for key, value in complete.items() if "elapsed" not in key
    }


def test_cached_features_are_those_of_the_centre_crop(backbone: EvaluatedBackbone, data: Path, tmp_path: Path) -> None:
    estimate(backbone, data, tmp_path / "estimate.json")
    _, val = read_train_val(data, "folder")
    kept = tables.load(tmp_path / "estimate" / "val").column("feature")
    network = build_backbone("resnet18").eval()
    network.load_state_dict(backbone.network.state_dict())
    expected = embed_crops(
        lambda views: pool(network(views)),
        val.paths,
        [partial(centre_crop, size_px=32)] * len(val),
        device=torch.device("cpu"),
        workers=0,
        report=lambda _: None,
    )
    # float16 has three digits.
    np.testing.assert_allclose(kept.astype(np.float32), np.concatenate(list(expected)), rtol=2e-3, atol=2e-3)


def test_unreadable_images_are_left_out_and_named(backbone: EvaluatedBackbone, data: Path, tmp_path: Path) -> None:
    (data / "train" / "r" / "3.png").write_bytes(b"none")
    (data / "val" / "g" / "1.png").write_bytes(b"")
    result = estimate(backbone, data, tmp_path / "estimate.json")
    assert set(result["rejected"]) == {"train/r/3.png", "val/g/1.png"}
    assert (result["num_train"], result["num_test"], result["num_rejected"]) == (41, 17, 2)
    for number in range(2):
        (data / "val" / "b" / f"{number}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="3 of 18 images of 'val' cannot be read, more than 10%"):
        estimate(backbone, data, tmp_path / "other.json")


def test_a_result_of_other_weights_is_refused(backbone: EvaluatedBackbone, data: Path, tmp_path: Path) -> None:
    first = estimate(backbone, data, tmp_path / "estimate.json")
    assert estimate(backbone, data, tmp_path / "estimate.json") == first
    other = load_evaluated_backbone(Path("random"), "resnet18", seed=1)
    with pytest.raises(provenance.StaleResultError, match="backbone"):
        estimate(other, data, tmp_path / "estimate.json")
    assert estimate(other, data, tmp_path / "estimate.json", overwrite=True)["backbone"] == other.label


def test_too_few_images_are_refused(backbone: EvaluatedBackbone, data: Path, tmp_path: Path) -> None:
    for path in (data / "train").glob("*/*.png"):
        if int(path.stem) >= 3:
            path.unlink()
    with pytest.raises(ValueError, match="needs 10 images or more, got 9"):
        estimate(backbone, data, tmp_path / "estimate.json")
