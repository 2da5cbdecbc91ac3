"""Small files as other programs write them, from a network that the test knows.

Names are rewritten here by substitution in torchvision's names, independently of `orl.weights`. Each layout's docstring
says where its names are from: a file of a public repository, or the installed package that writes them here.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightly.models.modules as lightly_heads
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet, resnet18, resnet50

Weights = dict[str, Tensor]
WIDTH = {"resnet10": 512, "resnet18": 512, "resnet50": 2048}


@dataclass(frozen=True)
class Foreign:
    """A file's content, and what is in it."""

    layout: str
    content: Any
    projector: nn.Module | None = None
    predictor: nn.Module | None = None


def known_resnet(name: str = "resnet10", seed: int = 0) -> ResNet:
    """A ResNet with random weights and statistics, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        builders = {"resnet10": lambda: ResNet(BasicBlock, [1, 1, 1, 1]), "resnet18": resnet18, "resnet50": resnet50}
        network = builders[name]()
        randomise_statistics(network)
    return network.eval()


def randomise_statistics(network: nn.Module) -> None:
    """Random weights, biases and running statistics for every batch normalisation."""
    for part in network.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.uniform_(-0.2, 0.2)
            part.running_var.uniform_(0.8, 1.2)
            part.num_batches_tracked.fill_(7)
            if part.affine:
                nn.init.uniform_(part.weight, 0.8, 1.2)
                nn.init.uniform_(part.bias, -0.2, 0.2)


def feature_map_of(network: ResNet, images: Tensor) -> Tensor:
    """Torchvision's own computation up to the pooling."""
    x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    return network.layer4(network.layer3(network.layer2(network.layer1(x))))


def head(*sizes: int, norms: str, biases: str, seed: int = 1) -> nn.Sequential:
    """Linear layers with ReLU between; 'x' in `norms` and `biases` says which have a BN after them, and a bias."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        last = len(sizes) - 2
        for number in range(last + 1):
            layers.append(nn.Linear(sizes[number], sizes[number + 1], bias=biases[number] == "x"))
            if norms[number] == "x":
                layers.append(nn.BatchNorm1d(sizes[number + 1]))
            if number < last:
                layers.append(nn.ReLU())
        network = nn.Sequential(*layers)
        randomise_statistics(network)
    return network.eval()


def without_affine(norm: nn.Module) -> None:
    """Make it a normalisation that was built with `affine=False`."""
    norm.affine, norm.weight, norm.bias = False, None, None


def below(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def trunk(resnet: ResNet) -> Weights:
    """Its weights without the classifier."""
    return {name: value for name, value in resnet.state_dict().items() if not name.startswith("fc.")}


def average_of(weights: Weights, *changes: tuple[str, str]) -> Weights:
    """A moving average of other values under changed names."""
    averaged = {}
    for name, value in weights.items():
        for before, after in changes:
            name = name.replace(before, after)
        averaged[name] = value * 0.5 if value.is_floating_point() else value
    return averaged


def torchvision_file(resnet: ResNet, width: int) -> Foreign:
    """Written by torchvision itself. So are DINO's `dino_resnet50_pretrain.pth` and Barlow Twins' `resnet50.pth`."""
    return Foreign("torchvision or timm", resnet.state_dict())


def orl_checkpoint(resnet: ResNet, width: int) -> Foreign:
    """Names of `orl.methods.orl`; `test_orl_checkpoints_are_imported` takes them from the class itself."""
    projector, predictor = head(width, 32, 16, norms="x.", biases="x."), head(16, 24, 16, norms="x.", biases="x.")
    online = below("online.backbone.", trunk(resnet)) | below("online.projector.", projector.state_dict())
    predictors = {
        name: value
        for term, scale in (("intra", 0.3), ("global", 1.0), ("inter", 0.6))
        for name, value in below(f"predictors.{term}.", scaled(predictor.state_dict(), scale)).items()
    }
    method = average_of(online, ("online.", "target.")) | online | predictors
    content = {"orl_checkpoint": 1, "step": 12, "method": method, "optimiser": {"state": {}, "param_groups": []}}
    return Foreign("orl checkpoint", content, projector, predictor)


def scaled(weights: Weights, scale: float) -> Weights:
    return {name: value * scale if value.is_floating_point() else value for name, value in weights.items()}


def orl_stage_1_checkpoint(resnet: ResNet, width: int) -> Foreign:
    """Names of `orl.methods.byol`."""
    projector, predictor = head(width, 32, 16, norms="x.", biases="x."), head(16, 24, 16, norms="x.", biases="x.")
    online = below("online.backbone.", trunk(resnet)) | below("online.projector.", projector.state_dict())
    method = online | average_of(online, ("online.", "target.")) | below("predictor.", predictor.state_dict())
    return Foreign("orl checkpoint", {"orl_checkpoint": 1, "method": method}, projector, predictor)


def fc_names(head: nn.Module) -> Weights:
    """Weights of a Linear, BN, ReLU, Linear (, BN) under the names fc0, bn0, fc1 (, bn1) of OpenSelfSup."""
    names = {"0": "fc0", "1": "bn0", "3": "fc1", "4": "bn1"}
    return {f"{names[name[0]]}{name[1:]}": value for name, value in head.state_dict().items()}


def mmcv_checkpoint(weights: Weights) -> dict[str, Any]:
    """Follow `save_checkpoint` of mmcv 0.x and 1.x: without 'module.', and with the optimiser's state."""
    meta = {"mmcv_version": "0.6.2", "time": "Fri Oct  1 10:00:00 2021", "epoch": 800, "iter": 184800}
    momentum = {number: {"momentum_buffer": value} for number, value in enumerate(weights.values())}
    optimizer = {"state": momentum, "param_groups": [{"lr": 0.4, "params": list(momentum)}]}
    return {"meta": meta, "state_dict": OrderedDict(weights), "optimizer": optimizer}


