"""The fast estimate on drawn images: it learns, goes on after a kill, leaves out unreadable images, keeps its name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orl import provenance, tables
from orl.datasets.class_folders import read_train_val
from orl.embed import centre_crop_boxes, embed_boxes
from orl.evaluation.classification import feature_cache as kept_features
from orl.evaluation.classification.linear_estimate import estimate_linear
from orl.evaluation.evaluated_backbone import EvaluatedBackbone, load_evaluated_backbone
from orl.evaluation.output import EvaluationOutput
from orl.networks.backbones import build_backbone, pool

COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200))


@pytest.fixture(scope="module")
def subject() -> EvaluatedBackbone:
    return load_evaluated_backbone(Path("random"), "resnet18")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Noise of three colours, the class."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 14), ("val", 6)):
        for colour, mean in zip("rgb", COLOURS):
            folder = tmp_path / "set" / split / colour
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.normal(mean, 40, (40, 48, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "set"


def estimate(subject: EvaluatedBackbone, data: Path, result: Path, **settings: bool) -> dict[str, object]:
    place = EvaluationOutput(result=result, workers=0, device="cpu", quiet=True, **settings)
    return estimate_linear(subject, *read_train_val(data, "folder"), place, size_px=32)


def test_colours_are_told_apart_and_the_result_is_no_linear_score(
    subject: EvaluatedBackbone, data: Path, tmp_path: Path
) -> None:
    result = estimate(subject, data, tmp_path / "estimate.json")
    assert result["task"] == "linear-estimate"
    assert str(result["protocol"]).startswith("fast estimate")
    assert result["top1"] > 0.9
    assert result["top5"] is None
    assert (result["num_train"], result["num_held_out"], result["num_test"]) == (42, 4, 18)
    assert json.loads((tmp_path / "estimate.json").read_text()) == result


def test_labels_that_mean_nothing_are_learnt_from_in_vain(
    subject: EvaluatedBackbone, data: Path, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        paths = sorted((data / split).glob("*/*.png"))
        contents = [path.read_bytes() for path in paths]
        for path, index in zip(paths, np.random.default_rng(1).permutation(len(paths))):
            path.write_bytes(contents[index])
    result = estimate(subject, data, tmp_path / "estimate.json")
    assert result["top1"] < 0.7
    # With 512 features the weakest penalty knows 42 images by heart, but not those that were held out.
    assert result["held_out_top1"]["0.0001"] < 1


def test_a_killed_job_goes_on_at_its_shard(
    subject: EvaluatedBackbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_features, "SHARD_SIZE", 16)
    whole = estimate(subject, data, tmp_path / "whole.json")
    assert whole["top1"] > 0.9
    write, written = tables.write_shard, []

    def killed(folder: Path, index: int, columns: dict[str, np.ndarray]) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(index)
        write(folder, index, columns)

    monkeypatch.setattr(tables, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        estimate(subject, data, tmp_path / "part.json")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "part" / "train").glob("*.arrow")}
    assert len(before) == 2
    monkeypatch.setattr(tables, "write_shard", write)
    resumed = estimate(subject, data, tmp_path / "part.json")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {key: value for key, value in resumed.items() if "elapsed" not in key} == {
        key: value for key, value in whole.items() if "elapsed" not in key
    }


def test_features_are_those_of_the_centre_crop(subject: EvaluatedBackbone, data: Path, tmp_path: Path) -> None:
    estimate(subject, data, tmp_path / "estimate.json")
    _, val = read_train_val(data, "folder")
    kept = tables.load(tmp_path / "estimate" / "val").column("feature")
    network = build_backbone("resnet18").eval()
    network.load_state_dict(subject.network.state_dict())
    expected = embed_boxes(
        lambda views: pool(network(views)),
        val.paths,
        centre_crop_boxes([(48, 40)] * len(val)),
        size_px=32,
        device=torch.device("cpu"),
        workers=0,
        report=lambda _: None,
    )
    # Half precision keeps three digits.
    np.testing.assert_allclose(kept.astype(np.float32), np.concatenate(list(expected)), rtol=2e-3, atol=2e-3)


def test_unreadable_images_are_left_out_and_named(subject: EvaluatedBackbone, data: Path, tmp_path: Path) -> None:
    (data / "train" / "r" / "3.png").write_bytes(b"none")
    (data / "val" / "g" / "1.png").write_bytes(b"")
    result = estimate(subject, data, tmp_path / "estimate.json")
    assert set(result["rejected"]) == {"train/r/3.png", "val/g/1.png"}
    assert (result["num_train"], result["num_test"], result["num_rejected"]) == (41, 17, 2)
    for number in range(2):
        (data / "val" / "b" / f"{number}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="3 of 18 images of 'val' cannot be read, and at most 10% may"):
        estimate(subject, data, tmp_path / "other.json")


def test_a_result_of_other_weights_is_not_taken(subject: EvaluatedBackbone, data: Path, tmp_path: Path) -> None:
    first = estimate(subject, data, tmp_path / "estimate.json")
    assert estimate(subject, data, tmp_path / "estimate.json") == first
    other = load_evaluated_backbone(Path("random"), "resnet18", seed=1)
    with pytest.raises(provenance.StaleResultError, match="backbone"):
        estimate(other, data, tmp_path / "estimate.json")
    assert estimate(other, data, tmp_path / "estimate.json", overwrite=True)["backbone"] == other.label


def test_too_few_images_are_refused(subject: EvaluatedBackbone, data: Path, tmp_path: Path) -> None:
    for path in (data / "train").glob("*/*.png"):
        if int(path.stem) >= 3:
            path.unlink()
    with pytest.raises(ValueError, match="9 training images are too few"):
        estimate(subject, data, tmp_path / "estimate.json")
