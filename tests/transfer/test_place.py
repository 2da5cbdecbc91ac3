"""A result that is there already: kept, refused or made again."""

from pathlib import Path

import pytest
import torch

from orl.networks.backbones import build_backbone, save_backbone
from orl.tables import StaleTableError
from orl.transfer.place import Place, finished, results_folder, write_result
from orl.transfer.subject import load_subject

MADE_FROM = {"backbone": "abc", "sizes": (1, 2)}


def test_a_result_is_found_again_for_what_it_was_made_from(tmp_path: Path) -> None:
    place = Place(result=tmp_path / "deep" / "svm.json")
    assert finished(place, MADE_FROM) is None
    written = write_result(place, {"task": "svm"}, MADE_FROM)
    assert finished(place, MADE_FROM) == {"task": "svm", "made_from": {"backbone": "abc", "sizes": [1, 2]}}
    assert written["task"] == "svm"


def test_a_result_of_something_else_is_refused_with_what_differs(tmp_path: Path) -> None:
    place = Place(result=tmp_path / "svm.json")
    write_result(place, {"task": "svm"}, MADE_FROM)
    with pytest.raises(StaleTableError, match=r"svm\.json was made from other weights or settings \(backbone\)"):
        finished(place, {**MADE_FROM, "backbone": "def"})
    again = Place(result=place.result, overwrite=True)
    assert finished(again, {**MADE_FROM, "backbone": "def"}) is None


def test_a_torn_file_counts_as_none(tmp_path: Path) -> None:
    place = Place(result=tmp_path / "svm.json")
    place.result.write_text('{"task": "sv')
    assert finished(place, MADE_FROM) is None


def test_results_of_two_files_in_one_folder_go_to_two_folders(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_backbone(build_backbone("resnet10"), tmp_path / f"{name}.safetensors")
    folders = [results_folder(tmp_path / f"{name}.safetensors") for name in ("one", "two")]
    assert folders == [tmp_path / "one_transfer", tmp_path / "two_transfer"]
    assert results_folder(Path("random"), "resnet18") == Path("transfer/random_resnet18")
    with pytest.raises(FileNotFoundError, match="nothing at"):
        results_folder(tmp_path / "none.safetensors")


def test_random_weights_depend_on_the_seed_alone_and_leave_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (load_subject(Path("random"), "resnet10", seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one.network.conv1.weight, same.network.conv1.weight)
    assert not torch.equal(one.network.conv1.weight, other.network.conv1.weight)
    assert one.digest == same.digest != other.digest
    assert not one.network.training


def test_the_digest_is_of_the_weights_and_not_of_their_path(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet10")
    for name in ("one", "two"):
        save_backbone(backbone, tmp_path / f"{name}.safetensors")
    one, two = (load_subject(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert one.digest == two.digest
    assert one.label != two.label
