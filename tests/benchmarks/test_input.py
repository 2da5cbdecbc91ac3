import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FIELDS = {"claim", "alternative", "ratio_median", "ratio_p10", "ratio_p90", "agreement", "settings", "machine"}


def load(name: str, patch: pytest.MonkeyPatch) -> ModuleType:
    patch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("input", monkeypatch)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    y, x = np.mgrid[:120, :160]
    for index in range(3):
        waves = [128 + 90 * np.sin(x / (9 + index) + phase) * np.cos(y / 11) for phase in range(3)]
        Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8)).save(folder / f"{index}.png")
    return folder


def test_both_pipelines_give_the_same_views(pipeline: ModuleType, images: Path, tmp_path: Path) -> None:
    argv = ["--images", str(images), "--batch", "2", "--runs", "2", "--side", "320", "--large-side", "1300"]
    pipeline.main([*argv, "--json", str(tmp_path / "out.json")])
    results = json.loads((tmp_path / "out.json").read_text())
    assert [result["settings"]["images"] for result in results] == [3, 3, 3]
    assert "1300 px" in results[2]["claim"]
    for result in results:
        assert set(result) >= FIELDS
        cut, recoloured, blurred = result["agreement"].values()
        # These images are smooth: larger pixels, whole grey levels and a blur of boxes change little.
        assert cut < 1
        assert recoloured < 3
        assert blurred < 3
        assert result["settings"]["images_per_s_ours"] > 0
        assert result["settings"]["kilobytes_per_image"] > 1


def test_another_box_is_reported_as_disagreement(pipeline: ModuleType, images: Path, tmp_path: Path) -> None:
    options = pipeline.argparse.Namespace(images=images, num_images=3)
    table = pipeline.saved_again(options, 320, tmp_path / "saved")
    view_box = pipeline.two_views(table, 0)["view_1"]
    image = Image.open(table.path(0))
    found = pipeline.by_pillow(image, view_box)
    moved = pipeline.by_pillow(image, view_box._replace(box=view_box.box + np.float32(8)))
    assert (found - moved).abs().mean() > 0.05
    torch.testing.assert_close(found, pipeline.by_pillow(image, view_box))


def test_the_parts_are_timed_and_printed(
    pipeline: ModuleType, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cv2")
    parts = load("input_parts", monkeypatch)
    parts.main(["--images", str(images), "--num-images", "1", "--runs", "1", "--side", "200", "--large-side", "400"])
    table = capsys.readouterr().out
    for part in ("decode an image", "decode a large image", "cut a view", "flip", "jitter", "gray", "blur", "solarise"):
        assert f"| {part} | **" in table
    assert "without" not in table