def byol_heads(width: int, biases: str) -> tuple[nn.Sequential, nn.Sequential]:
    return head(width, 32, 16, norms="x.", biases=biases), head(16, 24, 16, norms="x.", biases=biases, seed=2)


def published_orl(resnet: ResNet, width: int) -> Foreign:
    """Stage 3: Jiahao000/ORL, `models/orl.py`, `necks.py` and `configs/selfsup/orl/coco/stage3/r50_bs512_ep800.py`.

    Its NonLinearNeckSimCLR has a bias in fc0, none in fc1, and no last BN. `backbone` and `neck` are the online
    network's parts, registered twice.
    """
    projector, predictor = byol_heads(width, "x.")
    parts = {"0.": trunk(resnet), "1.": fc_names(projector)}
    online = {f"online_net.{part}{name}": value for part, weights in parts.items() for name, value in weights.items()}
    weights = online | average_of(online, ("online_net", "target_net"))
    weights |= below("backbone.", trunk(resnet)) | below("neck.", fc_names(projector))
    for term, scale in (("global", 1.0), ("local_intra", 0.3), ("local_inter", 0.6)):
        weights |= below(f"{term}_head.predictor.", scaled(fc_names(predictor), scale))
    return Foreign("ORL (published)", mmcv_checkpoint(weights), projector, predictor)


def published_orl_stage_1(resnet: ResNet, width: int) -> Foreign:
    """Stage 1: Jiahao000/ORL, `models/byol.py`, `heads/latent_pred_head.py` and `stage1/r50_bs512_ep800.py`."""
    projector, predictor = byol_heads(width, "x.")
    online = below("online_net.0.", trunk(resnet)) | below("online_net.1.", fc_names(projector))
    weights = online | average_of(online, ("online_net", "target_net"))
    weights |= below("backbone.", trunk(resnet)) | below("neck.", fc_names(projector))
    weights |= below("head.predictor.", fc_names(predictor))
    return Foreign("OpenSelfSup BYOL", mmcv_checkpoint(weights), projector, predictor)


def openselfsup_byol(resnet: ResNet, width: int) -> Foreign:
    """OpenSelfSup (now open-mmlab/mmselfsup), `models/byol.py` and `configs/selfsup/byol/r50_bs256_ep200.py`.

    NonLinearNeckV2 is an `mlp`; upstream registers no `neck`.
    """
    projector, predictor = byol_heads(width, "xx")
    online = below("online_net.0.", trunk(resnet)) | below("online_net.1.mlp.", projector.state_dict())
    weights = average_of(online, ("online_net", "target_net")) | online
    weights |= below("backbone.", trunk(resnet)) | below("head.predictor.mlp.", predictor.state_dict())
    return Foreign("OpenSelfSup BYOL", mmcv_checkpoint(weights), projector, predictor)


