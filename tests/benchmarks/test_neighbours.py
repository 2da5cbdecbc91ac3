import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FIELDS = {"claim", "alternative", "ratio_median", "ratio_p10", "ratio_p90", "agreement", "settings", "machine"}

pytest.importorskip("faiss")


@pytest.fixture(scope="module")
def neighbours() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location("benchmark_neighbours", BENCHMARKS / "neighbours.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def run(neighbours: ModuleType, path: Path, *argv: str) -> list[dict[str, Any]]:
    neighbours.main([*argv, "--json", str(path), "--runs", "2"])
    return json.loads(path.read_text())


def test_all_methods_find_the_same_neighbours_of_random_vectors(neighbours: ModuleType, tmp_path: Path) -> None:
    sizes = [
        "--num-images",
        "3000",
        "--dims",
        "16",
        "--clusters",
        "40",
        "--queries",
        "50",
        "--shard",
        "20",
        "--probes",
        "1000",
    ]
    *exact, clusters = run(neighbours, tmp_path / "out.json", *sizes)
    assert [result["settings"]["queries"] for result in exact] == [50, 50, 20, 20]
    for result in exact:
        assert set(result) >= FIELDS
        assert result["agreement"]["same_ids"] > 0.99
        assert result["agreement"]["largest_difference"] < 1e-6
        assert result["settings"]["images"] == 3000
    assert set(clusters) >= FIELDS
    assert clusters["agreement"]["recall_at_10"] > 0.95


def test_images_are_embedded_and_searched(neighbours: ModuleType, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for index in range(12):
        pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    argv = ["--images", str(tmp_path), "--size-px", "32", "--neighbours", "3"]
    product, *_, clusters = run(neighbours, tmp_path / "out.json", *argv)
    assert product["settings"]["images"] == product["settings"]["queries"] == 12
    assert product["settings"]["dims"] == 512
    assert clusters["agreement"]["recall_at_3"] > 0.9


def test_other_similarities_are_reported_as_disagreement(neighbours: ModuleType) -> None:
    ids = torch.arange(4).view(2, 2)
    with pytest.raises(RuntimeError, match=r"similarities differ by 0\.5"):
        neighbours.agreement((ids, torch.ones(2, 2)), (ids, torch.full((2, 2), 0.5)))


def test_the_query_is_removed_from_the_results_of_other_libraries(neighbours: ModuleType) -> None:
    ids, values = torch.tensor([[7, 3, 5], [1, 2, 6]]), torch.tensor([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]])
    left_ids, left_values = neighbours.without_query((ids, values), torch.tensor([3, 9]))
    assert left_ids.tolist() == [[7, 5], [1, 2]]
    torch.testing.assert_close(left_values, torch.tensor([[0.9, 0.7], [0.6, 0.5]]))
