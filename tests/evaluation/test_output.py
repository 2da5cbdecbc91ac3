"""An existing result is kept, refused or replaced; networks are identified by their digests."""

from pathlib import Path

import pytest
import torch

from orl.evaluation.evaluated_backbone import load_evaluated_backbone
from orl.evaluation.output import EvaluationOutput, finished, results_folder, write_result
from orl.networks.backbones import build_backbone, save_backbone
from orl.provenance import StaleResultError

INPUTS = {"backbone": "abc", "sizes": (1, 2)}


def test_a_result_is_read_for_the_inputs_that_it_was_made_from(tmp_path: Path) -> None:
    output = EvaluationOutput(result=tmp_path / "deep" / "svm.json")
    assert finished(output, INPUTS) is None
    written = write_result(output, {"task": "svm"}, INPUTS)
    assert finished(output, INPUTS) == {"task": "svm", "inputs": {"backbone": "abc", "sizes": [1, 2]}}
    assert written["task"] == "svm"


def test_a_result_of_other_inputs_is_refused_with_the_difference(tmp_path: Path) -> None:
    output = EvaluationOutput(result=tmp_path / "svm.json")
    write_result(output, {"task": "svm"}, INPUTS)
    with pytest.raises(StaleResultError, match=r"svm\.json was made from other weights or options \(backbone\)"):
        finished(output, {**INPUTS, "backbone": "def"})
    again = EvaluationOutput(result=output.result, overwrite=True)
    assert finished(again, {**INPUTS, "backbone": "def"}) is None


@pytest.mark.parametrize("content", ["my notes", '{"task": "sv', "[1, 2]", '{"inputs": "x"}', "{}", "[" * 9999])
def test_a_file_that_is_no_result_is_not_overwritten(tmp_path: Path, content: str) -> None:
    output = EvaluationOutput(result=tmp_path / "notes.json")
    output.result.write_text(content)
    with pytest.raises(ValueError, match=r"notes\.json exists and is not a result .*--overwrite"):
        finished(output, INPUTS)
    assert output.result.read_text() == content
    assert finished(EvaluationOutput(result=output.result, overwrite=True), INPUTS) is None


@pytest.mark.parametrize("name", ["result", "linear_0.1", "weights.pth"])
def test_another_suffix_than_json_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}; give a name that ends in \.json"):
        EvaluationOutput(result=tmp_path / name)
    assert EvaluationOutput(result=tmp_path / f"{name}.json").folder == tmp_path / name


def test_results_of_two_files_in_one_folder_go_to_two_folders(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_backbone(build_backbone("resnet10"), tmp_path / f"{name}.safetensors")
    folders = [results_folder(tmp_path / f"{name}.safetensors") for name in ("one", "two")]
    assert folders == [tmp_path / "one_evaluation", tmp_path / "two_evaluation"]
    assert results_folder(Path("random"), "resnet18") == Path("evaluation/random_resnet18")
    with pytest.raises(FileNotFoundError, match="nothing at"):
        results_folder(tmp_path / "none.safetensors")


def test_random_weights_depend_on_the_seed_alone_and_leave_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (load_evaluated_backbone(Path("random"), "resnet10", seed) for seed in (1, 1, 2))
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
    one, two = (load_evaluated_backbone(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert one.digest == two.digest
    assert one.label != two.label


def test_one_file_as_two_networks_has_two_digests(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    torch.save(timm.create_model("efficientnet_lite0", pretrained=False).state_dict(), tmp_path / "lite0.pth")
    # They differ in their padding and in how images are normalised, and have the same weights.
    names = ("timm/efficientnet_lite0", "timm/tf_efficientnet_lite0")
    one, two = (load_evaluated_backbone(tmp_path / "lite0.pth", name) for name in names)
    assert one.digest != two.digest
