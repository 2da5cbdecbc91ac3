"""A backbone as ONNX: images of any number and size to a feature map and an embedding."""

import importlib.util

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orl.export.model_card import Origin, write_card
from orl.networks.backbones import Backbone, pool

REQUIRED_PACKAGES = ("onnx", "onnxscript")
EXAMPLE_SHAPE = (2, 3, 96, 64)


class _FeatureMapAndEmbedding(nn.Module):
    """The feature map and its mean over all positions."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> tuple[Tensor, Tensor]:
        feature_map = self.backbone(images)
        return feature_map, pool(feature_map)


def onnx_files(backbone: Backbone, origin: Origin) -> dict[str, bytes]:
    """Return the graph with its weights in one file, and the card.

    The input is `images`; the outputs are `feature_map` and `embedding`.

    Raises:
        ModuleNotFoundError: if onnx or onnxscript is not installed.
    """
    file = f"{backbone.name}.onnx"
    code = f"""\
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
feature_map, embedding = session.run(None, {{"images": images}})  # float32 (N, 3, H, W), normalised"""
    content = (
        f"Input `images` `(N, 3, H, W)`, any N, H and W; outputs `feature_map` `(N, {backbone.num_channels}, H / 32, "
        f"W / 32)`, rounded up, and `embedding` `(N, {backbone.num_channels})`, its mean over all positions. Batch "
        "normalisation is fused into the convolutions: for inference only."
    )
    return {file: _onnx_bytes(backbone), f"{backbone.name}_onnx.md": write_card(backbone, origin, code, content)}


def _onnx_bytes(backbone: Backbone) -> bytes:
    missing = [name for name in REQUIRED_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"to write ONNX, {' and '.join(missing)} must be installed: pip install 'orl[onnx]'")
    import onnx

    sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    program = torch.onnx.export(
        _FeatureMapAndEmbedding(backbone).eval(),
        (torch.zeros(EXAMPLE_SHAPE),),
        dynamo=True,
        input_names=["images"],
        output_names=["feature_map", "embedding"],
        dynamic_shapes={"images": sizes},
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    _remove_traces(model)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def _remove_traces(model: object) -> None:
    """Remove the exporter's traces: they hold paths, and so differ between machines."""
    import onnx

    assert isinstance(model, onnx.ModelProto)
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output, *model.functions):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
