"""The evaluations on VOC07, from a devkit to the JSON: checked first, embedded once, kept."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from tests.evaluation.devkit import draw_devkit

from orl.embed import embed_images
from orl.evaluation import voc07
from orl.evaluation.evaluated_backbone import EvaluatedBackbone, load_evaluated_backbone
from orl.evaluation.knn import KNN, KnnConfig, score_knn
from orl.evaluation.low_shot import LOW_SHOT, LowShotConfig, score_low_shot
from orl.evaluation.output import EvaluationOutput
from orl.evaluation.protocol import Evaluation
from orl.evaluation.svm import SVM, SvmConfig, score_svm
from orl.evaluation.voc_dataset import VocDataset
from orl.processes import Processes
from orl.provenance import StaleResultError

SMALL_PX = 32


@pytest.fixture(scope="module")
def flat_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_devkit(tmp_path_factory.mktemp("flat") / "VOC2007")


@pytest.fixture
def devkit(flat_images: Path, tmp_path: Path) -> Path:
    """Copy that a test may change."""
    return Path(shutil.copytree(flat_images, tmp_path / "VOC2007"))


@pytest.fixture(scope="module")
def backbone() -> EvaluatedBackbone:
    return load_evaluated_backbone(Path("random"), "resnet10")


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Title of each embedding that is computed."""
    titles = []

    def noted(*arguments: Any, title: str, **others: Any) -> Any:
        titles.append(title)
        return embed_images(*arguments, title=title, **others)

    monkeypatch.setattr(voc07, "embed_images", noted)
    return titles


def dataset(devkit: Path, **options: Any) -> VocDataset:
    return VocDataset(**{"data": devkit, "size_px": SMALL_PX, **options})


def run(
    evaluation: Evaluation[Any, Any],
    backbone: EvaluatedBackbone,
    data: VocDataset,
    config: Any,
    path: Path,
    **others: Any,
) -> dict[str, Any]:
    output = EvaluationOutput(**{"result": path, "device": "cpu", "workers": 1, "quiet": True, **others})
    result = evaluation.run(backbone, data, config, output, Processes())
    assert result is not None
    return result


def test_three_evaluations_embed_the_images_once_and_score_those_features(
    devkit: Path, backbone: EvaluatedBackbone, embedded: list[str], tmp_path: Path
) -> None:
    # Some images of every class are noise, so that no evaluation scores 1.
    generator = np.random.default_rng(1)
    for path in sorted((devkit / "JPEGImages").iterdir())[::3]:
        Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
    data = dataset(devkit)
    svm = run(SVM, backbone, data, SvmConfig(), tmp_path / "svm.json")
    knn = run(KNN, backbone, data, KnnConfig(k=3), tmp_path / "knn.json")
    shots = LowShotConfig(shots=(1, 2), num_samples=2)
    low_shot = run(LOW_SHOT, backbone, data, shots, tmp_path / "low-shot.json")
    assert embedded == ["embed trainval", "embed test"]
    train, test = data.readable()
    features = voc07.embed_labelled(backbone.network, train, test, kind="pooled", size_px=SMALL_PX, quiet=True)
    own = (*features.arrays, train.classes)
    assert_array_equal(features.test_features, embed_images(backbone.network, test.paths, size_px=SMALL_PX, quiet=True))
    assert svm["mean_ap"] == score_svm(*own, quiet=True).mean_ap < 1
    assert knn["mean_ap"] == score_knn(*own, k=3, quiet=True).mean_ap < 1
    assert low_shot["mean_ap"] == score_low_shot(*own, shots=(1, 2), num_samples=2, quiet=True).mean_ap
    for task, result in (("svm", svm), ("knn", knn), ("low-shot", low_shot)):
        assert json.loads((tmp_path / f"{task}.json").read_text()) == json.loads(json.dumps(result, allow_nan=False))
        assert (result["task"], result["num_train"], result["num_test"]) == (task, 12, 12)
        assert result["protocol_deviations"] == [
            "resnet10, not resnet50",
            "32 px, not 224",
            "2 classes, not 20",
            "12 training images and 12 test images, not VOC07's 5,011 and 4,952",
            *(["num_samples 2, not 5"] if task == "low-shot" else []),
        ]


