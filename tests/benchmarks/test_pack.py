import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from tests.datasets.packs import draw_images

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FIELDS = {"claim", "alternative", "ratio_median", "ratio_p10", "ratio_p90", "agreement", "settings", "machine"}


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location("benchmark_pack", BENCHMARKS / "pack.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def test_packs_of_all_kinds_are_measured_against_the_folder(benchmark: ModuleType, tmp_path: Path) -> None:
    images, out = draw_images(tmp_path / "images"), tmp_path / "out.json"
    sizes = ["--image-side", "100", "--short-side", "50", "--view-px", "40", "--runs", "2"]
    benchmark.main(["--images", str(images), "--json", str(out), *sizes])
    full, reduced, jpeg = json.loads(out.read_text())
    for result in (full, reduced, jpeg):
        assert set(result) >= FIELDS
        assert result["settings"]["images"] == 7
        assert result["agreement"]["mean_difference_of_a_view_in_grey_levels"] < 5
    num_equal = int(full["agreement"]["equal_views"].split()[0])
    assert num_equal >= 14 - 2 * full["agreement"]["images_that_the_folder_gives_reduced"]
    assert num_equal > 0
    stored = [result["settings"]["pack_kb_per_image"] for result in (full, reduced, jpeg)]
    assert stored[0] > 3 * stored[1] > 6 * stored[2]


def test_differing_views_are_reported_as_disagreement(benchmark: ModuleType, tmp_path: Path) -> None:
    one, other = (draw_images(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    samples = [benchmark.samples(benchmark.table(folder), 40) for folder in (one, other)]
    with pytest.raises(RuntimeError, match=r"view_1 of 0.png is not the same"):
        benchmark.agreement(*samples)


def test_images_must_be_given(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main([])
    assert "--images is needed" in capsys.readouterr().err
