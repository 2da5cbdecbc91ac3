"""Judges of images from a path to the JSON: checked first, embedded once, kept."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from orl.evaluation.configs import KnnSettings, LowShotSettings, SvmSettings, VocSettings
from PIL import Image
from tests.evaluation.test_voc07 import draw_devkit

from orl.evaluation import voc07 as judge
from orl.evaluation.evaluated_backbone import EvaluatedBackbone, load_evaluated_backbone
from orl.evaluation.evaluations import run_knn, run_low_shot, run_svm
from orl.evaluation.knn import score_knn
from orl.evaluation.low_shot import score_low_shot
from orl.evaluation.output import EvaluationOutput
from orl.evaluation.svm import score_svm
from orl.evaluation.voc_dataset import VocDataset, list_labelled
from orl.provenance import StaleResultError

SMALL = VocSettings(size_px=32)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_devkit(tmp_path_factory.mktemp("drawn") / "VOC2007")


@pytest.fixture
def devkit(drawn: Path, tmp_path: Path) -> Path:
    """One that a test may spoil."""
    return Path(shutil.copytree(drawn, tmp_path / "VOC2007"))


@pytest.fixture(scope="module")
def subject() -> EvaluatedBackbone:
    return load_evaluated_backbone(Path("random"), "resnet10")


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The title of each embedding that is made."""
    titles, embed = [], judge.embed_images

    def noted(*arguments: Any, title: str, **others: Any) -> Any:
        titles.append(title)
        return embed(*arguments, title=title, **others)

    monkeypatch.setattr(judge, "embed_images", noted)
    return titles


def images(devkit: Path, settings: VocSettings = SMALL) -> VocDataset:
    return VocDataset(devkit, settings, quiet=True)


def place(folder: Path, task: str, **others: Any) -> EvaluationOutput:
    return EvaluationOutput(
        **{"result": folder / f"{task}.json", "device": "cpu", "workers": 1, "quiet": True, **others}
    )


def test_three_judges_embed_the_images_once_and_score_those_features(
    devkit: Path, subject: EvaluatedBackbone, embedded: list[str], tmp_path: Path
) -> None:
    # Of every class some images have the other's colour, so that no judge is right about all of them.
    generator = np.random.default_rng(1)
    for path in sorted((devkit / "JPEGImages").iterdir())[::5]:
        Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
    both = images(devkit)
    svm = run_svm(subject, both, SvmSettings(), place(tmp_path, "svm"))
    knn = run_knn(subject, both, KnnSettings(k=3), place(tmp_path, "knn"))
    shots = LowShotSettings(shots=(1, 2), num_samples=2)
    low_shot = run_low_shot(subject, both, shots, place(tmp_path, "low-shot"))
    assert embedded == ["embed trainval", "embed test"]
    train, test = both.readable
    features = judge.embed_labelled(subject.network, train, test, size_px=32, quiet=True)
    own = (features.train_features, train.labels, features.test_features, test.labels, train.classes)
    assert svm["mean_ap"] == score_svm(*own, quiet=True).mean_ap < 1
    assert knn["mean_ap"] == score_knn(*own, k=3, quiet=True).mean_ap < 1
    assert low_shot["mean_ap"] == score_low_shot(*own, shots=(1, 2), num_samples=2, quiet=True).mean_ap
    for task, result in (("svm", svm), ("knn", knn), ("low-shot", low_shot)):
        assert json.loads((tmp_path / f"{task}.json").read_text())["task"] == result["task"] == task
        assert result["protocol_deviations"] == [
            "resnet10, not resnet50",
            "32 px, not 224",
            "2 classes, not 20",
            "12 images to learn from and 12 to be scored, not VOC07's 5,011 and 4,952",
            *(["num_samples 2, not 5"] if task == "low-shot" else []),
        ]


