"""Every setting of a run: frozen dataclasses, saved beside the results as YAML and read back strictly."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from orl import files

ImageMethod = Literal["byol", "mocov2", "simclr", "densecl", "selfemd"]
"""What can be stage 1."""
METHOD_FIELDS: dict[str, tuple[str, ...]] = {
    "byol": (),
    "mocov2": ("temperature", "queue_size", "num_groups"),
    "simclr": ("temperature",),
    "densecl": ("temperature", "queue_size", "num_groups", "dense_weight"),
    "selfemd": ("dense_weight", "regularisation", "num_iterations"),
}
"""Fields of `MethodConfig` that each method needs; the others have no effect on it."""


WARM_START_METHODS: tuple[ImageMethod, ...] = ("byol", "selfemd")
"""Methods of stage 1 whose projector is that of stage 3, so that it can start from it."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What both training stages train."""

    backbone: Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2"] = "resnet50"
    """Backbone, trained from random weights."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """The image-level method of stage 1; `--stage1 NAME` sets all that goes with it."""

    name: ImageMethod = "byol"
    """Method. By itself this changes nothing else: 'orl run --stage1 NAME' sets its rates, views and sizes too."""
    temperature: float | None = None
    """MoCo v2, SimCLR, DenseCL: what similarities are divided by in the softmax."""
    queue_size: int | None = None
    """MoCo v2, DenseCL: keys of earlier batches that are negatives; a multiple of the batch."""
    num_groups: int | None = None
    """MoCo v2, DenseCL: groups of a batch, over all processes, that have batch statistics of their own."""
    dense_weight: float | None = None
    """DenseCL, Self-EMD: share of the dense loss; the global loss has the rest."""
    regularisation: float | None = None
    """Self-EMD: weight of the plan's entropy, in the unit of the cost (1 - cosine)."""
    num_iterations: int | None = None
    """Self-EMD: iterations of Sinkhorn's algorithm."""

    def __post_init__(self) -> None:
        needed = METHOD_FIELDS.get(self.name, ())
        values = {key: value for key, value in vars(self).items() if key != "name"}
        missing = [key for key in needed if values[key] is None]
        if missing:
            raise ValueError(
                f"method {self.name} needs {', '.join(missing)}: --stage1 {self.name} sets them where settings start "
                f"from a recipe; in a file of settings write method.{missing[0]} and so on"
            )
        idle = [key for key, value in values.items() if value is not None and key not in needed]
        if idle:
            raise ValueError(f"{', '.join(idle)} has no effect on method {self.name}")
        above = ("temperature", "queue_size", "num_groups", "regularisation", "num_iterations")
        _require(self, "above 0", lambda value: value is None or value > 0, *above)
        _require(self, "in [0, 1]", lambda value: value is None or 0 <= value <= 1, "dense_weight")
        if self.name == "selfemd":
            _require(self, "above 0 (without a dense loss it is BYOL)", lambda value: value > 0, "dense_weight")


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How the two views of an image are made."""

    size_px: int = 224
    """Side of a view, pixels."""
    area_range: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the image's area that a view covers."""
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    """Most change of brightness, contrast and saturation (a factor) and of hue (turns of the colour circle)."""
    blur_sigma_px: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's sigma, pixels of the view."""
    blur_probabilities: tuple[float, float] = (1.0, 0.1)
    """Chance of a blur in view 1 and view 2."""
    solarise_probabilities: tuple[float, float] = (0.0, 0.2)
    """Chance of solarising view 1 and view 2."""

    def __post_init__(self) -> None:
        _require(self, "at least 8", lambda value: value >= 8, "size_px")
        _require(self, "two rising shares in (0, 1]", lambda value: 0 < value[0] <= value[1] <= 1, "area_range")
        _require(self, "two rising numbers above 0", lambda value: 0 < value[0] <= value[1], "blur_sigma_px")
        _require(self, "in [0, 1], the hue's in [0, 0.5]", _are_jitters, "jitter")
        _require(self, "two chances in [0, 1]", _are_chances, "blur_probabilities", "solarise_probabilities")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training stage."""

    epochs: int = 800
    """Passes over the images."""
    batch_size: int = 512
    """Images a step, over all processes."""
    base_lr: float = 0.2
    """Learning rate for a batch of 256; scales with the batch."""
    warmup_epochs: float = 4.0
    """Epochs of rising learning rate, before it falls to 0 by half a cosine."""
    optimiser: Literal["sgd", "lars"] = "sgd"
    """SGD with momentum, or LARS, whose rate follows each layer's norm; it leaves biases and BN out of weight decay."""
    sgd_momentum: float = 0.9
    """Momentum of the optimiser."""
    weight_decay: float = 1e-4
    """Weight decay of all weights."""
    ema_momentum: float = 0.99
    """What the target keeps of itself at the first step; SimCLR has no target."""
    ema_rises: bool = True
    """Whether that rises to 1 by half a cosine, or stays."""
    hidden_features: int = 4096
    """Width of the projector and of the predictors."""
    projection_features: int = 256
    """Length of a projection."""
    join_views: bool = False
    """Pass both views of a pair as one batch, which shares batch statistics; BYOL and ORL pass each by itself."""
    views: ViewConfig = field(default_factory=ViewConfig)
    accumulation_steps: int = 1
    """Parts of a batch that pass one after the other, to save memory; batch statistics are of a part."""
    probe_epochs: int = 0
    """Epochs between two judgements by kNN on --eval-data while training, 0 for none."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints; one is also written at the end and on Ctrl-C."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""

    def __post_init__(self) -> None:
        _require(self, "at least 1", lambda value: value >= 1, "epochs", "accumulation_steps", "keep_checkpoints")
        _require(self, "at least 1", lambda value: value >= 1, "hidden_features", "projection_features")
        _require(self, "at least 2 (batch statistics need it)", lambda value: value >= 2, "batch_size")
        _require(self, "above 0", lambda value: value > 0, "base_lr", "checkpoint_minutes")
        _require(self, "0 or more", lambda value: value >= 0, "warmup_epochs", "weight_decay", "probe_epochs")
        _require(self, "in [0, 1]", lambda value: 0 <= value <= 1, "ema_momentum")
        _require(self, "in [0, 1)", lambda value: 0 <= value < 1, "sgd_momentum")


@dataclass(frozen=True, kw_only=True)
class DiscoverConfig:
    """Stage 2."""

    feature_extractor: Path | None = None
    """Weights that images and RoIs are looked at with, in place of stage 1's: a file or folder, of any CNN."""
    architecture: str | None = None
    """What those weights are of, if the file does not tell: 'mobilenet_v3_large', 'timm/efficientnet_lite0'."""
    embed_px: int = 224
    """Side of the centre crop that an image is embedded at, pixels."""
    num_neighbours: int = 10
    """Neighbours of an image (K)."""
    max_similarity: float | None = None
    """Images more similar than this cosine are near-duplicates and rank after all others as neighbours; None: off."""
    neighbour_search: Literal["exact", "faiss"] = "exact"
    """How neighbours are found: exactly, or for tens of millions of images by an approximate index."""
    proposals: Literal["selective-search", "opencv", "grid", "random", "file"] = "selective-search"
    """Where boxes come from: our selective search, OpenCV's (slow; for comparison), a grid, chance, or a file."""
    proposals_file: Path | None = None
    """Boxes of your own, with --discover.proposals file: a COCO JSON or a published proposal file."""
    search_scale: float = 1.0
    """Size at which selective search looks at an image, over its size; 0.5 takes a quarter of the time."""
    roi_embed_px: int = 224
    """Side that an RoI is resized to before it is embedded, pixels."""
    min_side: float = 96.0
    """Smallest width and height of an RoI: pixels from 1 on, below 1 a share of the image's short side."""
    max_aspect_ratio: float = 3.0
    """Largest long side over short side of an RoI."""
    max_iou: float = 0.5
    """Largest overlap of two RoIs of an image."""
    max_rois: int = 100
    """Most RoIs of an image."""
    top_fraction: float = 0.1
    """Correspondences of a pair of images, over the number of RoIs of the first."""
    shard_size: int = 256
    """Images a shard: what a killed run loses at most."""

    def __post_init__(self) -> None:
        _require(self, "at least 1", lambda value: value >= 1, "embed_px", "roi_embed_px", "shard_size", "max_rois")
        _require(self, "at least 1", lambda value: value >= 1, "num_neighbours", "max_aspect_ratio")
        _require(self, "above 0 and at most 1", lambda value: 0 < value <= 1, "top_fraction")
        _require(self, "in [0, 1]", lambda value: 0 <= value <= 1, "max_iou")
        _require(self, "above 0", lambda value: value > 0, "min_side")
        _require(self, "in (-1, 1]", lambda value: value is None or -1 < value <= 1, "max_similarity")
        _require(self, "above 0 and at most 1", lambda value: 0 < value <= 1, "search_scale")
        if (self.proposals == "file") != (self.proposals_file is not None):
            raise ValueError(
                f"proposals {self.proposals!r} and proposals_file {self.proposals_file} do not go together: "
                "boxes of your own need --discover.proposals file and --discover.proposals-file FILE"
            )
        if self.architecture is not None and self.feature_extractor is None:
            raise ValueError(
                f"architecture {self.architecture!r} has no effect without --discover.feature-extractor FILE"
            )
        if self.search_scale != 1 and self.proposals != "selective-search":
            raise ValueError(f"search_scale {self.search_scale} has no effect on proposals {self.proposals!r}")


