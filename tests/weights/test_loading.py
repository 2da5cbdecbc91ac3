import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from tests.export.exported import random_backbone, synthetic_images, write_backbone, write_run
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.transforms._presets import ImageClassification

from orl.export.export import Format, export
from orl.networks.backbones import read_backbone_file
from orl.synthetic.scenes import draw_scene
from orl.weights.loading import FeatureMaps, load_backbone
from orl.weights.transform import Transform

READ_BACK: tuple[Format, ...] = ("torchvision", "timm", "detectron2", "mmdet", "safetensors")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # frozen normalisations multiply in another order


@pytest.mark.parametrize("to", READ_BACK)
def test_every_export_is_loaded_with_equal_weights_and_features(tmp_path: Path, to: Format) -> None:
    name = "resnet18" if to in ("detectron2", "mmdet") else "resnet10"  # which they do not build
    path = export(write_backbone(tmp_path / "from", name), to, tmp_path / "to")[0]
    loaded, expected = load_backbone(path, frozen=False), random_backbone(name)
    weights = loaded.state_dict()
    for key, value in expected.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(weights[key], value), key
    images = synthetic_images()
    assert torch.equal(loaded.eval()(images), expected(images))
    torch.testing.assert_close(load_backbone(path)(images), expected(images), **CLOSE)


def test_a_hub_folder_is_loaded_although_timm_names_the_network_differently(tmp_path: Path) -> None:
    export(write_backbone(tmp_path / "from", "resnet10"), "hub-folder", tmp_path / "to")
    loaded = load_backbone(str(tmp_path / "to"), frozen=False)
    images = synthetic_images()
    assert loaded.name == "resnet10"
    assert torch.equal(loaded.eval()(images), random_backbone("resnet10")(images))


def test_a_run_gives_its_last_stage_or_the_given_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    images = synthetic_images()
    first, last = (read_backbone_file(run.backbone(stage))(images) for stage in ("stage1", "stage3"))
    torch.testing.assert_close(load_backbone(run.root)(images), last, **CLOSE)
    torch.testing.assert_close(load_backbone(run.root, stage="stage1")(images), first, **CLOSE)
    torch.testing.assert_close(load_backbone(run.backbone("stage1"))(images), first, **CLOSE)
    assert not torch.allclose(first, last)


def test_weights_of_a_torchvision_network_give_its_feature_map(tmp_path: Path) -> None:
    network = torchvision.models.mobilenet_v3_small().eval()
    torch.save(network.state_dict(), tmp_path / "mobile.pth")
    loaded = load_backbone(tmp_path / "mobile.pth", architecture="mobilenet_v3_small")
    images = synthetic_images()
    torch.testing.assert_close(loaded(images), network.features(images), **CLOSE)
    assert (loaded.name, loaded.num_channels) == ("torchvision/mobilenet_v3_small", 576)
    assert list(dict(loaded.named_children())) == ["body"]


def test_a_frozen_timm_network_keeps_its_activations(tmp_path: Path) -> None:
    network = timm.create_model("efficientnet_lite0").eval()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    loaded = load_backbone(tmp_path / "weights.pth", architecture="timm/efficientnet_lite0")
    images = synthetic_images()
    before = loaded(images)
    # Fifty layers of random weights: rounding adds up to a little more than in a ResNet.
    torch.testing.assert_close(before, network.forward_features(images), rtol=1e-3, atol=1e-4)
    assert torch.equal(loaded.train()(images), before)
    assert loaded.transform.mean == network.pretrained_cfg["mean"]
    assert loaded.transform.std == network.pretrained_cfg["std"]


def test_a_frozen_network_has_no_dropout(tmp_path: Path) -> None:
    network = torchvision.models.efficientnet_b0()  # it drops whole blocks in training
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    loaded = load_backbone(tmp_path / "weights.pth", architecture="efficientnet_b0").train()
    images = synthetic_images(4)
    assert torch.equal(loaded(images), loaded(images))


def test_a_frozen_backbone_is_unchanged_by_training_a_detector(tmp_path: Path) -> None:
    loaded = load_backbone(write_backbone(tmp_path))
    images = synthetic_images()
    before = loaded(images)
    assert not loaded.training
    assert not any(weight.requires_grad for weight in loaded.parameters())
    assert not any(isinstance(part, nn.BatchNorm2d) for part in loaded.modules())
    detector = nn.Sequential(loaded, nn.Conv2d(512, 4, 1)).train()
    optimiser = torch.optim.SGD([weight for weight in detector.parameters() if weight.requires_grad], lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        detector(images).square().mean().backward()
        optimiser.step()
    assert torch.equal(loaded(images), before)
    assert torch.equal(loaded.eval()(images), before)


def test_a_backbone_that_is_not_frozen_can_be_trained(tmp_path: Path) -> None:
    loaded = load_backbone(write_backbone(tmp_path), frozen=False)
    assert loaded.training
    statistics = loaded.get_submodule("bn1").running_mean.clone()
    loaded(synthetic_images()).square().mean().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in loaded.parameters())
    assert not torch.equal(loaded.get_submodule("bn1").running_mean, statistics)