def test_a_result_is_kept_and_another_size_has_features_of_its_own(
    drawn: Path, subject: EvaluatedBackbone, embedded: list[str], tmp_path: Path
) -> None:
    for _ in range(2):
        run_svm(subject, images(drawn), SvmSettings(), place(tmp_path, "svm"))
    assert len(embedded) == 2
    run_svm(subject, images(drawn, VocSettings(size_px=48)), SvmSettings(), place(tmp_path, "svm_48"))
    assert len(embedded) == 4


def test_a_seed_that_decides_nothing_makes_nothing_stale(
    drawn: Path, subject: EvaluatedBackbone, tmp_path: Path
) -> None:
    for task, run, settings in (("svm", run_svm, SvmSettings()), ("knn", run_knn, KnnSettings(k=3))):
        first, other = (run(subject, images(drawn), settings, place(tmp_path, task, seed=seed)) for seed in (0, 1))
        assert first == other
    run_svm(subject, images(drawn), SvmSettings(solver="liblinear"), place(tmp_path, "drawn"))
    with pytest.raises(StaleResultError, match=r"\(seed\)"):
        run_svm(subject, images(drawn), SvmSettings(solver="liblinear"), place(tmp_path, "drawn", seed=1))


def test_the_same_images_elsewhere_have_the_same_result(
    drawn: Path, devkit: Path, subject: EvaluatedBackbone, embedded: list[str], tmp_path: Path
) -> None:
    results = [run_knn(subject, images(root), KnnSettings(k=3), place(tmp_path, "knn")) for root in (drawn, devkit)]
    assert results[0] == results[1]
    assert len(embedded) == 2


def test_another_image_of_the_same_name_makes_the_result_stale(
    devkit: Path, subject: EvaluatedBackbone, tmp_path: Path
) -> None:
    run_knn(subject, images(devkit), KnnSettings(k=3), place(tmp_path, "knn"))
    Image.new("RGB", (30, 30)).save(devkit / "JPEGImages" / "test00.jpg")
    with pytest.raises(StaleResultError, match=r"knn\.json was made from other weights or settings \(images\)"):
        run_knn(subject, images(devkit), KnnSettings(k=3), place(tmp_path, "knn"))
    # Features of it are not those of the old image.
    run_knn(subject, images(devkit), KnnSettings(k=3), place(tmp_path, "knn", overwrite=True))


def test_two_backbones_may_write_into_one_folder(
    drawn: Path, subject: EvaluatedBackbone, embedded: list[str], tmp_path: Path
) -> None:
    other = load_evaluated_backbone(Path("random"), "resnet10", seed=1)
    for name, each in (("one", subject), ("other", other)):
        run_knn(each, images(drawn), KnnSettings(k=3), place(tmp_path, f"knn_{name}"))
    assert len(embedded) == 4
    assert len(list(tmp_path.glob("features_*"))) == 2


@pytest.mark.parametrize("solver", ["batched", "liblinear"])
def test_either_solver_is_told(drawn: Path, subject: EvaluatedBackbone, tmp_path: Path, solver: Any) -> None:
    result = run_svm(subject, images(drawn), SvmSettings(solver=solver), place(tmp_path, "svm"))
    assert (result["solver"], result["mean_ap"]) == (solver, 1.0)
    assert not any("solver" in line for line in result["protocol_deviations"])


