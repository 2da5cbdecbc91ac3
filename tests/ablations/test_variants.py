from dataclasses import replace
from pathlib import Path

import pytest

from orl.ablations import variants as variants
from orl.ablations.variants import ABLATIONS, Base, Variant
from orl.config import RunConfig, differences
from orl.recipes import demo


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    monkeypatch.setattr(variants, "epochs_of_equal_compute", lambda config: 51)
    monkeypatch.setattr(variants, "labelled_boxes", lambda config: Path("boxes.json"))
    monkeypatch.setattr(variants, "random_feature_extractor", lambda config: Path("random.safetensors"))
    return Base(config=demo(Path("images"), tmp_path / "seed0" / "base"), outside=Path("strong.pth"))


def changes(base: Base, variant: Variant) -> list[str]:
    return differences(base.config, replace(variant.config, out=base.config.out))


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_arms_of_a_study_have_own_folders_and_one_is_the_reference(name: str, base: Base) -> None:
    found = ABLATIONS[name].variants(base)
    labels = [variant.label for variant in found]
    assert len(set(labels)) == len(labels) > 1
    assert ABLATIONS[name].reference in labels
    changed = [variant for variant in found if variant.config != base.config]
    folders = [variant.config.out for variant in changed]
    assert len(set(folders)) == len(folders)
    assert all(folder.parent == base.config.out.parent and folder != base.config.out for folder in folders)
    assert all(variant.config.overwrite for variant in changed), "what the base shared and does not fit is rebuilt"
    assert not base.config.overwrite


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("neighbours", {"K = 1": ["discover.num_neighbours: was 10, now 1"], "K = 10": []}),
        ("top-fraction", {"50% kept": ["discover.top_fraction: was 0.1, now 0.5"], "10% kept": []}),
        ("jitter", {"no jitter": ["objects.jitter_min_iou: was 0.5, now 1.0"], "IoU above 0.5": []}),
        ("losses", {"global + inter": ["objects.intra_weight: was 1.0, now 0.0"], "global + intra + inter": []}),
        ("proposals", {"grid": ["discover.proposals: was selective-search, now grid"], "selective search": []}),
        ("stages", {"BYOL, as much compute": ["stage1.epochs: was 20, now 51"], "BYOL, as many images": [], "ORL": []}),
    ],
)
def test_an_arm_changes_what_its_label_says_and_nothing_else(name: str, told: dict[str, list[str]], base: Base) -> None:
    found = {variant.label: variant for variant in ABLATIONS[name].variants(base)}
    assert {label: changes(base, found[label]) for label in told} == told


def test_a_warm_start_is_held_against_byol_that_starts_there_and_sees_as_many_images(base: Base) -> None:
    warm = replace(base.config, objects=replace(base.config.objects, warm_start=True))
    found = {variant.label: variant for variant in ABLATIONS["stages"].variants(Base(config=warm))}
    assert {label: (variant.backbone, changes(Base(config=warm), variant)) for label, variant in found.items()} == {
        "random weights": ("random", []),
        "BYOL, where ORL starts": ("stage1", []),
        "BYOL, as many images": (
            "stage3",
            ["objects.intra_weight: was 1.0, now 0.0", "objects.inter_weight: was 1.0, now 0.0"],
        ),
        "BYOL, as much compute": ("stage1", ["stage1.epochs: was 20, now 51"]),
        "ORL": ("stage3", []),
    }


def test_priors_are_random_weights_stage_1_and_weights_from_outside(base: Base) -> None:
    found = {
        variant.label: variant.config.discover.feature_extractor
        for variant in ABLATIONS["feature_extractor"].variants(base)
    }
    assert found == {
        "random weights": Path("random.safetensors"),
        "stage 1": None,
        "outside: strong": Path("strong.pth"),
    }
    without = ABLATIONS["feature_extractor"].variants(replace(base, outside=None))
    assert [variant.label for variant in without] == ["random weights", "stage 1"]


def test_stage_1_is_the_prior_of_its_arm_also_where_the_base_looks_with_other_weights(base: Base) -> None:
    discover = replace(base.config.discover, feature_extractor=Path("other.pth"), architecture="resnet18")
    found = ABLATIONS["feature_extractor"].variants(replace(base, config=replace(base.config, discover=discover)))
    told = {
        variant.label: (variant.config.discover.feature_extractor, variant.config.discover.architecture)
        for variant in found
    }
    assert told["stage 1"] == (None, None)
    assert told["random weights"] == (Path("random.safetensors"), None)


def test_an_arm_keeps_the_settings_of_its_base(base: Base) -> None:
    config: RunConfig = replace(base.config, seed=7)
    variant = Base(config=config).variant("K = 3", discover={"num_neighbours": 3})
    assert (variant.config.seed, variant.config.discover.num_neighbours) == (7, 3)
    assert replace(variant.config.discover, num_neighbours=10) == config.discover


def test_proposals_of_every_kind_can_follow_a_base_of_any(base: Base) -> None:
    for changes in ({"search_scale": 0.5}, {"proposals": "file", "proposals_file": Path("own.json")}):
        config = replace(base.config, discover=replace(base.config.discover, **changes))
        found = {
            variant.label: variant.config.discover for variant in ABLATIONS["proposals"].variants(Base(config=config))
        }
        assert {label: settings.proposals for label, settings in found.items()} == {
            "selective search": "selective-search",
            "grid": "grid",
            "random boxes": "random",
            "labelled boxes": "file",
        }
        assert found["labelled boxes"].proposals_file == Path("boxes.json")


def test_byol_of_as_many_images_has_the_epochs_of_stage_3(base: Base) -> None:
    shorter = replace(base.config, stage3=replace(base.config.stage3, epochs=7))
    found = {variant.label: variant for variant in ABLATIONS["stages"].variants(Base(config=shorter))}
    variant = found["BYOL, as many images"]
    assert (variant.backbone, changes(Base(config=shorter), variant)) == ("stage1", ["stage1.epochs: was 20, now 7"])