@dataclass(frozen=True, kw_only=True)
class ObjectConfig:
    """What stage 3 adds to stage 1."""

    roi_size_px: int = 96
    """Side of an RoI view, pixels."""
    global_weight: float = 1.0
    """Weight of the loss between two views of an image."""
    intra_weight: float = 1.0
    """Weight of the loss between an RoI and a jittered copy."""
    inter_weight: float = 1.0
    """Weight of the loss between corresponding RoIs of two images."""
    jitter_min_iou: float = 0.5
    """Overlap (IoU) that an RoI and its jittered copy exceed; 1: the copy is the RoI itself."""
    warm_start: bool = False
    """Start from stage 1's backbone and projector; the paper starts anew."""

    def __post_init__(self) -> None:
        weights = ("global_weight", "intra_weight", "inter_weight")
        _require(self, "at least 8", lambda value: value >= 8, "roi_size_px")
        _require(self, "in [0, 1]", lambda value: 0 <= value <= 1, "jitter_min_iou")
        _require(self, "0 or more", lambda value: value >= 0, *weights)
        if not any(getattr(self, name) for name in weights):
            raise ValueError(f"one of {', '.join(weights)} must be above 0: without any there is nothing to learn")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The judges."""

    train_split: str = "trainval"
    """Split that the judges learn from."""
    test_split: str = "test"
    """Split that is scored."""
    size_px: int = 224
    """Side that an image is squeezed to, pixels."""
    knn_neighbours: int = 20
    """Neighbours that vote (k of the weighted kNN)."""
    knn_temperature: float = 0.07
    """Temperature of a vote's weight, exp(cosine / temperature)."""
    shots: tuple[int, ...] = ()
    """Images of each class to learn from in low-shot SVMs, such as 1 2 4 8; none: they are left out."""

    def __post_init__(self) -> None:
        _require(self, "at least 8", lambda value: value >= 8, "size_px")
        _require(self, "at least 1", lambda value: value >= 1, "knn_neighbours")
        _require(self, "above 0", lambda value: value > 0, "knn_temperature")
        _require(self, "all at least 1", lambda value: min(value, default=1) >= 1, "shots")


