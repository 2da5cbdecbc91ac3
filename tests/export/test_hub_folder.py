import json
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file
from tests.export.exported import inside, random_backbone, real_images, synthetic_images, write_backbone, write_run
from timm.data import create_transform, resolve_model_data_config

from orl.export.export import export
from orl.synthetic.scenes import draw_scene
from orl.weights.loading import load_backbone


@pytest.mark.parametrize("name", ["resnet10", "resnet18"])
def test_timm_builds_the_network_from_the_folder_with_equal_features(tmp_path: Path, name: str) -> None:
    export(write_backbone(tmp_path / "from", name), "hub-folder", tmp_path / "to")
    network = timm.create_model(f"local-dir:{tmp_path / 'to'}", pretrained=True).eval()
    images = synthetic_images()
    expected = random_backbone(name)(images)
    assert torch.equal(network.forward_features(images), expected)
    torch.testing.assert_close(network(images), expected.mean(dim=(2, 3)))


def test_features_of_real_images_are_the_same_in_timm(tmp_path: Path, real_data: Path) -> None:
    export(write_backbone(tmp_path / "from"), "hub-folder", tmp_path / "to")
    network, ours = (
        timm.create_model(f"local-dir:{tmp_path / 'to'}", pretrained=True).eval(),
        random_backbone("resnet10"),
    )
    for image in real_images(real_data):
        assert torch.equal(network.forward_features(image), ours(image))


def test_timm_adds_a_classifier_on_request(tmp_path: Path) -> None:
    export(write_backbone(tmp_path / "from"), "hub-folder", tmp_path / "to")
    network = timm.create_model(f"local-dir:{tmp_path / 'to'}", pretrained=True, num_classes=5).eval()
    images = synthetic_images()
    assert network(images).shape == (2, 5)
    assert torch.equal(network.forward_features(images), random_backbone("resnet10")(images))


def test_the_folder_contains_the_files_of_the_hub(tmp_path: Path) -> None:
    written = export(write_backbone(tmp_path / "from", "resnet18"), "hub-folder", tmp_path / "to")
    assert [path.name for path in written] == ["model.safetensors", "config.json", "README.md"]
    config = json.loads(written[1].read_text())
    assert (config["architecture"], config["num_features"], config["num_classes"]) == ("resnet18", 512, 0)
    assert config["pretrained_cfg"]["mean"] == [0.485, 0.456, 0.406]
    assert config["pretrained_cfg"]["std"] == [0.229, 0.224, 0.225]
    expected = random_backbone("resnet18").state_dict()
    found = load_file(written[0])
    assert set(found) == set(expected)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_timms_transform_equals_ours(tmp_path: Path) -> None:
    from PIL import Image

    export(write_backbone(tmp_path / "from"), "hub-folder", tmp_path / "to")
    network = timm.create_model(f"local-dir:{tmp_path / 'to'}", pretrained=True)
    theirs = create_transform(**resolve_model_data_config(network), is_training=False)
    image = Image.fromarray(draw_scene(0, 0, (300, 260)).image)
    # Pillow and torch resize with the same filter, and round to bytes at other places.
    torch.testing.assert_close(theirs(image), load_backbone(tmp_path / "to").transform(image), rtol=0, atol=0.02)


def test_the_model_card_begins_with_the_hubs_fields_and_leaves_the_licence_open(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    card = export(run.root, "hub-folder", tmp_path / "to")[2].read_text()
    _, header, body = card.split("---\n", 2)
    fields = yaml.safe_load(header)
    assert fields["license"] == "unknown"
    assert fields["library_name"] == "timm"
    assert body.lstrip().startswith("# resnet10, stage 3, ORL")


def test_the_lines_on_the_card_load_the_folder(tmp_path: Path) -> None:
    card = export(write_backbone(tmp_path / "from"), "hub-folder", tmp_path / "to")[2].read_text()
    code = card.split("```python\n")[1].split("```")[0].split("from orl import")[0]
    names = {"images": synthetic_images()}
    with inside(tmp_path):
        exec(code.replace("FOLDER", "to"), names)
    assert names["feature_map"].shape == (2, 512, 2, 3)
