"""Method, optimiser, schedules and view distribution of a training stage, built from the config."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

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
from orl.networks.initial_weights import initialise
from orl.networks.mlp import byol_mlp, conv1x1, load_projector, moco_mlp, simclr_mlp
from orl.networks.names import InitialWeights
from orl.networks.online_target import Encoder
from orl.rundir import RunDir
from orl.schedules import ema_momentum, epoch_cosine, warmup_cosine
from orl.training.lars import LARS, lars_groups
from orl.training.loop import Schedules
from orl.views.colour import ColourDistribution
from orl.views.view_samplers import ViewDistribution

Method = BYOL | MoCoV2 | SimCLR | DenseCL | SelfEMD | ORL

MlpForm = Callable[[int, int, int], nn.Sequential]
"""A function of `orl.networks.mlp`: sizes of input, hidden layer and output -> layers."""

ASPECT_RATIO_RANGE = (3 / 4, 4 / 3)


def stage_config(config: RunConfig, stage: str) -> TrainConfig:
    """Return the training config of 'stage1' or 'stage3'."""
    return {"stage1": config.stage1, "stage3": config.stage3}[stage]


def build_image_method(config: RunConfig, start: Backbone | None = None) -> Method:
    """Build stage 1's method; random weights come from torch's global generator.

    Args:
        config: the run.
        start: backbone that training starts from; it is copied. Random weights if not given.
    """
    parts, train = _new_parts(config, config.stage1, start), config.stage1
    match config.method:
        case MoCoV2Config() as method:
            return _mocov2(parts, method)
        case SimCLRConfig() as method:
            encoder = parts.encoder(simclr_mlp)
            return SimCLR(encoder, temperature=method.temperature, join_views=train.join_views)
        case DenseCLConfig() as method:
            return _densecl(parts, method)
        case SelfEMDConfig() as method:
            return _selfemd(parts, method)
        case ByolConfig():
            return BYOL(parts.encoder(byol_mlp), parts.predictor(), join_views=train.join_views)


def build_orl(config: RunConfig, start: Backbone | None = None) -> ORL:
    """Build stage 3's method; random weights come from torch's global generator.

    Args:
        config: the run; a warm start reads the files of its stage 1.
        start: backbone that training starts from without a warm start; it is copied. Random weights if not given.

    Raises:
        ValueError: if the projector of a warm start has another size.
    """
    run, train, objects = RunDir(config.out), config.stage3, config.objects
    parts = _new_parts(config, train, start)
    encoder = parts.encoder(byol_mlp)
    if objects.warm_start:
        encoder = Encoder(read_backbone_file(run.backbone("stage1")), load_projector(run.projector("stage1")))
    weights = {"global": objects.global_weight, "intra": objects.intra_weight, "inter": objects.inter_weight}
    predictors: dict[str, nn.Module] = {term: parts.predictor() for term in TERMS}
    return ORL(encoder, predictors, weights, join_views=train.join_views)


def build_optimiser(method: Method, train: TrainConfig) -> torch.optim.Optimizer:
    """Build SGD or LARS over all trainable weights."""
    if train.optimiser == "lars":
        return LARS(
            lars_groups(method),
            lr=peak_lr(train),
            momentum=train.sgd_momentum,
            weight_decay=train.weight_decay,
        )
    return torch.optim.SGD(
        [weight for weight in method.parameters() if weight.requires_grad],
        lr=peak_lr(train),
        momentum=train.sgd_momentum,
        weight_decay=train.weight_decay,
    )


def peak_lr(train: TrainConfig) -> float:
    """Return the highest learning rate, which is linear in the batch over all processes and accumulation steps."""
    return train.base_lr * train.batch_size / 256


def build_schedules(train: TrainConfig, steps_per_epoch: int) -> Schedules:
    """Build the schedules of learning rate and EMA momentum."""
    num_steps = steps_per_epoch * train.epochs
    num_warmup_steps = round(train.warmup_epochs * steps_per_epoch)

    def lr(step: int) -> float:
        if train.lr_schedule == "per-epoch":
            return epoch_cosine(step, steps_per_epoch, train.epochs, train.warmup_epochs, peak_lr(train))
        return warmup_cosine(step, num_steps, num_warmup_steps, peak_lr(train))

    def values_at(step: int) -> dict[str, float]:
        rises = train.ema_rises
        return {
            "lr": lr(step),
            "ema_momentum": ema_momentum(step, num_steps, train.ema_momentum) if rises else train.ema_momentum,
        }

    return Schedules(values_at=values_at, num_warmup_steps=num_warmup_steps)


def view_distribution(views: ViewConfig) -> ViewDistribution:
    """Return the distribution of crops and colours of both views."""
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


@dataclass(frozen=True, kw_only=True)
class _NewParts:
    """The backbone of a method, and its projectors and predictors with random weights."""

    backbone: Backbone
    train: TrainConfig
    initial_weights: InitialWeights

    def encoder(self, form: MlpForm) -> Encoder:
        return Encoder(self.backbone, self._mlp(form, self.backbone.num_channels))

    def dense_projector(self, form: MlpForm) -> nn.Module:
        return self._mlp(lambda *sizes: conv1x1(form(*sizes)), self.backbone.num_channels)

    def predictor(self, *, dense: bool = False) -> nn.Module:
        form = (lambda *sizes: conv1x1(byol_mlp(*sizes))) if dense else byol_mlp
        return self._mlp(form, self.train.projection_features)

    def _mlp(self, form: MlpForm, num_inputs: int) -> nn.Module:
        layers = form(num_inputs, self.train.hidden_features, self.train.projection_features)
        return initialise(layers, self.initial_weights)


def _new_parts(config: RunConfig, train: TrainConfig, start: Backbone | None) -> _NewParts:
    network = config.network
    backbone = build_backbone(network.backbone, network.initial_weights) if start is None else copy.deepcopy(start)
    return _NewParts(backbone=backbone, train=train, initial_weights=network.initial_weights)


def _mocov2(parts: _NewParts, method: MoCoV2Config) -> MoCoV2:
    return MoCoV2(
        parts.encoder(moco_mlp),
        queue_size=method.queue_size,
        temperature=method.temperature,
        num_groups=method.num_groups,
    )


def _densecl(parts: _NewParts, method: DenseCLConfig) -> DenseCL:
    return DenseCL(
        parts.encoder(moco_mlp),
        parts.dense_projector(moco_mlp),
        queue_size=method.queue_size,
        temperature=method.temperature,
        num_groups=method.num_groups,
        dense_weight=method.dense_weight,
    )


def _selfemd(parts: _NewParts, method: SelfEMDConfig) -> SelfEMD:
    return SelfEMD(
        parts.encoder(byol_mlp),
        parts.dense_projector(byol_mlp),
        parts.predictor(),
        parts.predictor(dense=True),
        dense_weight=method.dense_weight,
        regularisation=method.regularisation,
        num_iterations=method.num_iterations,
        join_views=parts.train.join_views,
    )