@dataclass(frozen=True, kw_only=True)
class ScanConfig:
    """Which images are taken."""

    min_side_px: int = 32
    """Images with a shorter side are left out, pixels."""
    max_megapixels: float = 100.0
    """Images with more are left out as decompression bombs, millions of pixels."""
    max_rejected_fraction: float = 0.1
    """Stop when more than this share of the images cannot be used."""

    def __post_init__(self) -> None:
        _require(self, "at least 1", lambda value: value >= 1, "min_side_px")
        _require(self, "above 0", lambda value: value > 0, "max_megapixels")
        _require(self, "in [0, 1]", lambda value: 0 <= value <= 1, "max_rejected_fraction")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run: three stages, the judges and the report."""

    images: Path
    """Images: a folder (any tree), a list file, a COCO JSON, a VOC devkit or a pack. No labels are needed."""
    out: Path
    """Folder of the run, new or to be continued."""
    recipe: str = "coco"
    """Name of the recipe that these settings started from."""
    eval_data: Path | None = None
    """Labelled set for the judges: a VOC devkit, or a drawn set, which has the same layout. Not needed otherwise."""
    split: str | None = None
    """Split of a VOC devkit, 'trainval' if not given; other sources have none."""
    seed: int = 0
    """Seed of weights, orders, crops and colours."""
    workers: int = 2
    """Processes that read images."""
    cache: Literal["disk", "ram", "device"] = "disk"
    """Where images are while training: on disk, a pack in memory (ram), or on the device, which then cuts the views."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a GPU when there is one."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    """Arithmetic of training; 16-mixed needs a GPU."""
    compile: bool = False
    """Compile the networks first: a minute or more. For GPUs: on the CPU that it was tried on steps were slower."""
    init_from: Path | None = None
    """Weights that training starts from, in place of random ones: what 'orl import' takes. Not to go on with a run."""
    wandb: Literal["off", "online", "offline"] = "off"
    """Send the numbers of training to Weights & Biases as well, or keep them for 'wandb sync'."""
    overwrite: bool = False
    """Rebuild what was made from other settings, instead of refusing."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    scan: ScanConfig = field(default_factory=ScanConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    stage1: TrainConfig = field(default_factory=TrainConfig)
    discover: DiscoverConfig = field(default_factory=DiscoverConfig)
    stage3: TrainConfig = field(default_factory=TrainConfig)
    objects: ObjectConfig = field(default_factory=ObjectConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        _require(self, "0 or more", lambda value: value >= 0, "workers")
        if self.stage1.join_views and self.method.name in ("mocov2", "densecl"):
            raise ValueError(f"stage1.join_views has no effect on method {self.method.name}: its views never meet")
        if not self.objects.warm_start:
            return
        sizes = [(stage.hidden_features, stage.projection_features) for stage in (self.stage1, self.stage3)]
        if self.method.name not in WARM_START_METHODS or sizes[0] != sizes[1]:
            raise ValueError(
                f"objects.warm_start needs a stage 1 whose projector is that of stage 3: by byol or selfemd, and with "
                f"its sizes; it is by {self.method.name}, with {sizes[0]} and {sizes[1]} features"
            )

    @property
    def needs_stage1(self) -> bool:
        """Whether stage 2 looks with stage 1's weights or stage 3 starts from them."""
        return self.discover.feature_extractor is None or self.objects.warm_start


