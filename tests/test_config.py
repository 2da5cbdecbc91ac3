from dataclasses import replace
from pathlib import Path

import pytest

from orl.config import RunConfig, TrainConfig, differences, load_config, save_config
from orl.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_goes_to_yaml_and_back(name: str, tmp_path: Path) -> None:
    config = RECIPES[name](Path("images"), Path("runs/x"))
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_the_coco_recipe_has_the_numbers_of_the_paper() -> None:
    config = RECIPES["coco"](Path("images"), Path("runs/x"))
    for stage in (config.stage1, config.stage3):
        assert (stage.epochs, stage.batch_size, stage.base_lr * stage.batch_size / 256) == (800, 512, 0.4)
        assert (stage.warmup_epochs, stage.sgd_momentum, stage.weight_decay, stage.ema_momentum) == (4, 0.9, 1e-4, 0.99)
        assert (stage.hidden_features, stage.projection_features, stage.join_views) == (4096, 256, False)
        assert (stage.views.size_px, stage.views.area_range) == (224, (0.08, 1.0))
        assert (stage.views.blur_probabilities, stage.views.solarise_probabilities) == ((1.0, 0.1), (0.0, 0.2))
    assert (config.network.backbone, config.objects.roi_size_px) == ("resnet50", 96)
    found = config.discover
    assert (found.num_neighbours, found.top_fraction, found.min_side, found.max_rois) == (10, 0.1, 96, 100)
    assert (found.max_aspect_ratio, found.max_iou, found.embed_px, found.roi_embed_px) == (3, 0.5, 224, 224)
    assert (config.objects.global_weight, config.objects.intra_weight, config.objects.inter_weight) == (1, 1, 1)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("images: a\nout: b\nstage1: {epoch: 3}", r"stage1: unknown key 'epoch'; did you mean 'epochs'\?"),
        ("images: a\nout: b\nstage1: {epochs: 3.5}", r"epochs: 3.5 is not of type int"),
        ("images: a\nout: b\nstage1: {epochs: true}", r"epochs: True is not of type int"),
        ("images: a\nout: b\ndevice: tpu", r"device: 'tpu' is none of 'auto', 'cpu', 'cuda'"),
        ("images: a\nout: b\nstage1: {views: {area_range: [0.1]}}", r"area_range: \[0.1\] is not a list of 2 values"),
        ("images: a\nout: b\nstage1: {views: 3}", r"views must be a mapping of settings, not 3"),
        ("images: a", r"lacks out"),
        ("- 1", r"holds list, not a mapping"),
        ("a: [", r"is not YAML"),
        ("images: a\nout: b\nstage1: {epochs: 0}", r"epochs must be at least 1, not 0"),
        ("images: a\nout: b\nobjects: {jitter_min_iou: 1.5}", r"jitter_min_iou must be in \[0, 1\], not 1.5"),
        ("images: a\nout: b\nobjects: {roi_size_px: 4}", r"roi_size_px must be at least 8, not 4"),
        ("images: a\nout: b\nobjects: {intra_weight: -1.0}", r"intra_weight must be 0 or more, not -1.0"),
        (
            "images: a\nout: b\nobjects: {global_weight: 0, intra_weight: 0, inter_weight: 0}",
            r"one of global_weight, intra_weight, inter_weight must be above 0",
        ),
        ("images: a\nout: b\ntransfer: {size_px: 0}", r"size_px must be at least 8, not 0"),
        ("images: a\nout: b\ntransfer: {knn_neighbours: 0}", r"knn_neighbours must be at least 1, not 0"),
        ("images: a\nout: b\ntransfer: {shots: [1, 0]}", r"shots must be all at least 1, not \(1, 0\)"),
        ("images: a\nout: b\nscan: {min_side_px: 0}", r"min_side_px must be at least 1, not 0"),
        (
            "images: a\nout: b\nscan: {max_rejected_fraction: 2.0}",
            r"max_rejected_fraction must be in \[0, 1\], not 2.0",
        ),
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
