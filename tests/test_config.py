import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from orl.config import (
    DenseCLConfig,
    RunConfig,
    TrainConfig,
    differences,
    load_config,
    save_config,
)
from orl.recipes import METHODS, RECIPES, demo, with_method


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_with_every_method_goes_to_yaml_and_back(name: str, tmp_path: Path) -> None:
    for method in METHODS:
        config = with_method(RECIPES[name]("images", "runs/x"), method)
        save_config(config, tmp_path / "config.yaml")
        assert load_config(tmp_path / "config.yaml") == config


def test_the_coco_recipe_has_the_numbers_of_the_paper() -> None:
    config = RECIPES["coco"](Path("images"), Path("runs/x"))
    for stage in (config.stage1, config.stage3):
        assert (stage.epochs, stage.batch_size, stage.base_lr * stage.batch_size / 256) == (800, 512, 0.4)
        assert (stage.lr_schedule, stage.drop_last) == ("per-epoch", False)
        assert (stage.warmup_epochs, stage.sgd_momentum, stage.weight_decay, stage.ema_momentum) == (4, 0.9, 1e-4, 0.99)
        assert (stage.hidden_features, stage.projection_features, stage.join_views) == (4096, 256, False)
        assert (stage.views.size_px, stage.views.area_range) == (224, (0.08, 1.0))
        assert (stage.views.blur_probabilities, stage.views.solarise_probabilities) == ((1.0, 0.1), (0.0, 0.2))
    assert (config.network.backbone, config.network.initial_weights) == ("resnet50", "fan-in")
    assert config.objects.roi_size_px == 96
    found = config.discover
    assert (found.num_neighbours, found.top_fraction, found.min_side, found.max_rois) == (10, 0.1, 96, 100)
    assert (found.max_aspect_ratio, found.max_iou, found.embed_px, found.roi_embed_px) == (3, 0.5, 224, 224)
    assert (config.objects.global_weight, config.objects.intra_weight, config.objects.inter_weight) == (1, 1, 1)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("images: a\nout: b\nstage1: {epoch: 3}", r"stage1: unknown key 'epoch'; did you mean 'epochs'\?"),
        ("images: a\nout: b\nstage1: {epochs: 3.5}", r"stage1: epochs must be a whole number, not 3.5"),
        ("images: a\nout: b\nstage1: {epochs: true}", r"epochs must be a whole number, not True"),
        ("images: a\nout: b\ndevice: tpu", r"device must be one of auto, cpu, cuda, not 'tpu'"),
        (
            "images: a\nout: b\nstage1: {views: {area_range: [0.1]}}",
            r"area_range must be a list of 2 values, not \[0.1\]",
        ),
        ("images: a\nout: b\nstage1: {views: 3}", r"views must be a mapping of config fields, not 3"),
        ("images: a", r"lacks out"),
        ("- 1", r"holds list, not a mapping"),
        ("a: [", r"is not YAML"),
        ("seed: 1\nout: x\nseed: 2\n", r"is not YAML: the key 'seed' is in line 1 and again in line 3"),
        ("images: a\nout: b\nstage1: {epochs: 0}", r"epochs must be at least 1, not 0"),
        ("images: a\nout: b\nobjects: {jitter_min_iou: 1.5}", r"jitter_min_iou must be in \[0, 1\], not 1.5"),
        ("images: a\nout: b\nobjects: {roi_size_px: 4}", r"roi_size_px must be at least 8, not 4"),
        ("images: a\nout: b\nobjects: {intra_weight: -1.0}", r"intra_weight must be 0 or more, not -1.0"),
        (
            "images: a\nout: b\nobjects: {global_weight: 0, intra_weight: 0, inter_weight: 0}",
            r"one of global_weight, intra_weight, inter_weight must be above 0",
        ),
        ("images: a\nout: b\nevaluation: {size_px: 0}", r"size_px must be at least 8, not 0"),
        ("images: a\nout: b\nevaluation: {knn_neighbours: 0}", r"knn_neighbours must be at least 1, not 0"),
        ("images: a\nout: b\nevaluation: {shots: [1, 0]}", r"shots must be all at least 1, not \(1, 0\)"),
        ("images: a\nout: b\nscan: {min_side_px: 0}", r"min_side_px must be at least 1, not 0"),
        (
            "images: a\nout: b\nscan: {max_rejected_fraction: 2.0}",
            r"max_rejected_fraction must be in \[0, 1\], not 2.0",
        ),
        ("images: a\nout: b\nsplit: 7", r"split must be text, not 7"),
        ("images: 3\nout: b", r"images must be a path, not 3"),
        ("images: a\nout: b\ncompile: 1", r"compile must be true or false, not 1"),
        (
            "images: a\nout: b\nmethod: {name: simsiam}",
            r"method: name must be one of byol, .*, not 'simsiam'",
        ),
        ("images: a\nout: b\nmethod: {temperature: 0.1}", r"method: unknown key 'temperature'; there are none"),
        ("images: a\nout: b\nmethod: {name: simclr, queue_size: 8}", r"method: unknown key 'queue_size'"),
        ("images: a\nout: b\nmethod: {name: selfemd, dense_weight: 0}", r"dense_weight must be above 0 and at most 1"),
        ("images: a\nout: b\nscan: {max_megapixels: .inf}", r"max_megapixels must be a finite number, not inf"),
        ("images: a\nout: b\nstage1: {views: {jitter: [.nan, 0, 0, 0]}}", r"jitter must be "),
        ("images: a\nout: b\nseed: -1", r"seed must be 0 or more, not -1"),
        (f"images: a\nout: b\nseed: {10**30}", rf"seed must be at most {2**63 - 1}, not {10**30}"),
        (f"images: a\nout: b\nstage3: {{epochs: {10**30}}}", rf"epochs must be at most {10**9}, not {10**30}"),
        ("images: a\nout: b\ndiscover: {embed_px: 20000}", r"embed_px must be at most 16384, not 20000"),
        ("images: a\nout: b\nstage1: {base_lr: 1.0e+300}", r"base_lr must be at most 1000000000, not 1e\+300"),
        ("images: a\nout: b\nworkers: -1", r"workers must be 0 or more, not -1"),
        ("images: a\nout: b\ndiscover: {top_fraction: 2.0}", r"top_fraction must be above 0 and at most 1, not 2.0"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_wrong(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        load_config(tmp_path / "c.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml"):
        load_config(tmp_path / "nothing.yaml")


def test_differences_name_what_changes_results_and_nothing_else() -> None:
    old = RECIPES["demo"](Path("images"), Path("a"))
    new = replace(old, out=Path("b"), workers=9, overwrite=True, stage1=TrainConfig(epochs=3))
    lines = differences(old, new)
    assert f"stage1.epochs: was {old.stage1.epochs}, now 3" in lines
    assert all(line.startswith("stage1.") for line in lines)


def test_giving_a_labelled_set_later_is_no_difference() -> None:
    old = RunConfig(images=Path("images"), out=Path("a"))
    assert differences(old, replace(old, eval_data=Path("voc"))) == []
    assert differences(replace(old, eval_data=Path("voc")), replace(old, eval_data=Path("coco"))) != []


def test_gradient_accumulation_is_free_except_for_simclr_whose_negatives_it_changes() -> None:
    for name in METHODS:
        config = with_method(demo(Path("images"), Path("run")), name)
        parts = replace(config, stage1=replace(config.stage1, accumulation_steps=2))
        changed = ["stage1.accumulation_steps: was 1, now 2"] if name == "simclr" else []
        assert differences(config, parts) == changed


def test_differences_between_two_methods_name_the_fields_of_both() -> None:
    config = demo("images", "run")
    assert config.stage1.drop_last
    changed = differences(config, replace(config, method=DenseCLConfig()))
    assert "method.name: was byol, now densecl" in changed
    assert "method.queue_size: was None, now 65536" in changed
    assert "method.queue_size: was 65536, now None" in differences(replace(config, method=DenseCLConfig()), config)


def test_a_queue_needs_complete_batches() -> None:
    config = with_method(RECIPES["coco"]("images", "run"), "mocov2")
    with pytest.raises(ValueError, match=r"stage1\.drop_last must be true for method mocov2"):
        replace(config, stage1=replace(config.stage1, drop_last=False))


UNCHECKED = """
from dataclasses import replace
from pathlib import Path
from orl.config import EvaluationConfig, NetworkConfig, RunConfig, TrainConfig
from orl.recipes import demo, with_method

config = RunConfig(images="images", out="~/x")
assert (config.images, config.out) == (Path("images"), Path("~/x").expanduser())
assert EvaluationConfig(shots=[1, 2]).shots == (1, 2)
assert repr(TrainConfig(warmup_epochs=4).warmup_epochs) == "4.0"
for make in (
    lambda: NetworkConfig(backbone="convnext_tiny"),
    lambda: NetworkConfig(backbone="resnet51"),
    lambda: replace(config, method="simclr"),
    lambda: with_method(config, "mocov3"),
):
    try:
        make()
    except ValueError as error:
        print(error)
"""


def test_values_are_converted_or_refused_when_a_config_is_made() -> None:
    # Another process, since the tests check the types of all arguments first.
    done = subprocess.run([sys.executable, "-c", UNCHECKED], capture_output=True, text=True, check=True)
    names = "resnet10, resnet18, resnet34, resnet50, resnet101, wide_resnet50_2"
    assert done.stdout.splitlines() == [
        f"backbone must be one of {names}, not 'convnext_tiny'",
        f"backbone must be one of {names}, not 'resnet51'; did you mean 'resnet50'?",
        "method must be a ByolConfig or MoCoV2Config or SimCLRConfig or DenseCLConfig or SelfEMDConfig, not 'simclr'",
        "method must be one of byol, mocov2, simclr, densecl, selfemd, not 'mocov3'; did you mean 'mocov2'?",
    ]


OLD_CONFIG = """
images: images
out: runs/x
transfer_data: null
hold: disk
scan: {max_rejected_share: 0.1}
method: {name: byol, temperature: null, queue_size: null}
discover: {backbone: null, pair_share: 0.1}
transfer: {size_px: 96}
"""


def test_a_config_of_version_01_is_refused_with_the_new_names_of_its_fields(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(OLD_CONFIG)
    with pytest.raises(ValueError, match=r"was written by orl 0\.1, whose runs cannot be resumed") as error:
        load_config(tmp_path / "config.yaml")
    renamed = [
        "transfer_data is now eval_data",
        "hold is now cache",
        "scan.max_rejected_share is now scan.max_rejected_fraction",
        "discover.backbone is now discover.feature_extractor",
        "discover.pair_share is now discover.top_fraction",
        "transfer is now evaluation",
    ]
    assert ", ".join(renamed) in str(error.value)