FREE_FIELDS = frozenset(
    {
        *("images", "out", "workers", "cache", "device", "overwrite", "recipe", "compile", "wandb", "init_from"),
        "scan.max_rejected_fraction",
    }
)
"""Fields of `RunConfig`, by dotted names, that may change between two parts of one run: they do not change its results.

The images and the weights to start from are free too, since their content is compared.
"""
FREE_TRAIN_FIELDS = frozenset({"checkpoint_minutes", "keep_checkpoints", "probe_epochs", "accumulation_steps"})
"""The same of `TrainConfig`.

A batch in more parts has other batch statistics, but it is the way out when memory is short. SimCLR has fewer negatives
then, so there it is not free."""
ADDED_FIELDS = frozenset(
    {"eval_data", "evaluation.shots", "split", "discover.feature_extractor", "discover.architecture"}
)
"""Settings, by dotted names, that add to the results where there was none, and change none; contents are compared."""


def _require(config: Any, rule: str, holds: Callable[[Any], bool], *names: str) -> None:
    for name in names:
        if not holds(getattr(config, name)):
            raise ValueError(f"{name} must be {rule}, not {getattr(config, name)}")


def _are_jitters(jitter: tuple[float, ...]) -> bool:
    return all(0 <= value <= most for value, most in zip(jitter, (1, 1, 1, 0.5)))