def test_a_class_without_images_enough_is_told_and_departs_from_the_protocol(
    devkit: Path, subject: EvaluatedBackbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split in ("trainval", "test"):
        signs = [1, 1, *[-1] * 10]
        lines = [f"{split}{index:02} {sign}" for index, sign in enumerate(signs)]
        (devkit / "ImageSets" / "Main" / f"cow_{split}.txt").write_text("\n".join(lines))
    (devkit / "JPEGImages" / "test05.jpg").write_bytes(b"broken")
    result = run_svm(subject, images(devkit), SvmSettings(), place(tmp_path, "svm"))
    assert list(result["skipped"]) == ["cow"]
    assert "class 'cow' is left out: 2 positive, 10 negative training images" in caplog.text
    assert (
        "1 of 12 images of split 'test' cannot be read and are left out, such as JPEGImages/test05.jpg" in caplog.text
    )
    assert result["protocol_deviations"][-2:] == ["1 classes without a score: cow", "1 images that cannot be read"]


@pytest.mark.parametrize(
    ("run", "settings", "message"),
    [
        (run_knn, KnnSettings(), "k is 20, but there are 12 training images"),
        (run_knn, KnnSettings(k=3, temperature=0.0), "temperature is 0"),
        (run_low_shot, LowShotSettings(), "96 shots need .*--shots of at most 6"),
        (run_low_shot, LowShotSettings(shots=(1,), num_samples=0), "num_samples is 0"),
    ],
)
def test_settings_that_the_images_do_not_allow_are_refused_before_anything_is_embedded(
    drawn: Path, subject: EvaluatedBackbone, embedded: list[str], tmp_path: Path, run: Any, settings: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(subject, images(drawn), settings, place(tmp_path, "result"))
    assert embedded == []


def relabel(devkit: Path, split: str, signs: dict[str, list[int]]) -> None:
    """Images `<split>00` and on, with these labels of each class; other classes have none."""
    lists = devkit / "ImageSets" / "Main"
    for path in lists.glob(f"*_{split}.txt"):
        path.unlink()
    for name, own in signs.items():
        (lists / f"{name}_{split}.txt").write_text("\n".join(f"{split}{i:02} {sign}" for i, sign in enumerate(own)))


ALL, NONE, HALF = [1] * 12, [-1] * 12, [1, -1] * 6


@pytest.mark.parametrize(
    ("train", "test", "run", "settings", "message"),
    [
        (
            {"cat": ALL},
            {"cat": ALL},
            *(run_knn, KnnSettings(k=3)),
            "'trainval' of .* has no class that some .* show and others do not; its images show cat: there is nothing",
        ),
        (
            {"cat": HALF, "dog": HALF},
            {"cat": ALL, "dog": NONE},
            *(run_svm, SvmSettings()),
            "split 'test' of .* its images show cat: there is nothing to tell apart",
        ),
        (
            {"cat": HALF},
            {"cat": HALF},
            *(run_low_shot, LowShotSettings(shots=(1,))),
            "the only class is cat: .*give a set of two classes",
        ),
        (
            {"cat": [1, *[-1] * 11]},
            {"cat": HALF},
            *(run_svm, SvmSettings()),
            "none of 1 classes can be scored.*1 positive, 11 negative training images, fewer than 3",
        ),
    ],
)
def test_labels_that_tell_nothing_apart_are_refused_before_anything_is_embedded(
    devkit: Path,
    subject: EvaluatedBackbone,
    embedded: list[str],
    tmp_path: Path,
    train: dict[str, list[int]],
    test: dict[str, list[int]],
    run: Any,
    settings: Any,
    message: str,
) -> None:
    relabel(devkit, "trainval", train)
    relabel(devkit, "test", test)
    with pytest.raises(ValueError, match=message):
        run(subject, images(devkit), settings, place(tmp_path, "result"))
    assert embedded == []


def test_images_that_were_learnt_from_are_not_scored(drawn: Path, subject: EvaluatedBackbone, tmp_path: Path) -> None:
    same = VocSettings(train_split="trainval", test_split="trainval", size_px=32)
    with pytest.raises(ValueError, match=r"12 images are in split 'trainval' and in 'trainval' of .*trainval00\.jpg"):
        run_svm(subject, images(drawn, same), SvmSettings(), place(tmp_path, "svm"))


def test_images_that_are_listed_and_not_there_are_refused(devkit: Path) -> None:
    for number in (1, 4):
        (devkit / "JPEGImages" / f"test{number:02}.jpg").unlink()
    told = r"'test' of .* lists 12 images, and 2 of them are not there, such as JPEGImages/test01\.jpg, JPEG.*test04"
    with pytest.raises(ValueError, match=told):
        list_labelled(devkit, "test")