def openselfsup_byol_large_batch(resnet: ResNet, width: int) -> Foreign:
    """OpenSelfSup, `configs/selfsup/byol/r50_bs2048_accumulate2_ep200_fp16.py`: NonLinearNeckSimCLR with biases."""
    projector, predictor = byol_heads(width, "xx")
    online = below("online_net.0.", trunk(resnet)) | below("online_net.1.", fc_names(projector))
    weights = online | average_of(online, ("online_net", "target_net")) | below("backbone.", trunk(resnet))
    weights |= below("head.predictor.", fc_names(predictor))
    return Foreign("OpenSelfSup BYOL", mmcv_checkpoint(weights), projector, predictor)


def mmselfsup_byol(resnet: ResNet, width: int) -> Foreign:
    """MMSelfSup 1.x and MMPretrain, `algorithms/byol.py`, `necks/nonlinear_neck.py`, `_base_/models/byol.py`.

    The average is mmengine's BaseAveragedModel, which wraps `nn.Sequential(backbone, neck)` as `module` and counts
    `steps`.
    """
    projector, predictor = byol_heads(width, "x.")
    online = {"0.": trunk(resnet), "1.": fc_names(projector)}
    weights = below("backbone.", trunk(resnet)) | below("neck.", fc_names(projector))
    weights |= below("head.predictor.", fc_names(predictor))
    for part, values in online.items():
        weights |= below(f"target_net.module.{part}", scaled(values, 0.5))
    weights["target_net.steps"] = torch.tensor(9)
    return Foreign("OpenSelfSup SimCLR", {"meta": {}, "state_dict": weights}, projector, predictor)


def openselfsup_simclr(resnet: ResNet, width: int) -> Foreign:
    """OpenSelfSup's `necks.py`, and `simclr/coco/r50_bs512_ep800.py` of Jiahao000/ORL, which sets fc0_bias False."""
    projector = head(width, 32, 16, norms="xx", biases="..")
    weights = below("backbone.", trunk(resnet)) | below("neck.", fc_names(projector))
    return Foreign("OpenSelfSup SimCLR", mmcv_checkpoint(weights), projector)


def openselfsup_odc(resnet: ResNet, width: int) -> Foreign:
    """OpenSelfSup's `odc.py` and NonLinearNeckV0: a ReLU follows fc1, which the weights do not show."""
    neck = {"neck.fc0.weight": torch.randn(32, width), "neck.fc1.weight": torch.randn(16, 32)}
    weights = below("backbone.", trunk(resnet)) | neck | {"head.fc_cls.weight": torch.randn(9, 16)}
    return Foreign("OpenSelfSup ODC", mmcv_checkpoint(weights))


def openselfsup_moco(resnet: ResNet, width: int) -> Foreign:
    """OpenSelfSup's `moco.py` and NonLinearNeckV1 (MoCo v2)."""
    projector = head(width, 32, 16, norms="..", biases="xx")
    query = below("encoder_q.0.", trunk(resnet)) | below("encoder_q.1.mlp.", projector.state_dict())
    weights = {"queue": torch.randn(16, 64), "queue_ptr": torch.zeros(1, dtype=torch.int64)}
    weights |= query | average_of(query, ("encoder_q", "encoder_k")) | below("backbone.", trunk(resnet))
    return Foreign("OpenSelfSup MoCo", mmcv_checkpoint(weights), projector)


def openselfsup_moco_v1(resnet: ResNet, width: int) -> Foreign:
    """OpenSelfSup's `moco.py` and LinearNeck."""
    projector = head(width, 16, norms=".", biases="x")
    neck = {"fc.weight": projector[0].weight.detach(), "fc.bias": projector[0].bias.detach()}
    query = below("encoder_q.0.", trunk(resnet)) | below("encoder_q.1.", neck)
    weights = {"queue": torch.randn(16, 64)} | query | average_of(query, ("encoder_q", "encoder_k"))
    return Foreign("OpenSelfSup MoCo", mmcv_checkpoint(weights | below("backbone.", trunk(resnet))), projector)