def _are_chances(values: tuple[float, ...]) -> bool:
    return all(0 <= value <= 1 for value in values)


def save_config(config: RunConfig, path: Path) -> None:
    """Write the settings as YAML."""
    files.write_atomically(path, yaml.safe_dump(to_plain(config), sort_keys=False))


def load_config(path: Path, fallbacks: Mapping[str, Any] | None = None) -> RunConfig:
    """Read settings; what the file leaves out has its default.

    Args:
        path: a YAML file.
        fallbacks: values of top-level keys that the file may leave out though they have no default.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not YAML, or has an unknown key or a value of the wrong kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no config file at {path}")
    try:
        plain = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(plain, dict):
        raise ValueError(f"{path} holds {type(plain).__name__}, not a mapping of settings")
    return from_plain(RunConfig, {**(fallbacks or {}), **plain}, str(path))


def to_plain(value: Any) -> Any:
    """A config as dicts, lists, numbers and strings."""
    if dataclasses.is_dataclass(value):
        return {item.name: to_plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [to_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def from_plain(kind: Any, plain: Any, where: str) -> Any:
    """A value of the annotated kind out of plain YAML, checked.

    Args:
        kind: a config class, or the annotation of a field.
        plain: what the YAML says.
        where: the file and the path of keys, for errors.

    Raises:
        ValueError: on an unknown key, with the near one, or a value of another kind.
    """
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(plain, dict):
            raise ValueError(f"{where} must be a mapping of settings, not {plain!r}")
        known = {item.name: item for item in dataclasses.fields(kind)}
        for key in plain:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
                raise ValueError(f"{where}: unknown key {key!r}; {hint}")
        kinds = typing.get_type_hints(kind)
        missing = [
            name
            for name, item in known.items()
            if name not in plain and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise ValueError(f"{where} lacks {', '.join(missing)}")
        values = {key: from_plain(kinds[key], value, f"{where}: {key}") for key, value in plain.items()}
        try:
            return kind(**values)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    return _checked_value(kind, plain, where)


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """What would change the results between two configs, a line a setting: 'stage1.epochs: was 800, now 100'."""
    was, now = flat(to_plain(old)), flat(to_plain(new))
    free = {f"{stage}.{name}" for stage in ("stage1", "stage3") for name in FREE_TRAIN_FIELDS} | FREE_FIELDS
    if new.method.name == "simclr":
        free.remove("stage1.accumulation_steps")
    free |= {key for key in ADDED_FIELDS if was[key] in (None, [])}
    changed = [key for key in was if key not in free and was[key] != now[key]]
    return [f"{key}: was {was[key]}, now {now[key]}" for key in changed]


def flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings as `to_plain` gives them, by their dotted names: 'stage1.epochs'."""
    found: dict[str, Any] = {}
    for key, value in plain.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def _checked_value(kind: Any, plain: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if plain not in arguments:
            raise ValueError(f"{where}: {plain!r} is none of {', '.join(map(repr, arguments))}")
        return plain
    if origin is types.UnionType:
        inner = next(argument for argument in arguments if argument is not type(None))
        return None if plain is None else _checked_value(inner, plain, where)
    if origin is tuple and arguments[-1] is Ellipsis:
        if not isinstance(plain, list):
            raise ValueError(f"{where}: {plain!r} is not a list")
        return tuple(_checked_value(arguments[0], part, where) for part in plain)
    if origin is tuple:
        if not isinstance(plain, list) or len(plain) != len(arguments):
            raise ValueError(f"{where}: {plain!r} is not a list of {len(arguments)} values")
        return tuple(_checked_value(argument, part, where) for argument, part in zip(arguments, plain))
    if kind is Path and isinstance(plain, str):
        return Path(plain)
    if kind is float and isinstance(plain, int | float) and not isinstance(plain, bool):
        return float(plain)
    if isinstance(plain, kind) and not (kind is int and isinstance(plain, bool)):
        return plain
    raise ValueError(f"{where}: {plain!r} is not of type {kind.__name__}")
