"""Configs of a run: frozen dataclasses, checked on construction, saved as YAML and read back strictly."""

import dataclasses
import difflib
import functools
import math
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from orl import files
from orl.networks.names import OWN_MODULE, BackboneName, DeviceName, InitialWeights, Precision

ImageMethod = Literal["byol", "mocov2", "simclr", "densecl", "selfemd"]
"""Methods of stage 1."""
FeatureKind = Literal["feat5", "pooled"]
"""Features for linear classifiers: averages of windows of the last feature map (feat5), or of the complete map."""
WARM_START_METHODS: tuple[ImageMethod, ...] = ("byol", "selfemd")
"""Methods of stage 1 whose projector has the form of stage 3's, so that stage 3 can start from its weights."""


PROPOSAL_SOURCES = ("selective-search", "extractor", "opencv", "grid", "random", "file")
"""Sources of boxes beside a function of the user."""
OWN_FUNCTION = "python:"
"""Prefix of a function of the user as source of boxes: 'python:module:function'."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Network that both training stages train."""

    backbone: str = "resnet50"
    """Backbone, trained from random weights: a `BackboneName`, or a module given from Python ('module/...')."""
    initial_weights: InitialWeights = "fan-in"
    """Random weights: normal with variance 2 / fan-in and zero biases, as published ('fan-in'), or torchvision's.

    The backbone and the MLPs follow it; a module given from Python keeps its own weights.
    """

    def __post_init__(self) -> None:
        _check_types(self)
        names = typing.get_args(BackboneName)
        if self.backbone not in names and not self.backbone.startswith(OWN_MODULE):
            raise ValueError(f"backbone must be {one_of(names, self.backbone)}")


@dataclass(frozen=True, kw_only=True)
class ByolConfig:
    """BYOL as stage 1, without further fields."""

    name: Literal["byol"] = field(default="byol", init=False)

    def __post_init__(self) -> None:
        _check_types(self)


@dataclass(frozen=True, kw_only=True)
class MoCoV2Config:
    """MoCo v2 as stage 1; the defaults are those of its paper."""

    name: Literal["mocov2"] = field(default="mocov2", init=False)
    temperature: float = 0.2
    """Divisor of similarities before the softmax."""
    queue_size: int = 65_536
    """Keys of earlier batches that serve as negatives; a multiple of the batch size."""
    num_groups: int = 8
    """Groups of a batch, over all processes, each with separate batch statistics."""

    def __post_init__(self) -> None:
        _check_types(self)
        _require(self, "above 0", lambda value: value > 0, "temperature", "queue_size", "num_groups")


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig:
    """SimCLR as stage 1; the default is that of its paper."""

    name: Literal["simclr"] = field(default="simclr", init=False)
    temperature: float = 0.1
    """Divisor of similarities before the softmax."""

    def __post_init__(self) -> None:
        _check_types(self)
        _require(self, "above 0", lambda value: value > 0, "temperature")


@dataclass(frozen=True, kw_only=True)
class DenseCLConfig:
    """DenseCL as stage 1; the defaults are those of its paper."""

    name: Literal["densecl"] = field(default="densecl", init=False)
    temperature: float = 0.2
    """Divisor of similarities before the softmax."""
    queue_size: int = 65_536
    """Keys of earlier batches that serve as negatives; a multiple of the batch size."""
    num_groups: int = 8
    """Groups of a batch, over all processes, each with separate batch statistics."""
    dense_weight: float = 0.5
    """Weight of the dense loss; the global loss has 1 minus this weight."""

    def __post_init__(self) -> None:
        _check_types(self)
        _require(self, "above 0", lambda value: value > 0, "temperature", "queue_size", "num_groups")
        _require(self, "in [0, 1]", lambda value: 0 <= value <= 1, "dense_weight")


@dataclass(frozen=True, kw_only=True)
class SelfEMDConfig:
    """Self-EMD as stage 1."""

    name: Literal["selfemd"] = field(default="selfemd", init=False)
    dense_weight: float = 0.5
    """Weight of the dense loss; the global loss has 1 minus this weight."""
    regularisation: float = 0.05
    """Weight of the transport plan's entropy, in the unit of the cost (1 - cosine)."""
    num_iterations: int = 50
    """Iterations of Sinkhorn's algorithm."""

    def __post_init__(self) -> None:
        _check_types(self)
        _require(self, "above 0", lambda value: value > 0, "regularisation", "num_iterations")
        rule = "above 0 and at most 1 (without a dense loss the method is BYOL)"
        _require(self, rule, lambda value: 0 < value <= 1, "dense_weight")


