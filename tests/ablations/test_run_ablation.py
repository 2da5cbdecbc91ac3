import json
from dataclasses import replace
from pathlib import Path

import pytest

from orl.ablations.records import read_result, without_folders
from orl.ablations.run_ablation import AblationOptions, run_ablation
from orl.config import RunConfig, SimCLRConfig, TrainConfig, ViewConfig
from orl.networks.backbones import build_backbone, save_backbone
from orl.pipeline.run import run_all, run_discover, run_pretrain
from orl.recipes import demo
from orl.rundir import RunDir
from orl.synthetic.scenes import draw_scenes

SHORT = TrainConfig(
    epochs=1,
    batch_size=8,
    warmup_epochs=0.5,
    hidden_features=32,
    projection_features=16,
    views=ViewConfig(size_px=32, area_range=(0.2, 1.0), blur_sigma_px=(0.1, 1.0)),
)


SIMCLR = SimCLRConfig(temperature=0.1)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_scenes(folder, num_trainval=24, num_test=10, size_wh=(96, 72), seed=0, quiet=True)
    return folder


def small(scenes: Path, out: Path) -> RunConfig:
    config = demo(scenes, out)
    return replace(
        config,
        workers=0,
        stage1=SHORT,
        stage3=SHORT,
        eval_data=scenes,
        evaluation=replace(config.evaluation, size_px=48, knn_neighbours=5, shots=(1,)),
        discover=replace(config.discover, embed_px=48, roi_embed_px=32),
        objects=replace(config.objects, roi_size_px=16),
    )


