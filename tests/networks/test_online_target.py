import pytest
import torch
from torch import nn

from orl.networks.backbones import build_backbone, pool, read_backbone_file, save_backbone
from orl.networks.mlp import byol_mlp, load_projector, save_projector
from orl.networks.online_target import Encoder, make_target, update_target


def test_ema_after_three_updates_in_closed_form() -> None:
    target, online = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(target.weight, 5.0)
    nn.init.constant_(online.weight, 1.0)
    for _ in range(3):
        update_target(target, online, 0.9)
    # The distance to the online weight shrinks by the momentum each time.
    assert target.weight.item() == pytest.approx(1 + 4 * 0.9**3)
    assert online.weight.item() == 1


def test_momentum_one_keeps_the_target_and_zero_copies_the_online_network() -> None:
    target, online = nn.Linear(3, 2), nn.Linear(3, 2)
    before = target.weight.clone()
    update_target(target, online, 1.0)
    assert torch.equal(target.weight, before)
    update_target(target, online, 0.0)
    assert torch.equal(target.weight, online.weight)


def test_the_targets_batch_statistics_are_its_own() -> None:
    target, online = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    online(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)) + 5)
    update_target(target, online, 0.0)
    assert torch.equal(target.running_mean, torch.zeros(2))


def test_the_target_is_an_equal_copy_without_gradients() -> None:
    backbone = build_backbone("resnet10")
    online = Encoder(backbone, byol_mlp(512, 8, 4))
    target = make_target(online)
    for own, theirs in zip(target.parameters(), online.parameters()):
        assert torch.equal(own, theirs)
        assert own is not theirs
        assert not own.requires_grad
        assert theirs.requires_grad


def test_projector_has_the_layers_of_the_recipe() -> None:
    projector = byol_mlp(2048, 4096, 256)
    assert [type(layer).__name__ for layer in projector] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert projector[0].weight.shape == (4096, 2048)
    assert projector[3].weight.shape == (256, 4096)
    assert projector[3].bias is None


def test_backbones_have_torchvisions_weight_names_and_features(tmp_path) -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    backbone = build_backbone("resnet18").eval()
    save_backbone(backbone, tmp_path / "b.safetensors")
    theirs = resnet18().eval()
    missing = theirs.load_state_dict(read_backbone_file(tmp_path / "b.safetensors").state_dict(), strict=False)
    assert missing.missing_keys == ["fc.weight", "fc.bias"]
    assert missing.unexpected_keys == []
    theirs.fc = nn.Identity()
    views = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(pool(backbone(views)), theirs(views))


def test_loading_a_backbone_leaves_the_random_state_alone(tmp_path) -> None:
    save_backbone(build_backbone("resnet10"), tmp_path / "b.safetensors")
    before = torch.random.get_rng_state()
    read_backbone_file(tmp_path / "b.safetensors")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_saved_projector_loads_unchanged(tmp_path) -> None:
    projector = byol_mlp(6, 5, 4).eval()
    save_projector(projector, tmp_path / "p.safetensors")
    inputs = torch.randn(3, 6)
    assert torch.equal(load_projector(tmp_path / "p.safetensors")(inputs), projector(inputs))


def test_files_that_are_no_backbone_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="no backbone is called 'resnet19'"):
        build_backbone("resnet19")
    with pytest.raises(FileNotFoundError, match="no backbone at"):
        read_backbone_file(tmp_path / "missing.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(ValueError, match=r"torn.safetensors is not a complete safetensors file"):
        read_backbone_file(tmp_path / "torn.safetensors")
    save_projector(byol_mlp(2, 2, 2), tmp_path / "p.safetensors")
    with pytest.raises(ValueError, match=r"was not written by orl as a backbone \(first keys 0.bias"):
        read_backbone_file(tmp_path / "p.safetensors")
    with pytest.raises(FileNotFoundError, match="no projector at"):
        load_projector(tmp_path / "missing.safetensors")
    save_backbone(build_backbone("resnet10"), tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="was not written by orl as a projector"):
        load_projector(tmp_path / "b.safetensors")
    complete = (tmp_path / "b.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(complete[:-100])
    with pytest.raises(ValueError, match=r"short.safetensors is not a complete safetensors file"):
        read_backbone_file(tmp_path / "short.safetensors")