MethodConfig = ByolConfig | MoCoV2Config | SimCLRConfig | DenseCLConfig | SelfEMDConfig
"""Image-level method of stage 1; the key `name` in YAML selects it."""


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Augmentation of the two views of an image."""

    size_px: int = 224
    """Side of a view, pixels."""
    area_range: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest area of a crop, as a fraction of the image's area."""
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    """Largest change of brightness, contrast and saturation (a factor) and of hue (turns of the colour circle)."""
    blur_sigma_px: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's sigma, pixels of the view."""
    blur_probabilities: tuple[float, float] = (1.0, 0.1)
    """Probability of a blur in view 1 and view 2."""
    solarise_probabilities: tuple[float, float] = (0.0, 0.2)
    """Probability of solarising view 1 and view 2."""

    def __post_init__(self) -> None:
        _check_types(self)
        _require(self, "at least 8", lambda value: value >= 8, "size_px")
        _require(self, "two rising fractions in (0, 1]", lambda value: 0 < value[0] <= value[1] <= 1, "area_range")
        _require(self, "two rising numbers above 0", lambda value: 0 < value[0] <= value[1], "blur_sigma_px")
        _require(self, "in [0, 1], the hue's in [0, 0.5]", _is_jitter, "jitter")
        names = ("blur_probabilities", "solarise_probabilities")
        _require(self, "two probabilities in [0, 1]", _are_probabilities, *names)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training stage."""

    epochs: int = 800
    """Passes over the images."""
    batch_size: int = 512
    """Images per step, over all processes."""
    drop_last: bool = False
    """Leave out the last, smaller batch of an epoch; MoCo v2 and DenseCL do, and need it for their queues."""
    base_lr: float = 0.2
    """Learning rate for a batch of 256 images; scaled with the batch size."""
    lr_schedule: Literal["per-epoch", "per-step"] = "per-epoch"
    """Cosine decay: one value per epoch, from the first epoch, as published; or per step, after the warm-up."""
    warmup_epochs: float = 4.0
    """Epochs of linear warm-up of the learning rate."""
    optimiser: Literal["sgd", "lars"] = "sgd"
    """SGD with momentum, or LARS; LARS leaves biases and batch norm out of weight decay."""
    sgd_momentum: float = 0.9
    """Momentum of the optimiser."""
    weight_decay: float = 1e-4
    """Weight decay."""
    ema_momentum: float = 0.99
    """Momentum of the target network's moving average at the first step; SimCLR has no target."""
    ema_rises: bool = True
    """Raise the momentum of the target to 1 along a half cosine; else it is constant."""
    hidden_features: int = 4096
    """Width of the projector and of the predictors."""
    projection_features: int = 256
    """Length of a projection."""
    join_views: bool = False
    """Pass both views of a pair as one batch, with common batch statistics; BYOL and ORL pass them separately."""
    views: ViewConfig = field(default_factory=ViewConfig)
    accumulation_steps: int = 1
    """Gradient accumulation steps of a batch, to save memory; each has separate batch statistics."""
    probe_epochs: int = 0
    """Epochs between two kNN evaluations on --eval-data while training; 0: none."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints; one is also written at the end and on Ctrl-C."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints that are kept."""

    def __post_init__(self) -> None:
        _check_types(self)
        _require(self, "at least 1", lambda value: value >= 1, "epochs", "accumulation_steps", "keep_checkpoints")
        _require(self, "at least 1", lambda value: value >= 1, "hidden_features", "projection_features")
        _require(self, "at least 2 (batch statistics need it)", lambda value: value >= 2, "batch_size")
        _require(self, "above 0", lambda value: value > 0, "base_lr", "checkpoint_minutes")
        _require(self, "0 or more", lambda value: value >= 0, "warmup_epochs", "weight_decay", "probe_epochs")
        _require(self, "in [0, 1]", lambda value: 0 <= value <= 1, "ema_momentum")
        _require(self, "in [0, 1)", lambda value: 0 <= value < 1, "sgd_momentum")