def densecl(resnet: ResNet, width: int) -> Foreign:
    """WXinlong/DenseCL, `models/densecl.py` and DenseCLNeck."""
    projector = head(width, 32, 16, norms="..", biases="xx")
    dense = nn.Sequential(nn.Conv2d(width, 32, 1), nn.ReLU(), nn.Conv2d(32, 16, 1))
    query = below("encoder_q.0.", trunk(resnet)) | below("encoder_q.1.mlp.", projector.state_dict())
    query |= below("encoder_q.1.mlp2.", dense.state_dict())
    weights = {"queue": torch.randn(16, 64), "queue2": torch.randn(16, 64)}
    weights |= query | average_of(query, ("encoder_q", "encoder_k")) | below("backbone.", trunk(resnet))
    return Foreign("DenseCL", mmcv_checkpoint(weights), projector)


def densecl_extracted(resnet: ResNet, width: int) -> Foreign:
    """WXinlong/DenseCL, `tools/extract_backbone_weights.py`; OpenSelfSup's is the same but for the author."""
    return Foreign("torchvision or timm", {"state_dict": trunk(resnet), "author": "DenseCL"})


def moco_v1(resnet: ResNet, width: int) -> Foreign:
    """facebookresearch/moco, `moco/builder.py` without --mlp, and `save_checkpoint` of `main_moco.py`."""
    projector = head(width, 16, norms=".", biases="x")
    fc = {"fc.weight": projector[0].weight.detach(), "fc.bias": projector[0].bias.detach()}
    query = below("module.encoder_q.", trunk(resnet) | fc)
    weights = query | average_of(query, ("encoder_q", "encoder_k"))
    weights |= {"module.queue": torch.randn(16, 64), "module.queue_ptr": torch.zeros(1, dtype=torch.int64)}
    return Foreign("MoCo v1", {"epoch": 200, "arch": "resnet50", "state_dict": weights, "optimizer": {}}, projector)


def moco_v2(resnet: ResNet, width: int) -> Foreign:
    """facebookresearch/moco, `moco/builder.py` with --mlp."""
    projector = head(width, 32, 16, norms="..", biases="xx")
    query = below("module.encoder_q.", trunk(resnet) | below("fc.", projector.state_dict()))
    weights = average_of(query, ("encoder_q", "encoder_k")) | query
    weights |= {"module.queue": torch.randn(16, 64), "module.queue_ptr": torch.zeros(1, dtype=torch.int64)}
    return Foreign("MoCo v2", {"epoch": 800, "arch": "resnet50", "state_dict": weights, "optimizer": {}}, projector)


def swav(resnet: ResNet, width: int) -> Foreign:
    """facebookresearch/swav, `src/resnet50.py`; its published files are plain state dicts below 'module.'."""
    projector = head(width, 32, 16, norms="x.", biases="xx")
    weights = below("module.", trunk(resnet)) | below("module.projection_head.", projector.state_dict())
    return Foreign("SwAV", weights | {"module.prototypes.weight": torch.randn(30, 16)}, projector)


def simsiam(resnet: ResNet, width: int) -> Foreign:
    """facebookresearch/simsiam, `simsiam/builder.py`.

    Three layers; the last normalisation has neither weight nor bias, and the linear layer before it a bias.
    """
    projector = head(width, width, width, 16, norms="xxx", biases="..x")
    without_affine(projector[-1])
    predictor = head(16, 8, 16, norms="x.", biases=".x")
    encoder = trunk(resnet) | below("fc.", projector.state_dict())
    weights = below("module.encoder.", encoder) | below("module.predictor.", predictor.state_dict())
    return Foreign("SimSiam", {"epoch": 100, "state_dict": weights}, projector, predictor)


def barlow_twins(resnet: ResNet, width: int) -> Foreign:
    """facebookresearch/barlowtwins, `main.py`; VICReg's `main_vicreg.py` has biases in all layers but the last."""
    projector = head(width, 32, 32, 16, norms="xx.", biases="...")
    weights = below("module.backbone.", trunk(resnet)) | below("module.projector.", projector.state_dict())
    weights |= below("module.bn.", nn.BatchNorm1d(16, affine=False).state_dict())
    return Foreign("Barlow Twins or VICReg", {"epoch": 1, "model": weights}, projector)


