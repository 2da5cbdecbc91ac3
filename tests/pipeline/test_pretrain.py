import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from orl import files, provenance, tables
from orl.cli.options import RunVerb, read_config, types
from orl.config import DiscoverConfig, RunConfig, TrainConfig, ViewConfig, differences
from orl.datasets import decode
from orl.networks.backbones import build_backbone, read_backbone_file, save_backbone
from orl.networks.device import compute_device
from orl.pipeline.pack import pack_images
from orl.pipeline.pack_options import PackOptions
from orl.pipeline.preflight import preflight
from orl.pipeline.run import run_discover, run_pretrain
from orl.pipeline.run_plan import run_stages
from orl.pipeline.training_setup import peak_lr, view_distribution
from orl.pipeline.view_samplers import object_table
from orl.recipes import coco, demo
from orl.rundir import RunDir, read_record
from orl.synthetic.scenes import draw_scenes
from orl.training.training_step import SSLStep
from orl.views.colour import ColourDistribution


def write_table(folder: Path, columns: dict[str, np.ndarray]) -> tables.Table:
    tables.begin(folder, {}, 1)
    tables.write_shard(folder, 0, columns)
    return tables.load(folder)


def test_the_object_table_groups_correspondences_by_image_and_neighbour(tmp_path: Path) -> None:
    rois = {"image_id": np.array([0, 0, 1, 2], dtype=np.int32), "box": np.arange(16, dtype=np.float32).reshape(4, 4)}
    pairs = {
        "image_id": np.array([0, 0, 0, 1, 2, 2], dtype=np.int32),
        "neighbour_id": np.array([1, 1, 2, 2, 0, 1], dtype=np.int32),
        "roi": np.array([0, 1, 1, 2, 3, 3]),
        "neighbour_roi": np.array([2, 2, 3, 3, 0, 2]),
        "similarity": np.ones(6, dtype=np.float32),
    }
    found = object_table(write_table(tmp_path / "rois", rois), write_table(tmp_path / "pairs", pairs), 3)
    assert found.roi_starts.tolist() == [0, 2, 3, 4]
    assert found.correspondences.tolist() == [[0, 2], [1, 2], [1, 3], [2, 3], [3, 0], [3, 2]]
    assert [group.tolist() for group in found.neighbour_slices] == [[[0, 2], [2, 3]], [[3, 4]], [[4, 5], [5, 6]]]
    assert found.rois[3].tolist() == [12, 13, 14, 15]


def test_two_images_with_one_common_neighbour_do_not_run_into_one_group(tmp_path: Path) -> None:
    rois = {"image_id": np.arange(3, dtype=np.int32), "box": np.zeros((3, 4), dtype=np.float32)}
    pairs = {
        "image_id": np.array([0, 1, 2], dtype=np.int32),
        "neighbour_id": np.array([2, 2, 1], dtype=np.int32),
        "roi": np.arange(3),
        "neighbour_roi": np.array([2, 2, 1]),
        "similarity": np.ones(3, dtype=np.float32),
    }
    found = object_table(write_table(tmp_path / "rois", rois), write_table(tmp_path / "pairs", pairs), 3)
    assert [group.tolist() for group in found.neighbour_slices] == [[[0, 1]], [[1, 2]], [[2, 3]]]


def test_the_papers_views_are_byols() -> None:
    rules = view_distribution(coco(Path("images"), Path("run")).stage1.views)
    assert (rules.size_px, rules.area_range) == (224, (0.08, 1.0))
    assert rules.colours[0] == ColourDistribution()
    assert rules.colours[1] == ColourDistribution(blur_probability=0.1, solarise_probability=0.2)


def test_jitter_is_of_brightness_contrast_saturation_and_hue() -> None:
    rules = view_distribution(ViewConfig(jitter=(0.1, 0.2, 0.3, 0.4)))
    for colours in rules.colours:
        assert (colours.brightness, colours.contrast, colours.saturation, colours.hue) == (0.1, 0.2, 0.3, 0.4)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no GPU here"):
        compute_device("cuda")
    assert compute_device("auto").type == "cpu"