@dataclass(frozen=True, kw_only=True)
class DiscoverConfig:
    """Stage 2: neighbours, proposals, RoIs and correspondences."""

    feature_extractor: Path | None = None
    """Weights of any CNN, a file or folder, to embed images and RoIs with in place of stage 1's backbone."""
    architecture: str | None = None
    """Network of those weights where the file does not name it: 'mobilenet_v3_large', 'timm/efficientnet_lite0'."""
    embed_px: int = 224
    """Side of the centre crop that an image is embedded at, pixels."""
    num_neighbours: int = 10
    """Neighbours of an image (K)."""
    max_similarity: float | None = None
    """Cosine above which two images are near-duplicates and rank after all others as neighbours; None: off."""
    neighbour_search: Literal["exact", "faiss"] = "exact"
    """Exact search for neighbours, or an approximate index for tens of millions of images."""
    proposals: str = "selective-search"
    """Source of boxes: 'selective-search' (ours), 'extractor' (on maps of the feature extractor), 'opencv' (slow; for
    comparison), 'grid', 'random', 'file', or a function of your own, 'python:module:function', from image to boxes."""
    proposals_file: Path | None = None
    """Your own boxes, for --discover.proposals file: COCO JSON or results, .npz, Parquet, or a folder of YOLO files."""
    search_scale: float = 1.0
    """Scale of an image for selective search; 0.5 takes a quarter of the time."""
    roi_features: Literal["crops", "map", "mask"] = "crops"
    """Features of RoIs: each is resized and passes the network, as published; the image's map is averaged inside each
    RoI; or inside its mask, where the boxes have masks."""
    roi_centred: bool = False
    """Subtract the features of the image from those of its RoIs, so that the scene does not decide the pairs."""
    roi_embed_px: int = 224
    """Side that an RoI is resized to before it is embedded, pixels; for --discover.roi-features crops."""
    roi_map_px: int = 480
    """Short side of the image whose feature map RoIs are cut from, pixels; for map and mask."""
    roi_dims: int | None = None
    """Numbers that the embedding of an RoI is reduced to before it is stored (PCA); None: all of them."""
    min_side: float = 96.0
    """Smallest width and height of an RoI: pixels from 1 on, below 1 a fraction of the image's short side."""
    max_aspect_ratio: float = 3.0
    """Largest long side over short side of an RoI."""
    max_iou: float = 0.5
    """Largest overlap (IoU) of two RoIs of an image."""
    max_rois: int = 100
    """Largest number of RoIs of an image."""
    top_fraction: float = 0.1
    """Correspondences kept for a pair of images, as a fraction of the number of RoIs of the first."""
    matching: Literal["cosine", "whitened", "csls", "contrast"] = "cosine"
    """Score of a pair: cosine, as published; of whitened embeddings; corrected for hubs (csls); contrast: both."""
    mutual_pairs: bool = False
    """Keep only pairs that are the best of both RoIs; there may be fewer than top_fraction allows."""
    textured_only: bool = False
    """Leave RoIs without texture, such as sky or a bare wall, out of the pairs, but for images that have no other."""
    hubness_neighbours: int = 10
    """Nearest RoIs of other images whose mean similarity is the hubness of an RoI; for csls and contrast."""
    hubness_bank: int = 8192
    """RoIs, sampled from all images, among which these are searched."""
    shard_size: int = 256
    """Images per shard; a killed run loses one shard at most."""

    def __post_init__(self) -> None:
        _check_types(self)
        _require(self, "at least 1", lambda value: value >= 1, "embed_px", "roi_embed_px", "shard_size", "max_rois")
        _require(self, "at least 1", lambda value: value >= 1, "hubness_neighbours", "hubness_bank")
        _require(self, "at least 1", lambda value: value is None or value >= 1, "roi_dims")
        _require(self, "at least 32", lambda value: value >= 32, "roi_map_px")
        _require(self, "at least 1", lambda value: value >= 1, "num_neighbours", "max_aspect_ratio")
        _require(self, "above 0 and at most 1", lambda value: 0 < value <= 1, "top_fraction", "search_scale")
        _require(self, "in [0, 1]", lambda value: 0 <= value <= 1, "max_iou")
        _require(self, "above 0", lambda value: value > 0, "min_side")
        _require(self, "in (-1, 1]", lambda value: value is None or -1 < value <= 1, "max_similarity")
        check_proposal_source("proposals", self.proposals)
        if (self.proposals == "file") != (self.proposals_file is not None):
            raise ValueError(
                f"proposals {self.proposals!r} and proposals_file {self.proposals_file} do not go together: "
                "boxes of your own need --discover.proposals file and --discover.proposals-file FILE"
            )
        if self.hubness_bank < self.hubness_neighbours:
            raise ValueError(
                f"hubness_bank {self.hubness_bank} is smaller than hubness_neighbours {self.hubness_neighbours}; give "
                "a larger bank"
            )
        if self.architecture is not None and self.feature_extractor is None:
            raise ValueError(
                f"architecture {self.architecture!r} has no effect without --discover.feature-extractor FILE"
            )
        if self.search_scale != 1 and self.proposals != "selective-search":
            raise ValueError(f"search_scale {self.search_scale} has no effect on proposals {self.proposals!r}")


