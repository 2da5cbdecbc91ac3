"""Judges of photos from a path to the JSON: checked first, embedded once, kept."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.transfer.test_judge import draw_devkit

from orl.transfer import judge
from orl.transfer.place import Place
from orl.transfer.settings import KnnSettings, LowShotSettings, SvmSettings, VocSettings
from orl.transfer.subject import Subject, load_subject
from orl.transfer.tasks import run_knn, run_low_shot, run_svm

SMALL = VocSettings(size_px=32)


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_devkit(tmp_path_factory.mktemp("drawn") / "VOC2007")


@pytest.fixture(scope="module")
def subject() -> Subject:
    return load_subject(Path("random"), "resnet10")


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The title of each embedding that is made."""
    titles, embed = [], judge.embed_photos

    def noted(*arguments: Any, title: str, **others: Any) -> Any:
        titles.append(title)
        return embed(*arguments, title=title, **others)

    monkeypatch.setattr(judge, "embed_photos", noted)
    return titles


def place(folder: Path, task: str, **others: Any) -> Place:
    return Place(**{"result": folder / f"{task}.json", "device": "cpu", "workers": 1, "quiet": True, **others})


def test_three_judges_embed_the_photos_once(
    devkit: Path, subject: Subject, embedded: list[str], tmp_path: Path
) -> None:
    svm = run_svm(subject, devkit, SMALL, SvmSettings(), place(tmp_path, "svm"))
    knn = run_knn(subject, devkit, SMALL, KnnSettings(k=3), place(tmp_path, "knn"))
    shots = LowShotSettings(shots=(1, 2), num_samples=2)
    low_shot = run_low_shot(subject, devkit, SMALL, shots, place(tmp_path, "low-shot"))
    assert embedded == ["embed trainval", "embed test"]
    assert svm["mean_ap"] == knn["mean_ap"] == low_shot["mean_ap"]["2"] == 1.0  # red and blue are told apart
    for task, result in (("svm", svm), ("knn", knn), ("low-shot", low_shot)):
        assert json.loads((tmp_path / f"{task}.json").read_text())["task"] == result["task"] == task
        assert result["departures"] == [
            "32 px, not 224",
            "12 photos to learn from and 12 to be scored, not VOC07's 5,011 and 4,952",
        ]


def test_a_result_is_kept_and_another_size_has_features_of_its_own(
    devkit: Path, subject: Subject, embedded: list[str], tmp_path: Path
) -> None:
    for _ in range(2):
        run_svm(subject, devkit, SMALL, SvmSettings(), place(tmp_path, "svm"))
    assert len(embedded) == 2
    run_svm(subject, devkit, VocSettings(size_px=48), SvmSettings(), place(tmp_path, "svm_48"))
    assert len(embedded) == 4


@pytest.mark.parametrize("solver", ["batched", "liblinear"])
def test_either_solver_is_told(devkit: Path, subject: Subject, tmp_path: Path, solver: Any) -> None:
    result = run_svm(subject, devkit, SMALL, SvmSettings(solver=solver), place(tmp_path, "svm"))
    assert (result["solver"], result["mean_ap"]) == (solver, 1.0)


def test_what_cannot_be_judged_is_refused_before_anything_is_embedded(
    devkit: Path, subject: Subject, embedded: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="k is 20, but there are 12 training photos"):
        run_knn(subject, devkit, SMALL, KnnSettings(), place(tmp_path, "knn"))
    with pytest.raises(ValueError, match=r"96.*--shots"):
        run_low_shot(subject, devkit, SMALL, LowShotSettings(), place(tmp_path, "low-shot"))
    assert embedded == []
