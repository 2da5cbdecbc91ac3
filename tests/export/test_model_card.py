import json
from pathlib import Path

import pytest
from tests.export.exported import random_backbone, write_backbone, write_run, write_score

from orl import files
from orl.export.export import export
from orl.export.model_card import Origin, read_origin, write_card
from orl.networks.backbones import save_backbone
from orl.rundir import RunDir


def card_of(source: Path, folder: Path, stage: str | None = None) -> str:
    return export(source, "timm", folder, stage=stage)[1].read_text()


def rows_of(card: str) -> dict[str, str]:
    """First cell -> the rest of the row, of all tables."""
    lines = [line.strip("|").split("|", 1) for line in card.splitlines() if line.startswith("|")]
    return {name.strip(): rest.strip() for name, rest in lines}


def test_the_card_of_stage_3_lists_its_training(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    rows = rows_of(card_of(run.root, tmp_path / "to"))
    assert rows["method"] == "ORL"
    assert rows["recipe"] == "quick"
    assert rows["images"] == "1,234, without labels"
    assert (rows["epochs"], rows["batch"], rows["seed"]) == ("6", "32", "3")
    assert rows["started from"] == "random weights"
    assert rows["objects found by"] == "stage 1 of the run"
    assert rows["versions"] == "python 3.11.7, torch 2.15.0"
    assert (rows["orl"], rows["git commit"]) == ("0.1.0", "0123abcd")
    assert rows["digest of the weights file"] == files.file_digest(run.backbone("stage3"))


def test_the_card_of_stage_1_names_its_own_method_and_epochs(tmp_path: Path) -> None:
    rows = rows_of(card_of(write_run(tmp_path / "run").root, tmp_path / "to", "stage1"))
    assert (rows["method"], rows["epochs"], rows["batch"]) == ("mocov2", "5", "64")
    assert "objects found by" not in rows


def test_the_card_names_a_warm_start_and_the_feature_extractor(tmp_path: Path) -> None:
    config = {"objects": {"warm_start": True}, "discover": {"feature_extractor": "/home/somebody/moco.pth"}}
    origin = Origin(digest="d", stage="stage3", config=config)
    rows = rows_of(write_card(random_backbone("resnet10"), origin, "", "").decode())
    assert rows["started from"] == "stage 1 of the run"
    assert rows["objects found by"] == "the weights moco.pth"


def test_scores_stand_beside_those_of_random_weights(tmp_path: Path) -> None:
    card = card_of(write_run(tmp_path / "run").root, tmp_path / "to")
    rows = rows_of(card)
    assert rows["evaluation"] == "data | random weights | stage 1 | stage 3"
    assert rows["linear SVM, pooled, mAP in %"] == "VOC2007, test | 15.1 | 20.3 | 22.9"
    assert "weighted kNN, pooled, mAP in %" not in rows
    assert "on any task are unknown" not in card


def test_a_score_of_other_weights_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_score(run, "svm", "stage3", 0.99, "another digest")
    card = card_of(run.root, tmp_path / "to")
    assert rows_of(card)["linear SVM, pooled, mAP in %"] == "VOC2007, test | 15.1 | 20.3 | unknown"
    assert "Its scores on any task are unknown" in card


def test_the_card_contains_no_folder_of_the_machine(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    run.config.write_text(run.config.read_text().replace("init_from: null", "init_from: /home/somebody/prior.pth"))
    card = card_of(run.root, tmp_path / "to")
    assert "/home" not in card
    assert str(tmp_path) not in card
    assert rows_of(card)["started from"] == "the weights prior.pth"


def test_the_card_of_a_file_outside_a_run_writes_unknown(tmp_path: Path) -> None:
    card = card_of(write_backbone(tmp_path / "from"), tmp_path / "to")
    rows = rows_of(card)
    for name in ("method", "recipe", "images", "epochs", "batch", "started from", "seed", "versions", "git commit"):
        assert rows[name] == "unknown", name
    assert rows["architecture"] == "resnet10"
    assert "without labels" not in card  # it may have been imported
    assert "Unknown: these weights were not evaluated" in card
    assert "The training images are unknown" in card
    assert "Unknown: it depends on the images" in card


def test_notes_in_the_file_are_on_the_card(tmp_path: Path) -> None:
    path = tmp_path / "backbone.safetensors"
    save_backbone(random_backbone("resnet10"), path, {"layout": "MoCo v2", "source": "moco.pth.tar"})
    rows = rows_of(card_of(path, tmp_path / "to"))
    assert rows["note in the file: layout"] == "MoCo v2"
    assert rows["note in the file: source"] == "moco.pth.tar"


def test_a_run_without_records_has_an_empty_origin(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    run.record.unlink()
    run.images.unlink()
    origin = read_origin(run.backbone("stage1"))
    assert (origin.stage, origin.record, origin.num_images) == ("stage1", {}, None)
    assert origin.config["recipe"] == "quick"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", "a: [", r"config\.yaml is not YAML"),
        ("config.yaml", "seed: 1\nseed: 2\n", r"config\.yaml is not YAML: the key 'seed' is in line 1 .*export the"),
        ("config.yaml", "7", r"config\.yaml holds no config but 7"),
        ("run.json", "{", r"run\.json is not JSON"),
        ("evaluation/svm_stage1.json", "{", r"svm_stage1\.json is not JSON"),
        ("evaluation/svm_stage1.json", "[]", r"svm_stage1\.json contains a list"),
        ("evaluation/svm_stage1.json", json.dumps({"mean_ap": "high"}), "it has no mean_ap"),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    run = write_run(tmp_path / "run")
    (run.root / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_origin(RunDir(run.root).backbone("stage3"))


def test_a_short_recipe_is_listed_as_a_limit_and_a_long_one_is_not(tmp_path: Path) -> None:
    backbone = random_backbone("resnet10")
    short, long = (
        write_card(backbone, Origin(digest="d", stage="stage3", config={"recipe": recipe}), "", "").decode()
        for recipe in ("demo", "coco")
    )
    assert "The recipe 'demo' is for trying things out" in short
    assert "for trying things out" not in long
