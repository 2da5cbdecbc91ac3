"""From settings to what is trained: the method with its networks, its optimiser, its schedules and its views."""

from collections.abc import Callable

import torch
from torch import nn

from orl.config import (
    ByolConfig,
    DenseCLConfig,
    MoCoV2Config,
    RunConfig,
    SelfEMDConfig,
    SimCLRConfig,
    TrainConfig,
    ViewConfig,
)
from orl.methods.byol import BYOL
from orl.methods.densecl import DenseCL
from orl.methods.mocov2 import MoCoV2
from orl.methods.orl import ORL, TERMS
from orl.methods.selfemd import SelfEMD
from orl.methods.simclr import SimCLR
from orl.networks.backbones import Backbone, build_backbone, read_backbone_file
from orl.networks.mlp import byol_mlp, conv1x1, load_projector, moco_mlp, simclr_mlp
from orl.networks.online_target import Encoder
from orl.rundir import RunDir
from orl.schedules import ema_momentum, warmup_cosine
from orl.training.lars import LARS, lars_groups
from orl.training.loop import Schedules
from orl.views.colour import ColourDistribution
from orl.views.view_samplers import ViewDistribution
from orl.weights.find import find_weights_file
from orl.weights.importing import import_weights

Method = BYOL | MoCoV2 | SimCLR | DenseCL | SelfEMD | ORL

ASPECT_RATIO_RANGE = (3 / 4, 4 / 3)


def stage_settings(config: RunConfig, stage: str) -> TrainConfig:
    """The settings of 'stage1' or 'stage3'."""
    return {"stage1": config.stage1, "stage3": config.stage3}[stage]


def build_image_method(config: RunConfig) -> Method:
    """Stage 1's method, its random weights drawn from torch's global generator."""
    start, settings = _start_backbone(config), config.stage1
    match config.method:
        case MoCoV2Config() as method:
            return _mocov2(start, settings, method)
        case SimCLRConfig() as method:
            return _simclr(start, settings, method)
        case DenseCLConfig() as method:
            return _densecl(start, settings, method)
        case SelfEMDConfig() as method:
            return _selfemd(start, settings, method)
        case ByolConfig():
            return BYOL(_encoder(start, settings, byol_mlp), _predictor(settings), join_views=settings.join_views)


def check_batch(config: RunConfig, stage: str, num_processes: int) -> None:
    """Whether the images of a batch can be shared as the settings ask.

    Raises:
        ValueError: if processes, parts or groups of a batch would be uneven or too small, or a queue is no multiple.
    """
    settings, method = stage_settings(config, stage), config.method
    fraction, parts = settings.batch_size // num_processes, settings.accumulation_steps
    if fraction % parts or fraction // parts < 2:
        raise ValueError(
            f"the {fraction} images that a process has of a batch of {settings.batch_size} cannot be passed in {parts} "
            "equal parts of two or more: set another accumulation-steps or batch-size"
        )
    if stage == "stage3" or not isinstance(method, MoCoV2Config | DenseCLConfig):
        return
    passed, groups = settings.batch_size // parts, method.num_groups
    if passed % groups or passed // groups < 2 or groups % num_processes:
        raise ValueError(
            f"the {passed} images that pass at once on {num_processes} processes cannot be split into {groups} equal "
            "groups of two or more, as many in each process: set another --method.num-groups"
        )
    if method.queue_size % settings.batch_size:
        raise ValueError(
            f"a queue of {method.queue_size} keys is no multiple of the batch of {settings.batch_size}: set another "
            "--method.queue-size"
        )


def build_orl(config: RunConfig) -> ORL:
    """Stage 3's method, its random weights drawn from torch's global generator; a warm start reads stage 1's files.

    Raises:
        ValueError: if a warm start finds a projector of another size.
    """
    run, settings, objects = RunDir(config.out), config.stage3, config.objects
    encoder = _encoder(_start_backbone(config), settings, byol_mlp)
    if objects.warm_start:
        encoder = Encoder(read_backbone_file(run.backbone("stage1")), load_projector(run.projector("stage1")))
    weights = {"global": objects.global_weight, "intra": objects.intra_weight, "inter": objects.inter_weight}
    predictors: dict[str, nn.Module] = {term: _predictor(settings) for term in TERMS}
    return ORL(encoder, predictors, weights, join_views=settings.join_views)