@pytest.fixture(scope="module")
def jitter(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    config = replace(small(scenes, tmp_path_factory.mktemp("ablation") / "out"), seed=3)
    return config, run_ablation("jitter", config, AblationOptions(seeds=1))


def test_an_ablation_scores_every_variant_at_every_seed_by_all_evaluations(jitter: tuple[RunConfig, Path]) -> None:
    config, path = jitter
    result = read_result(path)
    assert [record["variant"] for record in result["records"]] == [
        *("no jitter", "IoU above 0.7", "IoU above 0.5", "IoU above 0.2")
    ]
    for record in result["records"]:
        assert record["seed"] == 3
        assert record["images_seen"] == 24
        assert 0 < record["scores"]["svm"] < 1
        assert 0 < record["scores"]["knn"] < 1
        assert list(record["scores"]["low-shot"]) == ["1"]
        assert record["discovery"]["object_fraction"] >= 0
        assert record["elapsed_s"]["stage3"] > 0
        assert record["elapsed_s"]["evaluation"] > 0
    variants = sum(sum(record["elapsed_s"].values()) for record in result["records"])
    assert result["elapsed_s"] == pytest.approx(variants, abs=0.5), "the base run is the variant of the paper's IoU"
    assert result["config"]["objects"]["roi_size_px"] == 16
    assert str(config.out) not in path.read_text(), "no path of a machine"


def test_a_variant_equals_a_run_of_its_config_and_links_the_base_run(
    jitter: tuple[RunConfig, Path], scenes: Path, tmp_path: Path
) -> None:
    config, _ = jitter
    plain = replace(small(scenes, tmp_path / "plain"), seed=3, objects=replace(config.objects, jitter_min_iou=0.7))
    run_pretrain(plain, "stage1")
    run_discover(plain)
    run_pretrain(plain, "stage3")
    variant, base = (RunDir(config.out / "seed3" / name) for name in ("iou-above-0-7", "base"))
    for stage in ("stage1", "stage3"):
        assert variant.backbone(stage).read_bytes() == RunDir(plain.out).backbone(stage).read_bytes(), stage
    assert not variant.metrics("stage1").exists(), "the variant has trained no stage 1"
    assert variant.backbone("stage3").read_bytes() != base.backbone("stage3").read_bytes()


def test_the_same_ablation_again_trains_nothing_and_has_the_same_records(jitter: tuple[RunConfig, Path]) -> None:
    config, path = jitter
    before = json.loads(path.read_text())["records"]
    trained = {file: file.stat().st_mtime_ns for file in config.out.rglob("backbone.safetensors")}
    run_ablation("jitter", config, AblationOptions(seeds=1))
    assert {file: file.stat().st_mtime_ns for file in config.out.rglob("backbone.safetensors")} == trained
    again = json.loads(path.read_text())["records"]
    for one, other in zip(before, again, strict=True):
        assert {key: one[key] for key in one if key != "elapsed_s"} == {
            key: other[key] for key in other if key != "elapsed_s"
        }


def test_feature_extractors_and_proposals_are_compared_by_discovery_alone(
    jitter: tuple[RunConfig, Path], tmp_path: Path
) -> None:
    config, _ = jitter
    save_backbone(build_backbone("resnet18"), tmp_path / "strong.safetensors")
    options = AblationOptions(seeds=1, outside=tmp_path / "strong.safetensors", discovery_only=True)
    result = read_result(run_ablation("feature-extractor", config, options))
    assert [record["variant"] for record in result["records"]] == ["random weights", "stage 1", "outside: strong"]
    assert all(record["scores"] == {} for record in result["records"]), "scores of another ablation do not count"
    found = read_result(run_ablation("proposals", config, AblationOptions(seeds=1, discovery_only=True)))
    fractions = {record["variant"]: record["discovery"]["roi_object_fraction"] for record in found["records"]}
    assert fractions["labelled boxes"] > 0.99, "every RoI is an object"
    assert max(fraction for variant, fraction in fractions.items() if variant != "labelled boxes") < 0.9
    # The changed table was rebuilt, and that of the base run was not.
    base = RunDir(config.out / "seed3" / "base").table("rois")
    variant = RunDir(config.out / "seed3" / "labelled-boxes").table("rois")
    assert (base / "00000.arrow").read_bytes() != (variant / "00000.arrow").read_bytes()


def test_the_stages_ablation_trains_byol_longer_and_scores_random_weights(
    jitter: tuple[RunConfig, Path],
) -> None:
    config, _ = jitter
    result = read_result(run_ablation("stages", config, AblationOptions(seeds=1)))
    variants = {record["variant"]: record for record in result["records"]}
    assert variants["BYOL, image-matched"]["epochs"] == {"stage1": 1}
    costs = {label: variant["gigapixels"] for label, variant in variants.items()}
    assert costs["BYOL, compute-matched"] >= costs["ORL"] > costs["BYOL, image-matched"] > costs["random weights"] == 0
    assert len({record["scores"]["svm"] for record in variants.values()}) > 1


def test_a_warm_start_counts_the_images_of_stage_1_and_byol_has_no_pairs(
    jitter: tuple[RunConfig, Path], tmp_path: Path
) -> None:
    config, _ = jitter
    warm = replace(config, out=tmp_path / "out", objects=replace(config.objects, warm_start=True))
    result = read_result(run_ablation("stages", warm, AblationOptions(seeds=1)))
    variants = {record["variant"]: record for record in result["records"]}
    assert variants["BYOL, start of ORL"]["images_seen"] == 24
    assert variants["BYOL, image-matched"]["images_seen"] == variants["ORL"]["images_seen"] == 48
    assert variants["BYOL, image-matched"]["discovery"] is None
    assert variants["ORL"]["discovery"] is not None
    assert variants["BYOL, image-matched"]["gigapixels"] < variants["ORL"]["gigapixels"]


@pytest.mark.parametrize("warm", [False, True])
def test_with_weights_from_outside_stage_1_is_trained_only_for_a_warm_start(
    scenes: Path, tmp_path: Path, warm: bool
) -> None:
    save_backbone(build_backbone("resnet18"), tmp_path / "strong.safetensors")
    config = small(scenes, tmp_path / "run")
    discover = replace(config.discover, feature_extractor=tmp_path / "strong.safetensors")
    run_all(replace(config, eval_data=None, discover=discover, objects=replace(config.objects, warm_start=warm)))
    run = RunDir(config.out)
    assert run.backbone("stage1").exists() is warm
    assert run.backbone("stage3").exists()


@pytest.mark.parametrize(
    ("name", "changes", "options", "complaint"),
    [
        ("losses", {}, {"discovery_only": True}, "do not differ in stage 2"),
        ("neighbours", {"eval_data": None}, {}, "ablation neighbours evaluates backbones: give a VOC devkit"),
        ("losses", {}, {"outside": Path("x.pth")}, "have no effect on ablation losses"),
        ("stages", {"method": SIMCLR}, {}, "compares ORL with BYOL, but the method of stage 1 is simclr"),
        ("proposals", {"images": "JPEGImages"}, {}, "ablation proposals needs the objects of its images"),
        (
            "neighbours",
            {"images": "JPEGImages"},
            {"discovery_only": True},
            "JPEGImages has no labels; give a VOC devkit",
        ),
    ],
)
def test_an_ablation_that_compares_nothing_is_refused(
    name: str, changes: dict[str, object], options: dict[str, object], complaint: str, scenes: Path, tmp_path: Path
) -> None:
    if "images" in changes:
        changes = {**changes, "images": scenes / str(changes["images"])}
    config = replace(small(scenes, tmp_path / "out"), **changes)
    with pytest.raises(ValueError, match=complaint):
        run_ablation(name, config, AblationOptions(seeds=1, **options))
    assert not (tmp_path / "out").exists()


def test_missing_weights_are_reported_before_the_training(scenes: Path, tmp_path: Path) -> None:
    options = AblationOptions(seeds=1, outside=tmp_path / "no.pth")
    with pytest.raises(FileNotFoundError, match=r"no\.pth"):
        run_ablation("feature-extractor", small(scenes, tmp_path / "out"), options)
    assert not (tmp_path / "out").exists()


def test_a_recorded_command_has_no_folders_of_the_machine() -> None:
    command = "orl ablate jitter --images /home/me/VOC2007 --out=/data/runs/x --feature-extractor weights/a.pth"
    short = "orl ablate jitter --images VOC2007 --out=x --feature-extractor weights/a.pth"
    assert without_folders(command) == short
