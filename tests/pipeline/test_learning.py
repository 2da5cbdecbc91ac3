"""Every image-level method learns something on drawn scenes: its features beat those of random weights."""

from dataclasses import replace
from pathlib import Path

import pytest

from orl.config import ImageMethod, RunConfig
from orl.evaluation.evaluated_backbone import EvaluatedBackbone, load_evaluated_backbone
from orl.evaluation.output import EvaluationOutput
from orl.evaluation.run_evaluations import run_datasets
from orl.evaluation.svm import SVM, SvmConfig
from orl.pipeline.run import DEMO_TEST, DEMO_TRAINVAL, run_pretrain
from orl.processes import Processes
from orl.recipes import METHODS, demo, with_method
from orl.rundir import RunDir
from orl.synthetic.scenes import draw_scenes

pytestmark = pytest.mark.slow

EPOCHS = 60
"""The demo's 20 are too few for MoCo v2 and Self-EMD."""
SEEDS = range(5)
"""Random weights differ by more than two points from each other, so their mean is what is to be beaten."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of the demo."""
    folder = tmp_path_factory.mktemp("scenes")
    draw_scenes(folder, num_trainval=DEMO_TRAINVAL, num_test=DEMO_TEST, seed=0, quiet=True)
    return folder


def run_config(scenes: Path, out: Path, method: ImageMethod) -> RunConfig:
    start = demo(scenes, out)
    longer = replace(start.stage1, epochs=EPOCHS)
    return with_method(replace(start, stage1=longer, eval_data=scenes, device="cpu"), method)


def svm(backbone: EvaluatedBackbone, config: RunConfig, out: Path) -> float:
    output = EvaluationOutput(result=out, seed=config.seed, device="cpu", workers=config.workers, quiet=True)
    result = SVM.run(backbone, run_datasets(config).images, SvmConfig(), output, Processes())
    assert result is not None
    return result["mean_ap"]


@pytest.fixture(scope="module")
def mean_ap_of_random_weights(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    folder = tmp_path_factory.mktemp("random")
    config = run_config(scenes, folder, "byol")
    found = []
    for seed in SEEDS:
        found.append(
            svm(load_evaluated_backbone(Path("random"), "resnet10", seed), config, folder / f"{seed}" / "svm.json")
        )
    return sum(found) / len(found)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_beats_random_weights_by_the_svm(
    method: ImageMethod, scenes: Path, mean_ap_of_random_weights: float, tmp_path: Path
) -> None:
    config = run_config(scenes, tmp_path / "run", method)
    run_pretrain(config, "stage1")
    found = svm(load_evaluated_backbone(RunDir(config.out).backbone("stage1")), config, tmp_path / "svm.json")
    assert found > mean_ap_of_random_weights
