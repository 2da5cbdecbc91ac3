from dataclasses import replace
from pathlib import Path

import pytest

from orl.ablations import variants as module
from orl.ablations.variants import ABLATIONS, BaseRun, Variant
from orl.config import RunConfig, differences
from orl.recipes import demo


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BaseRun:
    monkeypatch.setattr(module, "compute_matched_epochs", lambda config: 51)
    monkeypatch.setattr(module, "labelled_boxes", lambda config: Path("boxes.json"))
    monkeypatch.setattr(module, "random_feature_extractor", lambda config: Path("random.safetensors"))
    return BaseRun(config=demo(Path("images"), tmp_path / "seed0" / "base"), outside=Path("strong.pth"))


def changes(base: BaseRun, variant: Variant) -> list[str]:
    return differences(base.config, replace(variant.config, out=base.config.out))


@pytest.mark.parametrize("name", ABLATIONS)
def test_variants_have_own_folders_and_one_is_the_reference(name: str, base: BaseRun) -> None:
    found = ABLATIONS[name].variants(base)
    labels = [variant.label for variant in found]
    assert len(set(labels)) == len(labels) > 1
    assert ABLATIONS[name].reference in labels
    changed = [variant for variant in found if variant.config != base.config]
    folders = [variant.config.out for variant in changed]
    assert len(set(folders)) == len(folders)
    assert all(folder.parent == base.config.out.parent and folder != base.config.out for folder in folders)
    assert all(variant.config.overwrite for variant in changed), "stale tables of the base run are rebuilt"
    assert not base.config.overwrite


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("neighbours", {"K = 1": ["discover.num_neighbours: was 10, now 1"], "K = 10": []}),
        ("top-fraction", {"50% kept": ["discover.top_fraction: was 0.1, now 0.5"], "10% kept": []}),
        ("jitter", {"no jitter": ["objects.jitter_min_iou: was 0.5, now 1.0"], "IoU above 0.5": []}),
        ("losses", {"global + inter": ["objects.intra_weight: was 1.0, now 0.0"], "global + intra + inter": []}),
        ("proposals", {"grid": ["discover.proposals: was selective-search, now grid"], "selective search": []}),
        ("stages", {"BYOL, compute-matched": ["stage1.epochs: was 20, now 51"], "BYOL, image-matched": [], "ORL": []}),
    ],
)
def test_a_variant_changes_only_the_field_in_its_label(
    name: str, expected: dict[str, list[str]], base: BaseRun
) -> None:
    found = {variant.label: variant for variant in ABLATIONS[name].variants(base)}
    assert {label: changes(base, found[label]) for label in expected} == expected


def test_orl_with_a_warm_start_is_compared_with_byol_from_the_same_start(base: BaseRun) -> None:
    warm = replace(base.config, objects=replace(base.config.objects, warm_start=True))
    found = {variant.label: variant for variant in ABLATIONS["stages"].variants(BaseRun(config=warm))}
    assert {label: (variant.backbone, changes(BaseRun(config=warm), variant)) for label, variant in found.items()} == {
        "random weights": ("random", []),
        "BYOL, start of ORL": ("stage1", []),
        "BYOL, image-matched": (
            "stage3",
            ["objects.intra_weight: was 1.0, now 0.0", "objects.inter_weight: was 1.0, now 0.0"],
        ),
        "BYOL, compute-matched": ("stage1", ["stage1.epochs: was 20, now 51"]),
        "ORL": ("stage3", []),
    }


def test_feature_extractors_are_random_weights_stage_1_and_weights_from_outside(base: BaseRun) -> None:
    found = {
        variant.label: variant.config.discover.feature_extractor
        for variant in ABLATIONS["feature-extractor"].variants(base)
    }
    assert found == {
        "random weights": Path("random.safetensors"),
        "stage 1": None,
        "outside: strong": Path("strong.pth"),
    }
    without = ABLATIONS["feature-extractor"].variants(replace(base, outside=None))
    assert [variant.label for variant in without] == ["random weights", "stage 1"]


def test_stage_1_is_a_feature_extractor_also_if_the_base_run_uses_another(base: BaseRun) -> None:
    discover = replace(base.config.discover, feature_extractor=Path("other.pth"), architecture="resnet18")
    found = ABLATIONS["feature-extractor"].variants(replace(base, config=replace(base.config, discover=discover)))
    extractors = {
        variant.label: (variant.config.discover.feature_extractor, variant.config.discover.architecture)
        for variant in found
    }
    assert extractors["stage 1"] == (None, None)
    assert extractors["random weights"] == (Path("random.safetensors"), None)


def test_a_variant_keeps_the_config_of_its_base_run(base: BaseRun) -> None:
    config: RunConfig = replace(base.config, seed=7)
    variant = BaseRun(config=config).variant("K = 3", discover={"num_neighbours": 3})
    assert (variant.config.seed, variant.config.discover.num_neighbours) == (7, 3)
    assert replace(variant.config.discover, num_neighbours=10) == config.discover


def test_every_source_of_proposals_can_follow_any_base_run(base: BaseRun) -> None:
    for changes in ({"search_scale": 0.5}, {"proposals": "file", "proposals_file": Path("own.json")}):
        config = replace(base.config, discover=replace(base.config.discover, **changes))
        found = {
            variant.label: variant.config.discover
            for variant in ABLATIONS["proposals"].variants(BaseRun(config=config))
        }
        assert {label: each.proposals for label, each in found.items()} == {
            "selective search": "selective-search",
            "grid": "grid",
            "random boxes": "random",
            "labelled boxes": "file",
        }
        assert found["labelled boxes"].proposals_file == Path("boxes.json")


def test_image_matched_byol_has_the_epochs_of_stage_3(base: BaseRun) -> None:
    shorter = replace(base.config, stage3=replace(base.config.stage3, epochs=7))
    found = {variant.label: variant for variant in ABLATIONS["stages"].variants(BaseRun(config=shorter))}
    variant = found["BYOL, image-matched"]
    assert (variant.backbone, changes(BaseRun(config=shorter), variant)) == ("stage1", ["stage1.epochs: was 20, now 7"])