def test_torchvision_builds_a_pyramid_on_the_backbone(tmp_path: Path) -> None:
    loaded = load_backbone(write_backbone(tmp_path, "resnet18"))
    names = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    assert list(dict(loaded.named_children())) == names
    levels = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}
    pyramid = BackboneWithFPN(loaded, levels, [64, 128, 256, 512], 16)
    maps = pyramid(synthetic_images(2, (96, 64)))
    assert {name: tuple(value.shape[2:]) for name, value in maps.items()} == {
        "0": (16, 24),
        "1": (8, 12),
        "2": (4, 6),
        "3": (2, 3),
        "pool": (1, 2),
    }


def test_a_single_level_detector_takes_the_backbone_unchanged(tmp_path: Path) -> None:
    loaded = load_backbone(write_backbone(tmp_path))
    assert (loaded.name, loaded.num_channels, loaded.out_channels) == ("resnet10", 512, 512)
    anchors = AnchorGenerator(((16, 32),), ((1.0,),))
    detector = FasterRCNN(loaded, num_classes=2, rpn_anchor_generator=anchors, min_size=64, max_size=96).eval()
    with torch.no_grad():
        found = detector([torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))])
    assert set(found[0]) == {"boxes", "labels", "scores"}


@pytest.mark.parametrize("size_wh", [(300, 260), (100, 400), (224, 224)])
def test_the_transform_of_a_pillow_image_is_torchvisions(size_wh: tuple[int, int]) -> None:
    image = Image.fromarray(draw_scene(0, 0, size_wh).image)
    torch.testing.assert_close(Transform()(image), ImageClassification(crop_size=224)(image))
    as_bytes = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    torch.testing.assert_close(Transform()(as_bytes), ImageClassification(crop_size=224)(as_bytes))
    as_floats = as_bytes / 255
    torch.testing.assert_close(Transform()(as_floats), ImageClassification(crop_size=224)(as_floats))


def test_floats_and_batches_give_the_same_as_uint8() -> None:
    images = torch.stack(
        [torch.from_numpy(draw_scene(0, index, (280, 256)).image).permute(2, 0, 1) for index in (0, 1)]
    )
    together = Transform()(images)
    assert together.shape == (2, 3, 224, 224)
    assert torch.equal(together[1], Transform()(images[1]))
    torch.testing.assert_close(Transform()(images / 255), together, rtol=0, atol=0.018)  # bytes are rounded on the way


def test_known_values_of_the_normalisation() -> None:
    grey = torch.full((3, 256, 256), 128, dtype=torch.uint8)
    value = 128 / 255
    expected = torch.tensor([(value - 0.485) / 0.229, (value - 0.456) / 0.224, (value - 0.406) / 0.225])
    torch.testing.assert_close(Transform()(grey), expected[:, None, None].expand(3, 224, 224))


def test_the_crop_is_the_centre_of_the_resized_image() -> None:
    image = torch.zeros(3, 256, 512)
    image[:, 16:240, 144:368] = 1
    assert (Transform()(image)[0] > 2).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_pillow_images_of_any_mode_are_converted_to_rgb(mode: str) -> None:
    image = Image.fromarray(draw_scene(0, 0, (64, 64)).image).convert(mode)
    assert torch.equal(Transform()(image), Transform()(image.convert("RGB")))


def test_the_exif_orientation_is_applied() -> None:
    upright = Image.fromarray(draw_scene(0, 0, (96, 64)).image)
    exif = Image.Exif()
    exif[0x0112] = 8  # to be shown turned by a quarter to the left
    buffer = io.BytesIO()
    upright.rotate(-90, expand=True).save(buffer, "PNG", exif=exif)
    assert torch.equal(Transform()(Image.open(buffer)), Transform()(upright))


def test_floats_above_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 0 to 255; divide them by 255"):
        Transform()(torch.linspace(0, 255, 3 * 64 * 64).reshape(3, 64, 64))


def test_the_transform_is_not_a_module_of_the_network(tmp_path: Path) -> None:
    loaded = load_backbone(write_backbone(tmp_path))
    assert isinstance(loaded.transform, Transform)
    image = Image.fromarray(draw_scene(0, 0, (64, 64)).image)
    assert loaded(loaded.transform(image)[None]).shape == (1, 512, 7, 7)
    assert not any("transform" in name for name in loaded.state_dict())


def no_file(folder: Path) -> Path:
    return folder / "nothing.pth"


def graph(folder: Path) -> Path:
    (folder / "net.onnx").write_bytes(b"x")
    return folder / "net.onnx"


def text(folder: Path) -> Path:
    (folder / "notes.pth").write_text("not weights at all, just words")
    return folder / "notes.pth"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (no_file, FileNotFoundError, r"nothing at .*nothing\.pth"),
        (graph, ValueError, r"net\.onnx is a graph for inference, .* run it with onnxruntime"),
        (text, ValueError, r"notes\.pth"),
        (lambda folder: folder, FileNotFoundError, r"no backbone\.safetensors of any stage"),
    ],
)
def test_a_source_without_backbone_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_backbone(make(tmp_path))


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = export(write_backbone(tmp_path / "from"), "timm", tmp_path / "to")[0]
    with pytest.raises(ValueError, match="resnet34"):
        load_backbone(path, architecture="resnet34")


def test_the_loaded_backbone_is_a_torch_module() -> None:
    assert issubclass(FeatureMaps, nn.Module)
