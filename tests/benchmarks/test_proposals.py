import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def proposals() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("benchmark_proposals", BENCHMARKS / "proposals.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def test_the_boxes_are_compared_and_every_claim_is_written(
    proposals: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("cv2")
    # The process that OpenCV has to itself finds its function by the module's name.
    monkeypatch.setitem(sys.modules, "benchmark_proposals", proposals)
    generator = np.random.default_rng(0)
    for index in range(3):
        coarse = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize((90, 70), Image.Resampling.BICUBIC).save(tmp_path / f"{index}.png")
    path = tmp_path / "out.json"
    proposals.main(["--images", str(tmp_path), "--json", str(path), "--num-images", "3"])
    full, half, threads = json.loads(path.read_text())
    assert full["agreement"]["jaccard_mean"] > 0.95
    assert full["settings"]["scale"] == 1
    assert half["settings"]["scale"] == 0.5
    assert threads["agreement"] == {"identical": True}
    for result in (full, half, threads):
        assert result["ratio_p10"] <= result["ratio_median"] <= result["ratio_p90"]
        assert result["runs"] == 3