def simclr(resnet: ResNet, width: int) -> Foreign:
    """sthalles/SimCLR, `models/resnet_simclr.py`, with its head of MoCo v2's form in `backbone.fc`."""
    projector = head(width, 32, 16, norms="..", biases="xx")
    weights = below("backbone.", trunk(resnet) | below("fc.", projector.state_dict()))
    return Foreign("SimCLR", {"state_dict": weights}, projector)


def lightly_byol(resnet: ResNet, width: int) -> Foreign:
    """lightly's `examples/pytorch_lightning/byol.py`, with heads of the installed lightly.

    The backbone is `nn.Sequential(*list(resnet.children())[:-1])`.
    """
    backbone = nn.Sequential(*list(resnet.children())[:-1])
    with torch.random.fork_rng():
        torch.manual_seed(2)
        projector = lightly_heads.BYOLProjectionHead(width, 32, 16).eval()
        predictor = lightly_heads.BYOLPredictionHead(16, 24, 16).eval()
        randomise_statistics(nn.ModuleList([projector, predictor]))
    online = below("backbone.", backbone.state_dict()) | below("projection_head.", projector.state_dict())
    average = average_of(online, ("backbone.", "backbone_momentum."), ("projection_head.", "projection_head_momentum."))
    weights = online | average | below("prediction_head.", predictor.state_dict())
    content = {"pytorch-lightning_version": "2.1.0", "state_dict": weights, "hyper_parameters": {}}
    return Foreign("lightly", content, projector, predictor)


