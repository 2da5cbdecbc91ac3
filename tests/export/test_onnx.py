import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.export.exported import random_backbone, real_images, run_card, synthetic_images, write_backbone

from orl.export.export import export

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

# The runtime adds up convolutions in another order; features are of the size of 1.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    return export(write_backbone(folder / "from"), "onnx", folder / "to")[0]


def run_graph(graph: Path, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    feature_map, embedding = session.run(["feature_map", "embedding"], {"images": images.numpy()})
    return torch.from_numpy(feature_map), torch.from_numpy(embedding)


@pytest.mark.parametrize(("count", "size_wh"), [(1, (64, 64)), (3, (96, 130)), (2, (65, 97))])
def test_onnxruntime_gives_equal_features_for_any_number_and_size(
    graph: Path, count: int, size_wh: tuple[int, int]
) -> None:
    images = synthetic_images(count, size_wh)
    expected = random_backbone("resnet10")(images)
    feature_map, embedding = run_graph(graph, images)
    torch.testing.assert_close(feature_map, expected, **TOLERANCE)
    torch.testing.assert_close(embedding, expected.sum(dim=(2, 3)) / expected[0, 0].numel(), **TOLERANCE)


def test_features_of_real_images_are_the_same(graph: Path, real_data: Path) -> None:
    backbone = random_backbone("resnet10")
    for image in real_images(real_data):
        torch.testing.assert_close(run_graph(graph, image)[0], backbone(image), **TOLERANCE)


@pytest.mark.slow
def test_a_bottleneck_network_gives_the_same_features(tmp_path: Path) -> None:
    path = export(write_backbone(tmp_path, "resnet50"), "onnx", tmp_path)[0]
    images = synthetic_images()
    torch.testing.assert_close(run_graph(path, images)[0], random_backbone("resnet50")(images), **TOLERANCE)


def test_the_graph_is_one_file_with_named_inputs_and_outputs(graph: Path) -> None:
    assert sorted(path.name for path in graph.parent.iterdir()) == ["resnet10.onnx", "resnet10_onnx.md"]
    onnx.checker.check_model(str(graph), full_check=True)
    model = onnx.load(str(graph)).graph
    assert [value.name for value in model.input] == ["images"]
    assert [value.name for value in model.output] == ["feature_map", "embedding"]
    dims = model.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, "height", "width"]


def test_the_graph_contains_no_path_of_the_machine(graph: Path) -> None:
    content = graph.read_bytes()
    assert str(Path(__file__).resolve().parents[2]).encode() not in content
    assert b"stack_trace" not in content
    assert b"site-packages" not in content


def test_equal_weights_give_equal_bytes(graph: Path, tmp_path: Path) -> None:
    again = export(write_backbone(tmp_path), "onnx", tmp_path / "again")[0]
    assert again.read_bytes() == graph.read_bytes()


def test_the_lines_on_the_card_run_the_graph(graph: Path) -> None:
    left = run_card(graph.with_name("resnet10_onnx.md"), {"images": synthetic_images().numpy()})
    assert left["embedding"].shape == (2, 512)
    assert np.isfinite(left["feature_map"]).all()


def test_a_missing_onnx_package_is_an_error_with_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r"onnxscript must be installed: pip install 'orl\[onnx\]'"):
        export(write_backbone(tmp_path), "onnx", tmp_path / "to")
    assert not (tmp_path / "to").exists()