SHORT = TrainConfig(
    epochs=2,
    batch_size=4,
    warmup_epochs=1.0,
    hidden_features=64,
    projection_features=32,
    views=ViewConfig(size_px=32, area_range=(0.2, 1.0), blur_sigma_px=(0.1, 1.0)),
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_scenes(folder, num_trainval=12, num_test=8, size_wh=(96, 72), seed=0, quiet=True)
    return folder


def small(scenes: Path, out: Path, **changes: object) -> RunConfig:
    start = demo(scenes, out)
    return replace(start, **{"workers": 0, "stage1": SHORT, "stage3": SHORT, **changes})


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run whose stages 1 and 2 are done."""
    config = small(scenes, tmp_path_factory.mktemp("trained") / "run")
    run_pretrain(config, "stage1")
    run_discover(config)
    return config


def start_of(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """The first weights that a training has, once it has begun."""
    found: dict[str, torch.Tensor] = {}
    update = SSLStep.update

    def watched(self: SSLStep, *arguments: object) -> dict[str, float]:
        if not found:
            found.update({name: value.clone() for name, value in self.method.online.state_dict().items()})
        return update(self, *arguments)

    monkeypatch.setattr(SSLStep, "update", watched)
    return found


def test_training_starts_from_given_weights_and_refuses_others_on_resume(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(77)
    given = build_backbone("resnet10")
    save_backbone(given, tmp_path / "given.safetensors")
    found = start_of(monkeypatch)
    config = small(scenes, tmp_path / "run", init_from=tmp_path / "given.safetensors")
    run_pretrain(config, "stage1")
    for name, weight in given.state_dict().items():
        assert torch.equal(found[f"backbone.{name}"], weight), name
    save_backbone(build_backbone("resnet10"), tmp_path / "given.safetensors")
    with pytest.raises(ValueError, match=r"stage 1 of .* started from other weights, and --init-from is .*given"):
        run_pretrain(config, "stage1")
    with pytest.raises(ValueError, match=r"stage 1 of .* started from other weights, and --init-from is None"):
        run_pretrain(replace(config, init_from=None), "stage1")


@pytest.mark.parametrize(
    ("stages", "more", "verb", "planned"),
    [
        (("stage1",), ("stage1",), "pretrain", ("stage1",)),
        (("stage1", "discover", "stage3"), ("stage1", "stage3"), "run", ("stage1", "discover", "stage3")),
        (("stage3",), ("stage3",), "run", ("discover", "stage3")),
    ],
)
def test_more_epochs_of_a_finished_stage_are_refused_with_a_command_that_trains_on(
    trained: RunConfig,
    tmp_path: Path,
    stages: tuple[str, ...],
    more: tuple[str, ...],
    verb: str,
    planned: tuple[str, ...],
) -> None:
    config = replace(trained, out=tmp_path / "my run")
    shutil.copytree(trained.out, config.out)
    for stage in more:  # finished, or as good as
        (config.out / stage).mkdir(exist_ok=True)
        shutil.copy(RunDir(trained.out).backbone("stage1"), RunDir(config.out).backbone(stage))
        (config.out / stage / "manifest.json").write_text("{}")
    asked = replace(config, **{stage: replace(SHORT, epochs=30) for stage in more})
    with pytest.raises(ValueError, match=r"was 2, now 30.*To train on from these weights, .*: orl ") as refusal:
        preflight(asked, stages)
    command = shlex.split(str(refusal.value).rpartition(": ")[2])
    assert command[:2] == ["orl", verb]
    with types:
        offered = read_config(RunVerb(name=verb, about=""), command[2:])
    assert (offered.images, offered.out) == (config.images, tmp_path / "my run-more")
    assert [getattr(offered, stage).epochs for stage in more] == [28] * len(more)
    assert offered.init_from == RunDir(config.out).backbone(more[0])
    assert verb == "pretrain" or run_stages(offered) == planned
    assert preflight(offered, planned).start is not None


@pytest.mark.parametrize("changes", [{"epochs": 1}, {"epochs": 30, "base_lr": 9.0}])
def test_other_changes_of_a_finished_stage_have_no_such_command(trained: RunConfig, changes: dict) -> None:
    with pytest.raises(ValueError, match=r"holds a run of another config .*--overwrite$"):
        preflight(replace(trained, stage1=replace(SHORT, **changes)), ["stage1"])


def test_weights_trained_on_pixels_of_another_filter_are_stale(
    trained: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orl.pipeline.pretrain.RESAMPLING", "bicubic")
    with pytest.raises(provenance.StaleResultError, match="resampling"):
        run_pretrain(trained, "stage1")


def test_stage_1_alone_needs_fewer_images_than_an_image_has_neighbours(scenes: Path, tmp_path: Path) -> None:
    config = small(scenes, tmp_path / "run", discover=DiscoverConfig(num_neighbours=50))
    assert run_pretrain(config, "stage1") is not None
    with pytest.raises(ValueError, match="50 neighbours need at least 51 images, got 12; add images or ask for fewer"):
        preflight(config, ["discover"])


def test_weights_of_another_network_are_refused(scenes: Path, tmp_path: Path) -> None:
    save_backbone(build_backbone("resnet18"), tmp_path / "given.safetensors")
    with pytest.raises(ValueError, match=r"given\.safetensors holds a resnet18, and --backbone is resnet10"):
        run_pretrain(small(scenes, tmp_path / "run", init_from=tmp_path / "given.safetensors"), "stage1")
    with pytest.raises(FileNotFoundError, match="nothing at"):
        run_pretrain(small(scenes, tmp_path / "run", init_from=tmp_path / "missing.safetensors"), "stage1")


@pytest.mark.parametrize("warm", [False, True])
def test_stage_3_starts_from_stage_1_with_a_warm_start_only(
    trained: RunConfig, monkeypatch: pytest.MonkeyPatch, warm: bool
) -> None:
    found = start_of(monkeypatch)
    config = replace(trained, objects=replace(trained.objects, warm_start=warm), overwrite=True)
    run_pretrain(config, "stage3")
    before = read_backbone_file(RunDir(config.out).backbone("stage1")).state_dict()
    same = [torch.equal(found[f"backbone.{name}"], weight) for name, weight in before.items()]
    assert all(same) if warm else not all(same)
    inputs = json.loads((RunDir(config.out).stage("stage3") / provenance.MANIFEST).read_text())["inputs"]
    assert ("warm_start" in inputs) is warm


def test_a_warm_start_without_stage_1_is_refused(trained: RunConfig, tmp_path: Path) -> None:
    shutil.copytree(trained.out, tmp_path / "run")
    RunDir(tmp_path / "run").backbone("stage1").unlink()
    config = replace(trained, out=tmp_path / "run", objects=replace(trained.objects, warm_start=True), overwrite=True)
    message = (
        r"there is no .*run/stage1/backbone\.safetensors; train it with 'orl pretrain', or .*--objects\.no-warm-start"
    )
    with pytest.raises(FileNotFoundError, match=message):
        run_pretrain(config, "stage3")


def test_later_stages_do_not_apply_the_limit_of_pixels_again(
    trained: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained.out, tmp_path / "run")

    def refuse(path: Path, size_wh: tuple[int, int], max_pixels: int) -> None:
        if max_pixels == decode.MAX_PIXELS:
            raise decode.ImageError(path, "too many pixels")

    monkeypatch.setattr(decode, "_check_size", refuse)
    again = replace(trained.discover, embed_px=40, proposals="grid")
    scan = replace(trained.scan, max_megapixels=150.0)
    config = replace(trained, out=tmp_path / "run", scan=scan, discover=again, overwrite=True)
    run_discover(config)
    run_pretrain(config, "stage3")
    run = RunDir(config.out)
    assert run.backbone("stage3").exists()
    assert not (run.stage("stage3") / "unreadable.csv").exists()


def test_pairs_of_other_rois_or_of_another_stage_1_are_not_trained_on(trained: RunConfig, tmp_path: Path) -> None:
    run = RunDir(Path(shutil.copytree(trained.out, tmp_path / "run")))
    run.config.unlink()  # of whatever test was before
    config = replace(trained, out=run.root)
    rois = tables.load(run.table("rois"))
    columns = {name: np.array(rois.column(name)) for name in rois.column_names}
    tables.begin(run.table("rois"), {**rois.inputs, "min_side": 0.1}, 1, overwrite=True)
    tables.write_shard(run.table("rois"), 0, columns)
    with pytest.raises(ValueError, match=r"roi_embeddings was made from other rois than are in .*'orl discover'"):
        run_pretrain(config, "stage3")
    shutil.rmtree(run.root)
    shutil.copytree(trained.out, run.root)
    run.config.unlink()
    run_pretrain(replace(config, stage1=replace(config.stage1, epochs=1), overwrite=True), "stage1")
    with pytest.raises(ValueError, match="was made with another stage 1 than there is now"):
        run_pretrain(replace(config, stage1=replace(config.stage1, epochs=1)), "stage3")


def test_a_training_from_scratch_deletes_the_scores_of_the_earlier_weights(trained: RunConfig, tmp_path: Path) -> None:
    shutil.copytree(trained.out, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    run.config.unlink()  # of whatever test was before
    files.write_atomically(run.evaluation("svm", "stage1"), "{}")
    config = replace(trained, out=run.root)
    run_pretrain(config, "stage1")
    assert run.evaluation("svm", "stage1").exists(), "the same weights"
    files.write_atomically(run.record, json.dumps(read_record(run) | {"stages": {"stage1": {"elapsed_s": 9000.0}}}))
    run_pretrain(replace(config, stage1=replace(config.stage1, epochs=1), overwrite=True), "stage1")
    assert not run.evaluation("svm", "stage1").exists()
    assert read_record(run)["stages"]["stage1"]["elapsed_s"] < 9000


def test_the_probe_scores_at_its_epochs_and_changes_no_weight(scenes: Path, trained: RunConfig, tmp_path: Path) -> None:
    probing = replace(SHORT, probe_epochs=1)
    config = small(scenes, tmp_path / "run", stage1=probing, eval_data=scenes)
    message = r"labelled data set of --eval-data .*k is 20, but there are 12 training images.*begin with --evaluation"
    with pytest.raises(ValueError, match=message):
        run_pretrain(config, "stage1")
    config = replace(config, evaluation=replace(config.evaluation, knn_neighbours=5))
    run_pretrain(config, "stage1")
    run = RunDir(config.out)
    rows = [json.loads(line) for line in run.metrics("stage1").read_text().splitlines()]
    probed = {row["epoch"]: row["probe_knn_map"] for row in rows if "probe_knn_map" in row}
    crops = {row["epoch"]: row["probe_roi_knn_top1"] for row in rows if "probe_roi_knn_top1" in row}
    assert crops.keys() == probed.keys()
    assert all(0 <= value <= 1 for value in crops.values())
    assert list(probed) == [1.0, 2.0]
    assert all(0 < value < 1 for value in probed.values())
    assert run.backbone("stage1").read_bytes() == RunDir(trained.out).backbone("stage1").read_bytes()


def test_a_probe_without_labels_is_refused(scenes: Path, tmp_path: Path) -> None:
    config = small(scenes, tmp_path / "run", stage1=replace(SHORT, probe_epochs=1))
    with pytest.raises(ValueError, match=r"probe_epochs needs a labelled data set .* --eval-data"):
        run_pretrain(config, "stage1")


@pytest.mark.parametrize("parts", [3, 4])
def test_unequal_or_too_small_accumulation_steps_are_refused(scenes: Path, tmp_path: Path, parts: int) -> None:
    config = small(scenes, tmp_path / "run", stage1=replace(SHORT, accumulation_steps=parts))
    with pytest.raises(
        ValueError, match=rf"the 4 images .* of a batch of 4 cannot be split into {parts} equal gradient"
    ):
        run_pretrain(config, "stage1")


def test_the_learning_rate_scales_with_the_batch_over_all_processes() -> None:
    assert peak_lr(TrainConfig(batch_size=512)) == 0.4
    assert peak_lr(TrainConfig(batch_size=512, accumulation_steps=4)) == 0.4
    assert peak_lr(TrainConfig(batch_size=256)) == 0.2


def test_options_without_effect_on_the_weights_may_change(scenes: Path, tmp_path: Path) -> None:
    one = small(scenes, tmp_path)
    other = replace(SHORT, checkpoint_minutes=1.0, keep_checkpoints=9, accumulation_steps=2)
    assert differences(one, replace(one, stage1=other, wandb="offline", compile=True)) == []
    assert differences(one, replace(one, stage1=replace(SHORT, base_lr=0.9))) == ["stage1.base_lr: was 0.2, now 0.9"]


def test_a_pack_trains_to_the_same_bits_from_disk_from_memory_and_on_the_device(scenes: Path, tmp_path: Path) -> None:
    pack_images(PackOptions(images=scenes, to=tmp_path / "pack", short_side=40, workers=1))
    found = []
    for cache in ("disk", "ram", "device"):
        config = small(tmp_path / "pack", tmp_path / cache, cache=cache)
        run_pretrain(config, "stage1")
        found.append(RunDir(config.out).backbone("stage1").read_bytes())
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("cache", ["ram", "device"])
def test_only_a_pack_is_cached(scenes: Path, tmp_path: Path, cache: str) -> None:
    with pytest.raises(ValueError, match="takes packed images only"):
        run_pretrain(small(scenes, tmp_path / "run", cache=cache), "stage1")