def lightly_simclr_by_names(resnet: ResNet, width: int) -> Foreign:
    """A head of the installed lightly, on a ResNet that keeps its names."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        projector = lightly_heads.SimCLRProjectionHead(width, 32, 16).eval()
        randomise_statistics(projector)
    weights = below("backbone.", trunk(resnet)) | below("projection_head.", projector.state_dict())
    return Foreign("lightly", {"state_dict": weights}, projector)


def moco_v3(resnet: ResNet, width: int) -> Foreign:
    """facebookresearch/moco-v3, `moco/builder.py`: the last normalisation of both heads has no weight and no bias."""
    projector, predictor = head(width, 32, 16, norms="xx", biases=".."), head(16, 24, 16, norms="xx", biases="..")
    without_affine(projector[-1])
    without_affine(predictor[-1])
    encoder = trunk(resnet) | below("fc.", projector.state_dict())
    weights = below("module.momentum_encoder.", scaled(encoder, 0.5)) | below("module.base_encoder.", encoder)
    return Foreign(
        "MoCo v3", {"state_dict": weights | below("module.predictor.", predictor.state_dict())}, projector, predictor
    )


def mmselfsup_moco(resnet: ResNet, width: int) -> Foreign:
    """MMSelfSup 1.x and MMPretrain, `algorithms/moco.py` and `necks/mocov2_neck.py`."""
    projector = head(width, 32, 16, norms="..", biases="xx")
    weights = below("backbone.", trunk(resnet)) | below("neck.mlp.", projector.state_dict())
    weights |= {"queue": torch.randn(16, 64)} | below("encoder_k.module.0.", scaled(trunk(resnet), 0.5))
    weights |= below("encoder_k.module.1.mlp.", scaled(projector.state_dict(), 0.5))
    return Foreign("OpenSelfSup", {"state_dict": weights}, projector)


def mmselfsup_swav(resnet: ResNet, width: int) -> Foreign:
    """MMSelfSup, `necks/swav_neck.py`: its normalisation is registered twice; L2 normalisation follows the neck."""
    projector = head(width, 32, 16, norms="x.", biases="xx")
    weights = below("backbone.", trunk(resnet)) | below("neck.projection_neck.", projector.state_dict())
    weights |= below("neck.bn.", projector[1].state_dict()) | {"head.prototypes.weight": torch.randn(30, 16)}
    return Foreign("MMSelfSup SwAV", {"state_dict": weights}, projector)


def simclr_of_encoder_and_projector(resnet: ResNet, width: int) -> Foreign:
    """Spijkervet/SimCLR, `simclr/simclr.py`."""
    projector = head(width, 32, 16, norms="..", biases="..")
    weights = below("encoder.", trunk(resnet)) | below("projector.", projector.state_dict())
    return Foreign("SimCLR or BYOL", weights, projector)


def old_solo_learn(resnet: ResNet, width: int) -> Foreign:
    """vturrisi/solo-learn before 1.0.4, which named the backbone `encoder`."""
    projector = head(width, 32, 16, norms="..", biases="xx")
    weights = below("encoder.", trunk(resnet)) | below("projector.", projector.state_dict())
    weights |= below("momentum_encoder.", scaled(trunk(resnet), 0.5))
    weights |= below("classifier.", nn.Linear(width, 10).state_dict())
    return Foreign("solo-learn (before 1.0.4)", {"state_dict": weights}, projector)


def numbered_parts_somewhere(resnet: ResNet, width: int) -> Foreign:
    """No program's: `nn.Sequential(*resnet.children())` as a part of a user's module."""
    weights = below("model.resnet.", nn.Sequential(*list(resnet.children())[:-2]).state_dict())
    return Foreign("ResNet (model.resnet)", {"state_dict": weights | {"model.other.4.0.conv1.weight": torch.ones(1)}})


def solo_learn_byol(resnet: ResNet, width: int) -> Foreign:
    """vturrisi/solo-learn, `solo/methods/byol.py` and `solo/methods/base.py`."""
    projector, predictor = head(width, 32, 16, norms="x.", biases="xx"), head(16, 24, 16, norms="x.", biases="xx")
    online = below("backbone.", trunk(resnet)) | below("projector.", projector.state_dict())
    weights = online | average_of(online, ("backbone.", "momentum_backbone."), ("projector.", "momentum_projector."))
    weights |= below("classifier.", nn.Linear(width, 10).state_dict()) | below("predictor.", predictor.state_dict())
    return Foreign("solo-learn", {"epoch": 3, "state_dict": weights}, projector, predictor)


def lightning(resnet: ResNet, width: int) -> Foreign:
    """No program's: a user's LightningModule."""
    weights = below("network.encoder.", resnet.state_dict())
    content = {"pytorch-lightning_version": "2.1.0", "global_step": 3, "state_dict": weights}
    return Foreign("PyTorch Lightning (network.encoder)", content)


def dino(resnet: ResNet, width: int) -> Foreign:
    """facebookresearch/dino, `save_dict` of `main_dino.py`: MultiCropWrapper's backbone and head, each below 'module.'.

    DINOHead ends in a layer with weight normalisation, which orl does not build.
    """
    head_weights = {"head.mlp.0.weight": torch.randn(8, width), "head.last_layer.weight_v": torch.randn(9, 8)}
    student = below("module.", below("backbone.", trunk(resnet)) | head_weights)
    content = {"teacher": scaled(student, 0.5), "student": student, "epoch": 100, "optimizer": {"state": {}}}
    return Foreign("DINO", content)


def timm_with_average(resnet: ResNet, width: int) -> Foreign:
    """timm's `utils/checkpoint_saver.py` with --model-ema."""
    weights = dict(resnet.state_dict())
    content = {"epoch": 3, "arch": "resnet50", "state_dict": weights, "state_dict_ema": scaled(weights, 0.5)}
    return Foreign("torchvision or timm", content | {"optimizer": {"state": {}}})


def torchvision_with_average(resnet: ResNet, width: int) -> Foreign:
    """torchvision's `references/classification/train.py` with --model-ema, whose average is torch's AveragedModel."""
    weights = dict(resnet.state_dict())
    average = below("module.", scaled(weights, 0.5)) | {"n_averaged": torch.tensor(3)}
    return Foreign("torchvision or timm", {"model": weights, "optimizer": {"state": {}}, "model_ema": average})


def student_and_teacher(resnet: ResNet, width: int) -> Foreign:
    """No program's: two networks in one state dict."""
    weights = below("teacher.", scaled(trunk(resnet), 0.5)) | below("student.", trunk(resnet))
    return Foreign("ResNet (student)", weights)