def build_optimiser(method: Method, settings: TrainConfig) -> torch.optim.Optimizer:
    """SGD or LARS over all weights that are trained."""
    if settings.optimiser == "lars":
        return LARS(
            lars_groups(method),
            lr=peak_lr(settings),
            momentum=settings.sgd_momentum,
            weight_decay=settings.weight_decay,
        )
    return torch.optim.SGD(
        [weight for weight in method.parameters() if weight.requires_grad],
        lr=peak_lr(settings),
        momentum=settings.sgd_momentum,
        weight_decay=settings.weight_decay,
    )


def peak_lr(settings: TrainConfig) -> float:
    """The highest learning rate: linear in the batch over all processes and parts."""
    return settings.base_lr * settings.batch_size / 256


def build_schedules(settings: TrainConfig, steps_per_epoch: int) -> Schedules:
    """Learning rate and momentum of the target, step by step."""
    num_steps = steps_per_epoch * settings.epochs
    num_warmup_steps = round(settings.warmup_epochs * steps_per_epoch)

    def values_at(step: int) -> dict[str, float]:
        rises = settings.ema_rises
        return {
            "lr": warmup_cosine(step, num_steps, num_warmup_steps, peak_lr(settings)),
            "ema_momentum": ema_momentum(step, num_steps, settings.ema_momentum) if rises else settings.ema_momentum,
        }

    return Schedules(values_at=values_at, num_warmup_steps=num_warmup_steps)


def view_distribution(views: ViewConfig) -> ViewDistribution:
    """How views are cut and coloured, out of the settings."""
    brightness, contrast, saturation, hue = views.jitter
    distributions = [
        ColourDistribution(
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
            hue=hue,
            blur_probability=views.blur_probabilities[view],
            blur_sigma_px=views.blur_sigma_px,
            solarise_probability=views.solarise_probabilities[view],
        )
        for view in range(2)
    ]
    return ViewDistribution(
        size_px=views.size_px,
        area_range=views.area_range,
        aspect_ratio_range=ASPECT_RATIO_RANGE,
        colours=(distributions[0], distributions[1]),
    )


def load_start(config: RunConfig) -> Backbone | None:
    """The backbone that training starts from, if not from random weights.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no backbone, or another one than the settings say.
    """
    if config.init_from is None:
        return None
    start = import_weights(find_weights_file(config.init_from)).backbone
    if start.name != config.network.backbone:
        raise ValueError(
            f"--init-from {config.init_from} holds a {start.name}, and --network.backbone is {config.network.backbone}"
        )
    return start


def _start_backbone(config: RunConfig) -> Backbone:
    return load_start(config) or build_backbone(config.network.backbone)


def _mocov2(start: Backbone, settings: TrainConfig, method: MoCoV2Config) -> MoCoV2:
    return MoCoV2(
        _encoder(start, settings, moco_mlp),
        queue_size=method.queue_size,
        temperature=method.temperature,
        num_groups=method.num_groups,
    )


def _simclr(start: Backbone, settings: TrainConfig, method: SimCLRConfig) -> SimCLR:
    encoder = _encoder(start, settings, simclr_mlp)
    return SimCLR(encoder, temperature=method.temperature, join_views=settings.join_views)


def _densecl(start: Backbone, settings: TrainConfig, method: DenseCLConfig) -> DenseCL:
    return DenseCL(
        _encoder(start, settings, moco_mlp),
        conv1x1(moco_mlp(start.num_channels, settings.hidden_features, settings.projection_features)),
        queue_size=method.queue_size,
        temperature=method.temperature,
        num_groups=method.num_groups,
        dense_weight=method.dense_weight,
    )


def _selfemd(start: Backbone, settings: TrainConfig, method: SelfEMDConfig) -> SelfEMD:
    return SelfEMD(
        _encoder(start, settings, byol_mlp),
        conv1x1(byol_mlp(start.num_channels, settings.hidden_features, settings.projection_features)),
        _predictor(settings),
        conv1x1(_predictor(settings)),
        dense_weight=method.dense_weight,
        regularisation=method.regularisation,
        num_iterations=method.num_iterations,
        join_views=settings.join_views,
    )


def _encoder(backbone: Backbone, settings: TrainConfig, projector: Callable[[int, int, int], nn.Sequential]) -> Encoder:
    sizes = backbone.num_channels, settings.hidden_features, settings.projection_features
    return Encoder(backbone, projector(*sizes))


def _predictor(settings: TrainConfig) -> nn.Sequential:
    return byol_mlp(settings.projection_features, settings.hidden_features, settings.projection_features)