@dataclass(frozen=True, kw_only=True)
class ObjectConfig:
    """Object-level terms of stage 3."""

    roi_size_px: int = 96
    """Side of an RoI view, pixels."""
    global_weight: float = 1.0
    """Weight of the loss between two views of an image."""
    intra_weight: float = 1.0
    """Weight of the loss between an RoI and a jittered copy."""
    inter_weight: float = 1.0
    """Weight of the loss between corresponding RoIs of two images."""
    jitter_min_iou: float = 0.5
    """Smallest overlap (IoU) of an RoI and its jittered copy; 1: the copy is the RoI itself."""
    warm_start: bool = False
    """Start from stage 1's backbone and projector; the paper starts from scratch."""

    def __post_init__(self) -> None:
        _check_types(self)
        weights = ("global_weight", "intra_weight", "inter_weight")
        _require(self, "at least 8", lambda value: value >= 8, "roi_size_px")
        _require(self, "in [0, 1]", lambda value: 0 <= value <= 1, "jitter_min_iou")
        _require(self, "0 or more", lambda value: value >= 0, *weights)
        if not any(getattr(self, name) for name in weights):
            raise ValueError(f"one of {', '.join(weights)} must be above 0: without any there is nothing to learn")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Evaluations of a run's backbones on the labelled data set."""

    train_split: str = "trainval"
    """Split to train the classifiers on."""
    test_split: str = "test"
    """Split to score."""
    size_px: int = 224
    """Side that an image is resized to, pixels; its aspect ratio is not kept."""
    features: FeatureKind = "feat5"
    """Features for the linear SVMs: feat5 as published, or pooled; the kNN always has pooled ones."""
    knn_neighbours: int = 20
    """Neighbours that vote (k of the weighted kNN)."""
    knn_temperature: float = 0.07
    """Temperature of a vote's weight, exp(cosine / temperature)."""
    shots: tuple[int, ...] = ()
    """Labelled images of each class for low-shot SVMs, such as 1 2 4 8; empty: no low-shot evaluation."""
    objects: bool = True
    """Score objects, too: crops of labelled boxes (roi-knn), dense retrieval if there are masks, and feature rank."""
    roi_px: int | None = None
    """Side that a labelled box is resized to, pixels; size_px if not given."""
    scene_px: int | None = None
    """Side of images for feature maps: the short side of RoIs cut on the map, the square of dense retrieval, pixels;
    twice size_px if not given."""
    memory_size: int = 10_000
    """Patches in the memory bank of dense retrieval."""
    max_object_images: int | None = 500
    """Images of each split for the evaluations of objects, sampled by the seed; None for all."""

    def __post_init__(self) -> None:
        _check_types(self)
        _require(self, "at least 8", lambda value: value >= 8, "size_px")
        _require(self, "None, or at least 8", lambda value: value is None or value >= 8, "roi_px", "scene_px")
        _require(self, "at least 1", lambda value: value >= 1, "knn_neighbours", "memory_size")
        _require(self, "None, or at least 2", lambda value: value is None or value >= 2, "max_object_images")
        _require(self, "above 0", lambda value: value > 0, "knn_temperature")
        _require(self, "all at least 1", lambda value: min(value, default=1) >= 1, "shots")