def vissl(resnet: ResNet, width: int) -> Foreign:
    """facebookresearch/vissl, `extra_scripts/convert_vissl_to_torchvision.py` and `trunks/resnext.py`."""
    model = {
        "trunk": below("_feature_blocks.", trunk(resnet)),
        "heads": below("0.clf.0.", nn.Linear(width, 8).state_dict()),
    }
    return Foreign("VISSL", {"phase_idx": 100, "classy_state_dict": {"base_model": {"model": model}, "losses": {}}})


def mmdet(resnet: ResNet, width: int) -> Foreign:
    """MMDetection's `backbones/resnet.py` and `necks/fpn.py`."""
    weights = below("backbone.", trunk(resnet)) | {"neck.lateral_convs.0.conv.weight": torch.randn(8, 4, 1, 1)}
    return Foreign("mmdet detector", {"meta": {}, "state_dict": weights | {"rpn_head.rpn_cls.bias": torch.randn(3)}})


def torchvision_detector(resnet: ResNet, width: int) -> Foreign:
    """torchvision's BackboneWithFPN names its backbone `body`; FrozenBatchNorm2d counts no batches."""
    weights = {name: value for name, value in trunk(resnet).items() if "num_batches" not in name}
    return Foreign("torchvision detector", below("backbone.body.", weights) | {"roi_heads.bias": torch.randn(3)})


def detectron2_names(weights: Weights) -> Weights:
    """By substitution: blocks are res2 to res5, and a BN is the `norm` of its convolution."""
    renamed = {}
    for name, value in weights.items():
        for before, after in [
            ("layer4.", "res5."),
            ("layer3.", "res4."),
            ("layer2.", "res3."),
            ("layer1.", "res2."),
            ("downsample.0.", "shortcut."),
            ("downsample.1.", "shortcut.norm."),
            ("bn1.", "conv1.norm."),
            ("bn2.", "conv2.norm."),
            ("bn3.", "conv3.norm."),
        ]:
            name = name.replace(before, after)
        renamed[name if name.startswith("res") else f"stem.{name}"] = value
    return renamed


def detectron2(resnet: ResNet, width: int) -> Foreign:
    """facebookresearch/moco's `convert-pretrain-to-detectron2.py`, and Detectron2's `convert-torchvision-to-d2.py`.

    With counts of batches, the classifier as `stem.fc`.
    """
    arrays = {name: value.numpy() for name, value in detectron2_names(dict(resnet.state_dict())).items()}
    return Foreign("Detectron2", {"model": arrays, "__author__": "third party", "matching_heuristics": True})


def detectron2_detector(resnet: ResNet, width: int) -> Foreign:
    """Detectron2's `modeling/backbone/resnet.py` and `fpn.py`: without counts of batches."""
    without_counts = {name: value for name, value in trunk(resnet).items() if "num_batches" not in name}
    weights = OrderedDict(below("backbone.bottom_up.", detectron2_names(without_counts)))
    weights["backbone.fpn_lateral2.weight"] = torch.randn(8, 4, 1, 1)
    return Foreign("Detectron2 detector", {"model": weights, "iteration": 9})


LAYOUTS: dict[str, Callable[[ResNet, int], Foreign]] = {
    build.__name__: build
    for build in (
        torchvision_file,
        orl_checkpoint,
        orl_stage_1_checkpoint,
        published_orl,
        published_orl_stage_1,
        openselfsup_byol,
        openselfsup_byol_large_batch,
        mmselfsup_byol,
        openselfsup_odc,
        openselfsup_moco_v1,
        mmselfsup_swav,
        dino,
        timm_with_average,
        torchvision_with_average,
        openselfsup_simclr,
        openselfsup_moco,
        densecl,
        densecl_extracted,
        moco_v1,
        moco_v2,
        swav,
        simsiam,
        barlow_twins,
        simclr,
        lightly_byol,
        lightly_simclr_by_names,
        moco_v3,
        mmselfsup_moco,
        simclr_of_encoder_and_projector,
        old_solo_learn,
        numbered_parts_somewhere,
        solo_learn_byol,
        lightning,
        student_and_teacher,
        vissl,
        mmdet,
        torchvision_detector,
        detectron2,
        detectron2_detector,
    )
}