def test_feat5_and_pooled_features_are_embedded_once_and_scored_apart(
    devkit: Path, backbone: EvaluatedBackbone, embedded: list[str], tmp_path: Path
) -> None:
    data = dataset(devkit, size_px=64)
    train, test = data.readable()
    for kind, num_features, deviations in (("feat5", 2048, []), ("pooled", 512, ["pooled features, not feat5"])):
        svm = run(SVM, backbone, data, SvmConfig(features=kind), tmp_path / f"svm_{kind}.json")
        config = LowShotConfig(shots=(1,), features=kind)
        low_shot = run(LOW_SHOT, backbone, data, config, tmp_path / f"low-shot_{kind}.json")
        own = voc07.embed_labelled(backbone.network, train, test, kind=kind, size_px=64, quiet=True)
        scores = score_low_shot(*own.arrays, train.classes, shots=(1,), quiet=True)
        assert low_shot["per_class_ap"] == scores.per_class_ap
        assert own.train_features.shape == (12, num_features)
        for evaluation, result in ((SVM, svm), (LOW_SHOT, low_shot)):
            assert (result["features"], result["num_features"]) == (kind, num_features)
            assert result["protocol_deviations"][4:] == deviations
            assert all(kind in title for title in evaluation.tables(result))
            stem = evaluation.name if kind == "feat5" else f"{evaluation.name}-pooled"
            assert evaluation.result_stem(SvmConfig(features=kind)) == stem
    assert run(KNN, backbone, data, KnnConfig(k=3), tmp_path / "knn.json")["num_features"] == 512
    with pytest.raises(StaleResultError, match=r"\(features\)"):
        run(SVM, backbone, data, SvmConfig(features="pooled"), tmp_path / "svm_feat5.json")
    # One embedding for all results, and one for each call of embed_labelled above.
    assert len(embedded) == 2 + 4


def test_a_result_is_kept_and_another_size_has_features_of_its_own(
    flat_images: Path, backbone: EvaluatedBackbone, embedded: list[str], tmp_path: Path
) -> None:
    for _ in range(2):
        run(SVM, backbone, dataset(flat_images), SvmConfig(), tmp_path / "svm.json")
    assert len(embedded) == 2
    run(SVM, backbone, dataset(flat_images, size_px=48), SvmConfig(), tmp_path / "svm_48.json")
    assert len(embedded) == 4


def test_a_seed_without_effect_makes_no_result_stale(
    flat_images: Path, backbone: EvaluatedBackbone, tmp_path: Path
) -> None:
    for evaluation, config in ((SVM, SvmConfig()), (KNN, KnnConfig(k=3))):
        path = tmp_path / f"{evaluation.name}.json"
        first, other = (run(evaluation, backbone, dataset(flat_images), config, path, seed=seed) for seed in (0, 1))
        assert first == other
    run(SVM, backbone, dataset(flat_images), SvmConfig(solver="liblinear"), tmp_path / "liblinear.json")
    with pytest.raises(StaleResultError, match=r"\(seed\)"):
        run(SVM, backbone, dataset(flat_images), SvmConfig(solver="liblinear"), tmp_path / "liblinear.json", seed=1)


def test_the_same_images_in_another_folder_have_the_same_result(
    flat_images: Path, devkit: Path, backbone: EvaluatedBackbone, embedded: list[str], tmp_path: Path
) -> None:
    results = [
        run(KNN, backbone, dataset(root), KnnConfig(k=3), tmp_path / "knn.json") for root in (flat_images, devkit)
    ]
    assert results[0] == results[1]
    assert len(embedded) == 2


def test_another_image_of_the_same_name_makes_the_result_stale(
    devkit: Path, backbone: EvaluatedBackbone, tmp_path: Path
) -> None:
    run(KNN, backbone, dataset(devkit), KnnConfig(k=3), tmp_path / "knn.json")
    Image.new("RGB", (30, 30)).save(devkit / "JPEGImages" / "test00.jpg")
    with pytest.raises(StaleResultError, match=r"knn\.json was made from other weights or options \(images\)"):
        run(KNN, backbone, dataset(devkit), KnnConfig(k=3), tmp_path / "knn.json")
    # Features of it are not those of the old image.
    run(KNN, backbone, dataset(devkit), KnnConfig(k=3), tmp_path / "knn.json", overwrite=True)


def test_two_backbones_may_write_into_one_folder(
    flat_images: Path, backbone: EvaluatedBackbone, embedded: list[str], tmp_path: Path
) -> None:
    other = load_evaluated_backbone(Path("random"), "resnet10", seed=1)
    for name, each in (("one", backbone), ("other", other)):
        run(KNN, each, dataset(flat_images), KnnConfig(k=3), tmp_path / f"knn_{name}.json")
    assert len(embedded) == 4
    assert len(list(tmp_path.glob("features_*"))) == 2


@pytest.mark.parametrize("solver", ["batched", "liblinear"])
def test_either_solver_follows_the_protocol(
    flat_images: Path, backbone: EvaluatedBackbone, tmp_path: Path, solver: Any
) -> None:
    result = run(SVM, backbone, dataset(flat_images), SvmConfig(solver=solver), tmp_path / "svm.json")
    assert (result["solver"], result["mean_ap"]) == (solver, 1.0)
    assert not any("solver" in line for line in result["protocol_deviations"])


