import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SIZES = ["--num-images", "120", "--test-images", "90", "--dims", "24", "--classes", "3", "--runs", "2"]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("benchmark_svm", BENCHMARKS / "svm.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_ways_reach_the_same_scores(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of so few images a swap of two moves the AP far more than of thousands.
    monkeypatch.setattr(benchmark, "AP_TOLERANCE", 0.02)
    benchmark.main([*SIZES, "--json", str(tmp_path / "out.json")])
    (result,) = json.loads((tmp_path / "out.json").read_text())
    assert result["runs"] == 2
    assert result["settings"]["fits"] == 3 * (19 * 3 + 1)
    assert result["agreement"]["classes"] == 3
    assert abs(result["agreement"]["mean_ap_ours"] - result["agreement"]["mean_ap_alternative"]) < 0.02


def test_another_score_is_reported(benchmark: ModuleType) -> None:
    from orl.evaluation.svm import SvmResult

    ours = SvmResult(
        per_class_ap={"cat": 0.5},
        costs={"cat": 1.0},
        cross_validated_ap={"cat": 0.5},
        skipped={},
        solver="batched",
        num_train=1,
        num_test=1,
        num_fits=1,
        num_unconverged=0,
        seed=0,
        elapsed_s=1.0,
    )
    near = replace(ours, per_class_ap={"cat": 0.5005}, costs={"cat": 10.0})
    assert benchmark.agreement(ours, near)["same_costs"] == 0
    with pytest.raises(RuntimeError, match=r"differs by 0\.01"):
        benchmark.agreement(ours, replace(ours, per_class_ap={"cat": 0.51}))