@dataclass(frozen=True, kw_only=True)
class ScanConfig:
    """Rules for the images that are used."""

    min_side_px: int = 32
    """Shortest side of an image, pixels; smaller images are left out."""
    max_megapixels: float = 100.0
    """Largest image, millions of pixels; larger ones are left out as decompression bombs."""
    max_rejected_fraction: float = 0.1
    """Fraction of unusable images above which the run stops."""

    def __post_init__(self) -> None:
        _check_types(self)
        _require(self, "at least 1", lambda value: value >= 1, "min_side_px")
        _require(self, "above 0", lambda value: value > 0, "max_megapixels")
        _require(self, "in [0, 1]", lambda value: 0 <= value <= 1, "max_rejected_fraction")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A complete run: three stages, the evaluations and the report."""

    images: Path
    """Images: a folder (any tree), a list file, a COCO JSON, a VOC devkit or a pack. No labels are needed."""
    out: Path
    """Folder of the run; an existing run is resumed."""
    recipe: str = "coco"
    """Name of the recipe that this config started from; it has no effect."""
    eval_data: Path | None = None
    """Labelled data set for the evaluations, in the layout of a VOC devkit; training needs none."""
    split: str | None = None
    """Split of a VOC devkit to train on, 'trainval' if not given; other sources have none."""
    seed: int = 0
    """Seed of weights, sample order and augmentation."""
    workers: int = 2
    """Worker processes that read images, for each training process."""
    cache: Literal["disk", "ram", "device"] = "disk"
    """Image cache of training: none (disk), a pack in memory (ram), or on the device, which then cuts the views."""
    device: DeviceName = "auto"
    """Device to compute on; auto takes a GPU when there is one."""
    precision: Precision = "32-true"
    """Numerical precision of training; 16-mixed needs a GPU."""
    compile: bool = False
    """Compile the networks first, which takes a minute or more; for GPUs (on the CPU tested, steps were slower)."""
    init_from: Path | None = None
    """Initial weights of training, in any format that 'orl import' reads; not for resuming."""
    wandb: Literal["off", "online", "offline"] = "off"
    """Also log training metrics to Weights & Biases, or store them for 'wandb sync'."""
    overwrite: bool = False
    """Rebuild results of another config, instead of refusing."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    scan: ScanConfig = field(default_factory=ScanConfig)
    method: MethodConfig = field(default_factory=ByolConfig)
    stage1: TrainConfig = field(default_factory=TrainConfig)
    discover: DiscoverConfig = field(default_factory=DiscoverConfig)
    stage3: TrainConfig = field(default_factory=TrainConfig)
    objects: ObjectConfig = field(default_factory=ObjectConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        _check_types(self)
        _require(self, "0 or more", lambda value: value >= 0, "workers", "seed")
        if self.stage1.join_views and self.method.name in ("mocov2", "densecl"):
            raise ValueError(
                f"stage1.join_views has no effect on method {self.method.name}: online and target network see "
                "different views"
            )
        if not self.stage1.drop_last and self.method.name in ("mocov2", "densecl"):
            raise ValueError(
                f"stage1.drop_last must be true for method {self.method.name}: its queue takes complete batches only"
            )
        if not self.objects.warm_start:
            return
        sizes = [(stage.hidden_features, stage.projection_features) for stage in (self.stage1, self.stage3)]
        if self.method.name not in WARM_START_METHODS or sizes[0] != sizes[1]:
            raise ValueError(
                f"objects.warm_start needs a stage 1 with the projector of stage 3: method byol or selfemd, and equal "
                f"hidden and projection features; got {self.method.name}, with {sizes[0]} and {sizes[1]} features"
            )

    @property
    def needs_stage1(self) -> bool:
        """True if stage 2 embeds with stage 1's backbone or stage 3 starts from it."""
        return self.discover.feature_extractor is None or self.objects.warm_start


FREE_FIELDS = frozenset(
    {
        *("images", "out", "workers", "cache", "device", "overwrite", "recipe", "compile", "wandb", "init_from"),
        "scan.max_rejected_fraction",
    }
)
"""Fields of `RunConfig`, by dotted names, that may change when a run is resumed: they do not change its results.

The paths of images and of initial weights may change too, since their content is compared.
"""
FREE_TRAIN_FIELDS = frozenset({"checkpoint_minutes", "keep_checkpoints", "probe_epochs", "accumulation_steps"})
"""Fields of `TrainConfig` that may change when a run is resumed.

More accumulation steps change the batch statistics, but they are allowed because they save memory. For SimCLR the field
must not change, since it would get fewer negatives.
"""
ADDED_FIELDS = frozenset(
    {"eval_data", "evaluation.shots", "split", "discover.feature_extractor", "discover.architecture"}
)
"""Fields, by dotted names, that may be set later if they were empty: they add results and change none."""
RENAMED_FIELDS = {
    "transfer": "evaluation",
    "transfer_data": "eval_data",
    "hold": "cache",
    "scan.max_rejected_share": "scan.max_rejected_fraction",
    "discover.backbone": "discover.feature_extractor",
    "discover.pair_share": "discover.top_fraction",
}
"""Fields of version 0.1 and their names now."""
LARGEST = {"_px": 2**14, "_features": 2**20, "workers": 2**12, "seed": 2**63 - 1}
"""Largest value of a field, by the end of its name; torch takes seeds of 63 bits."""
LARGEST_NUMBER = 10**9
"""Largest value of any other field."""
TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


def _require(config: Any, rule: str, is_valid: Callable[[Any], bool], *names: str) -> None:
    for name in names:
        if not is_valid(getattr(config, name)):
            raise ValueError(f"{name} must be {rule}, not {getattr(config, name)}")


def _is_jitter(jitter: tuple[float, ...]) -> bool:
    return all(0 <= value <= limit for value, limit in zip(jitter, (1, 1, 1, 0.5)))


def _are_probabilities(values: tuple[float, ...]) -> bool:
    return all(0 <= value <= 1 for value in values)


def check_proposal_source(name: str, source: str) -> None:
    """Refuse a source of boxes that is neither known nor of the form 'python:module:function'.

    Raises:
        ValueError: with the name of the field and its value.
    """
    if not source.startswith(OWN_FUNCTION):
        if source not in PROPOSAL_SOURCES:
            raise ValueError(f"{name} must be {one_of((*PROPOSAL_SOURCES, 'python:module:function'), source)}")
        return
    module, _, function = source.removeprefix(OWN_FUNCTION).partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), function)):
        raise ValueError(f"{name} must be 'python:module:function', such as 'python:my_boxes:propose', not {source!r}")


