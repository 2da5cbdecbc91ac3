import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location("benchmark_dense", BENCHMARKS / "dense_retrieval.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def test_both_ways_predict_the_same(benchmark: ModuleType, tmp_path: Path) -> None:
    sizes = ["--memory", "900", "--dims", "16", "--clusters", "20", "--queries", "70", "--patches", "32", "--runs", "2"]
    benchmark.main([*sizes, "--json", str(tmp_path / "out.json")])
    (result,) = json.loads((tmp_path / "out.json").read_text())
    assert result["agreement"]["same_classes"] == 1.0
    assert result["settings"]["memory"] == 900


def test_other_predictions_are_reported_as_disagreement(benchmark: ModuleType) -> None:
    with pytest.raises(RuntimeError, match=r"frequencies differ by 0\.5"):
        benchmark.agreement(torch.ones(2, 2), torch.full((2, 2), 0.5))