def test_a_class_with_too_few_images_is_logged_and_a_protocol_std(
    devkit: Path, backbone: EvaluatedBackbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split in ("trainval", "test"):
        signs = [1, 1, *[-1] * 10]
        lines = [f"{split}{index:02} {sign}" for index, sign in enumerate(signs)]
        (devkit / "ImageSets" / "Main" / f"cow_{split}.txt").write_text("\n".join(lines))
    (devkit / "JPEGImages" / "test05.jpg").write_bytes(b"broken")
    result = run(SVM, backbone, dataset(devkit), SvmConfig(), tmp_path / "svm.json")
    assert list(result["skipped"]) == ["cow"]
    assert "class 'cow' is left out: 2 positive, 10 negative training images" in caplog.text
    assert (
        "1 of 12 images of split 'test' cannot be read and are left out, such as JPEGImages/test05.jpg" in caplog.text
    )
    assert result["protocol_deviations"][-2:] == ["1 classes without a score: cow", "1 images that cannot be read"]


@pytest.mark.parametrize(
    ("evaluation", "config", "message"),
    [
        (KNN, KnnConfig(), "k is 20, but there are 12 training images"),
        (KNN, KnnConfig(k=3, temperature=0.0), "temperature is 0"),
        (LOW_SHOT, LowShotConfig(), "96 shots need .*--shots of at most 6"),
        (LOW_SHOT, LowShotConfig(shots=(1,), num_samples=0), "num_samples is 0"),
    ],
)
def test_options_that_the_images_do_not_allow_are_refused_before_anything_is_embedded(
    flat_images: Path,
    backbone: EvaluatedBackbone,
    embedded: list[str],
    tmp_path: Path,
    evaluation: Any,
    config: Any,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        run(evaluation, backbone, dataset(flat_images), config, tmp_path / "result.json")
    with pytest.raises(ValueError, match=message):
        evaluation.check(dataset(flat_images), config)
    assert embedded == []


def relabel(devkit: Path, split: str, signs: dict[str, list[int]]) -> None:
    """Replace the labels of the images `<split>00` and on; other classes have none."""
    lists = devkit / "ImageSets" / "Main"
    for path in lists.glob(f"*_{split}.txt"):
        path.unlink()
    for name, own in signs.items():
        (lists / f"{name}_{split}.txt").write_text("\n".join(f"{split}{i:02} {sign}" for i, sign in enumerate(own)))


ALL, NONE, HALF = [1] * 12, [-1] * 12, [1, -1] * 6


@pytest.mark.parametrize(
    ("train", "test", "evaluation", "config", "message"),
    [
        (
            {"cat": ALL},
            {"cat": ALL},
            *(KNN, KnnConfig(k=3)),
            "'trainval' of .* has no class with positive and negative images; classes with positive images: cat",
        ),
        (
            {"cat": HALF, "dog": HALF},
            {"cat": ALL, "dog": NONE},
            *(SVM, SvmConfig()),
            "split 'test' of .* has no class with positive and negative images; classes with positive images: cat",
        ),
        (
            {"cat": HALF},
            {"cat": HALF},
            *(LOW_SHOT, LowShotConfig(shots=(1,))),
            r"low-shot needs at least 2 classes, got 1 \(cat\)",
        ),
        (
            {"cat": [1, *[-1] * 11]},
            {"cat": HALF},
            *(SVM, SvmConfig()),
            "none of 1 classes can be scored.*1 positive, 11 negative training images, fewer than 3",
        ),
    ],
)
def test_labels_without_positive_and_negative_images_are_refused_before_anything_is_embedded(
    devkit: Path,
    backbone: EvaluatedBackbone,
    embedded: list[str],
    tmp_path: Path,
    train: dict[str, list[int]],
    test: dict[str, list[int]],
    evaluation: Any,
    config: Any,
    message: str,
) -> None:
    relabel(devkit, "trainval", train)
    relabel(devkit, "test", test)
    with pytest.raises(ValueError, match=message):
        run(evaluation, backbone, dataset(devkit), config, tmp_path / "result.json")
    assert embedded == []


def test_training_images_are_not_scored(flat_images: Path, backbone: EvaluatedBackbone, tmp_path: Path) -> None:
    same = dataset(flat_images, test_split="trainval")
    with pytest.raises(ValueError, match=r"12 images are in split 'trainval' and in 'trainval' of .*trainval00\.jpg"):
        run(SVM, backbone, same, SvmConfig(), tmp_path / "svm.json")