def save_config(config: RunConfig, path: Path) -> None:
    """Write a config as YAML."""
    files.write_atomically(path, yaml.safe_dump(to_plain(config), sort_keys=False))


def load_config(path: Path, fallbacks: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a config; fields that the file leaves out have their defaults.

    Args:
        path: a YAML file.
        fallbacks: values of top-level fields that the file may leave out though they have no default.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not YAML, has an unknown or repeated key or a wrong value, or was written by version 0.1.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no config file at {path}")
    plain = files.read_yaml(path)
    if not isinstance(plain, dict):
        raise ValueError(f"{path} holds {type(plain).__name__}, not a mapping of config fields")
    old = [name for name in flat(plain, branches=True) if name in RENAMED_FIELDS]
    if old:
        renamed = ", ".join(f"{name} is now {RENAMED_FIELDS[name]}" for name in old)
        raise ValueError(
            f"{path} was written by orl 0.1, whose runs cannot be resumed ({renamed}); start a new run with another "
            "--out, or rename these keys in a copy of the file to use it as a recipe"
        )
    return from_plain(RunConfig, {**(fallbacks or {}), **plain}, str(path))


def to_plain(value: Any) -> Any:
    """Convert a config to dicts, lists, numbers and strings."""
    if dataclasses.is_dataclass(value):
        return {item.name: to_plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [to_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def from_plain(kind: Any, plain: Any, where: str) -> Any:
    """Build a config from dicts, lists, numbers and strings, as YAML holds them.

    Args:
        kind: a config class, a union of config classes, or the annotation of a field.
        plain: the parsed YAML.
        where: the file and the path of keys, for errors.

    Raises:
        ValueError: if a key is unknown or missing, or a value is wrong.
    """
    choices = _config_classes(kind)
    if not choices:
        return _convert(kind, plain, where)
    if not isinstance(plain, dict):
        raise ValueError(f"{where} must be a mapping of config fields, not {plain!r}")
    if len(choices) > 1:
        by_name = {choice.name: choice for choice in choices}
        name = plain.get("name", choices[0].name)
        if name not in by_name:
            raise ValueError(f"{where}: name must be {one_of(by_name, name)}")
        kind, plain = by_name[name], {key: value for key, value in plain.items() if key != "name"}
    fields = {item.name: item for item in dataclasses.fields(kind) if item.init}
    for key in plain:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(fields) or 'none'}"
            raise ValueError(f"{where}: unknown key {key!r}; {hint}")
    missing = [
        name
        for name, item in fields.items()
        if name not in plain and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    kinds = _field_kinds(kind)
    values = {key: from_plain(kinds[key], value, f"{where}: {key}") for key, value in plain.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """List the differences of two configs that affect results, one per field: 'stage1.epochs: was 800, now 100'."""
    was, now = flat(to_plain(old)), flat(to_plain(new))
    free = {f"{stage}.{name}" for stage in ("stage1", "stage3") for name in FREE_TRAIN_FIELDS} | FREE_FIELDS
    if new.method.name == "simclr":
        free.remove("stage1.accumulation_steps")
    free |= {key for key in ADDED_FIELDS if was[key] in (None, [])}
    keys = [key for key in {**was, **now} if key not in free and was.get(key) != now.get(key)]
    return [f"{key}: was {was.get(key)}, now {now.get(key)}" for key in keys]


def flat(plain: Mapping[str, Any], prefix: str = "", branches: bool = False) -> dict[str, Any]:
    """Flatten nested dicts to dotted names: 'stage1.epochs'.

    Args:
        plain: nested dicts, as `to_plain` gives them.
        prefix: prefix of every name.
        branches: list the inner dicts themselves too.
    """
    found: dict[str, Any] = {}
    for key, value in plain.items():
        if not isinstance(value, dict) or branches:
            found[f"{prefix}{key}"] = value
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.", branches)
    return found


def _check_types(config: Any) -> None:
    """Convert every field of a config to its annotated type, or refuse it."""
    for name, kind in _field_kinds(config.__class__).items():
        object.__setattr__(config, name, _convert(kind, getattr(config, name), name))
    check_numbers(config)


def check_numbers(config: Any) -> None:
    """Check that the numbers of a config are finite, and that none is larger than any use of it.

    Raises:
        ValueError: with the name of the field and its value.
    """
    for name, value in vars(config).items():
        largest = next((limit for ending, limit in LARGEST.items() if name.endswith(ending)), LARGEST_NUMBER)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{name} must be a finite number, not {number}")
            if isinstance(number, int | float) and number > largest:
                raise ValueError(f"{name} must be at most {largest}, not {number}")


@functools.cache
def _field_kinds(config_class: Any) -> dict[str, Any]:
    return typing.get_type_hints(config_class)


def _config_classes(kind: Any) -> tuple[Any, ...]:
    """Return the config classes of an annotation; empty for plain values."""
    choices = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return tuple(choice for choice in choices if dataclasses.is_dataclass(choice))


def one_of(choices: Iterable[Any], value: Any) -> str:
    """Format the choices, and the closest one to a wrong value, for the end of an error message."""
    choices = list(map(str, choices))
    near = difflib.get_close_matches(str(value), choices, n=1)
    return f"one of {', '.join(choices)}, not {value!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _convert(kind: Any, value: Any, name: str) -> Any:
    """Convert a value to the annotated type: strings to paths, lists to tuples, integers to floats.

    Raises:
        ValueError: if the value is of another type, or none of the choices of a `Literal`.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    classes = _config_classes(kind)
    if classes:
        if isinstance(value, classes):
            return value
        raise ValueError(f"{name} must be a {' or '.join(choice.__name__ for choice in classes)}, not {value!r}")
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{name} must be {one_of(arguments, value)}")
        return value
    if origin is types.UnionType:
        inner = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else _convert(inner, value, name)
    if origin is tuple:
        length = None if arguments[-1] is Ellipsis else len(arguments)
        if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
            raise ValueError(f"{name} must be a list" + (f" of {length} values" if length else "") + f", not {value!r}")
        parts = [arguments[0]] * len(value) if length is None else arguments
        return tuple(_convert(part, item, name) for part, item in zip(parts, value))
    if kind is Path and isinstance(value, str | Path):
        return Path(_encodable(str(value), name)).expanduser()
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is str and isinstance(value, str):
        return _encodable(value, name)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ValueError(f"{name} must be {TYPE_NAMES.get(kind, kind.__name__)}, not {value!r}")


def _encodable(text: str, name: str) -> str:
    """Refuse text that a config file cannot hold; Python represents bytes that are not UTF-8 by surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} must be UTF-8, not {os.fsencode(text)!r}; rename the file or folder") from error
    return text
