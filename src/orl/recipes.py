"""Complete configs by name, and the changes of each image-level method of stage 1."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from orl.config import (
    FREE_TRAIN_FIELDS,
    WARM_START_METHODS,
    ByolConfig,
    DenseCLConfig,
    DiscoverConfig,
    EvaluationConfig,
    ImageMethod,
    MoCoV2Config,
    NetworkConfig,
    ObjectConfig,
    RunConfig,
    SelfEMDConfig,
    SimCLRConfig,
    TrainConfig,
    ViewConfig,
    flat,
    from_plain,
    load_config,
    one_of,
    to_plain,
)
from orl.networks.names import Precision
from orl.rundir import TRAINED_STAGES, RunDir

LONG_EPOCHS = 100
"""Epochs of stage 1 from which the published numbers of MoCo v2 and SimCLR are used.

Shorter trainings, of some hundred steps, need a faster target and a smaller queue.
"""


def coco(images: Path | str, out: Path | str) -> RunConfig:
    """Configure the paper's experiment: ResNet-50, views of 224 and 96 px, 800 epochs at batch 512 in both stages.

    Command: `orl run coco --images COCO/annotations/instances_train2017.json --out runs/coco`. Hours: not yet measured;
    made for GPUs of 40 GB or more, and stage 2's selective search takes about 100 CPU-hours. Expected: the paper
    reports VOC07 SVM and COCO detection above BYOL; not yet reproduced here.
    """
    return RunConfig(images=Path(images), out=Path(out), recipe="coco", workers=16, precision="bf16-mixed")


def quick(images: Path | str, out: Path | str) -> RunConfig:
    """Configure a run of about an hour on a laptop with some thousand small images: ResNet-18, views of 96 and 48 px.

    Command: `orl run quick --images IMAGES --out runs/quick`. Hours: about one for 2,250 images of 160 px on two
    cores with AVX-512 bf16 and --precision bf16-mixed, which is slow on CPUs without it. Expected: no clear
    gain over random weights in so few steps; see docs/results.md.
    """
    return RunConfig(
        images=Path(images),
        out=Path(out),
        recipe="quick",
        network=NetworkConfig(backbone="resnet18", initial_weights="torchvision"),
        stage1=_short_training(epochs=20, batch_size=64, size_px=96, hidden_features=1024),
        stage3=_short_training(epochs=20, batch_size=64, size_px=96, hidden_features=1024),
        discover=DiscoverConfig(embed_px=128, roi_features="map", roi_map_px=160, roi_centred=True, min_side=0.2),
        objects=ObjectConfig(roi_size_px=48),
        evaluation=EvaluationConfig(size_px=128, features="pooled"),
    )


def small(images: Path | str, out: Path | str) -> RunConfig:
    """Configure a run of under an hour on some thousand small images, for ablations: ResNet-10, views of 64 and 32 px.

    Command: `orl ablate stages small --images VOC2007 --eval-data VOC2007 --precision bf16-mixed --out runs/ablation`.
    Hours: 0.3 to 0.6 a run for 2,250 images of 160 px on a core with AVX-512 bf16. Expected: BYOL and ORL above random
    weights; see docs/results.md. Scores are higher with more epochs of this small network than with fewer of `quick`'s
    larger one. Unlike in the paper, stage 3 starts from stage 1's weights. In such short runs this is better than from
    scratch and costs half.
    """
    training = _short_training(epochs=30, batch_size=64, size_px=64, hidden_features=1024)
    training = replace(training, views=replace(training.views, area_range=(0.08, 1.0)))
    return RunConfig(
        images=Path(images),
        out=Path(out),
        recipe="small",
        network=NetworkConfig(backbone="resnet10", initial_weights="torchvision"),
        stage1=training,
        stage3=replace(training, epochs=15),
        discover=DiscoverConfig(embed_px=128, roi_features="map", roi_map_px=160, roi_centred=True, min_side=0.2),
        objects=ObjectConfig(roi_size_px=32, warm_start=True),
        evaluation=EvaluationConfig(size_px=128, features="pooled", shots=(1, 2, 4, 8, 16, 32)),
    )


def demo(images: Path | str, out: Path | str) -> RunConfig:
    """Configure a run of minutes on two CPU cores with synthetic scenes: ResNet-10, views of 64 and 32 px.

    Command: `orl demo`, or `make demo`.
    """
    return RunConfig(
        images=Path(images),
        out=Path(out),
        recipe="demo",
        network=NetworkConfig(backbone="resnet10", initial_weights="torchvision"),
        stage1=_short_training(epochs=20, batch_size=32, size_px=64, hidden_features=512),
        stage3=_short_training(epochs=20, batch_size=32, size_px=64, hidden_features=512),
        discover=DiscoverConfig(embed_px=96, roi_embed_px=64, roi_centred=True, min_side=0.2, shard_size=64),
        objects=ObjectConfig(roi_size_px=32),
        evaluation=EvaluationConfig(size_px=96, features="pooled", max_object_images=200),
    )


def _short_training(epochs: int, batch_size: int, size_px: int, hidden_features: int) -> TrainConfig:
    return TrainConfig(
        epochs=epochs,
        batch_size=batch_size,
        drop_last=True,
        base_lr=0.4,
        lr_schedule="per-step",
        warmup_epochs=2.0,
        checkpoint_minutes=5.0,
        hidden_features=hidden_features,
        projection_features=128,
        views=ViewConfig(size_px=size_px, area_range=(0.2, 1.0), blur_sigma_px=(0.1, 1.0)),
    )


RECIPES: dict[str, Callable[[Path | str, Path | str], RunConfig]] = {
    "coco": coco,
    "quick": quick,
    "small": small,
    "demo": demo,
}
DEFAULT_RECIPE = "quick"


def byol(config: RunConfig) -> RunConfig:
    """Set BYOL, the paper's choice: stage 1 is trained as stage 3."""
    return replace(config, method=ByolConfig(), stage1=_byol_training(config))


def mocov2(config: RunConfig) -> RunConfig:
    """Set MoCo v2: a queue of 65,536 keys, temperature 0.2, momentum 0.999, lr 0.3 at batch 256 without warm-up."""
    stage1, queue = _moco_training(config)
    return replace(config, method=MoCoV2Config(temperature=0.2, **queue), stage1=stage1)


def simclr(config: RunConfig) -> RunConfig:
    """Set SimCLR: the other images of a batch of 512 as negatives, temperature 0.1, LARS at lr 0.3 a batch of 256."""
    stage1 = _byol_training(config)
    stage1 = replace(
        stage1,
        base_lr=0.3,
        warmup_epochs=10.0 if _is_long(config) else stage1.warmup_epochs,
        optimiser="lars",
        weight_decay=1e-6,
        join_views=True,
        hidden_features=min(2048, stage1.hidden_features),
        projection_features=128,
        views=replace(
            stage1.views, jitter=(0.8, 0.8, 0.8, 0.2), blur_probabilities=(0.5, 0.5), solarise_probabilities=(0.0, 0.0)
        ),
    )
    return replace(config, method=SimCLRConfig(temperature=0.1), stage1=stage1)


def densecl(config: RunConfig) -> RunConfig:
    """Set DenseCL: MoCo v2 and, with weight 0.5, the same loss between the matched positions of two views."""
    stage1, queue = _moco_training(config)
    return replace(config, method=DenseCLConfig(temperature=0.2, dense_weight=0.5, **queue), stage1=stage1)


def selfemd(config: RunConfig) -> RunConfig:
    """Set Self-EMD: BYOL and, with weight 0.5, the optimal transport between the positions of two views."""
    method = SelfEMDConfig(dense_weight=0.5, regularisation=0.05, num_iterations=50)
    return replace(config, method=method, stage1=_byol_training(config))


def _is_long(config: RunConfig) -> bool:
    return config.stage1.epochs >= LONG_EPOCHS


def _byol_training(config: RunConfig) -> TrainConfig:
    """Return stage 1's training config for BYOL: stage 3's, except for the fields that no method sets."""
    stage1, stage3 = config.stage1, config.stage3
    if config.method.name in ("byol", "selfemd"):
        return stage1
    return replace(
        stage3,
        epochs=stage1.epochs,
        accumulation_steps=stage1.accumulation_steps,
        probe_epochs=stage1.probe_epochs,
        checkpoint_minutes=stage1.checkpoint_minutes,
        keep_checkpoints=stage1.keep_checkpoints,
        views=replace(stage3.views, size_px=stage1.views.size_px),
    )


def _moco_training(config: RunConfig) -> tuple[TrainConfig, dict[str, int]]:
    is_long, stage1 = _is_long(config), _byol_training(config)
    batch_size = min(256, stage1.batch_size)
    stage1 = replace(
        stage1,
        batch_size=batch_size,
        drop_last=True,
        base_lr=0.3 if is_long else stage1.base_lr,
        warmup_epochs=0.0,
        ema_momentum=0.999 if is_long else 0.99,
        ema_rises=False,
        hidden_features=min(2048, stage1.hidden_features),
        projection_features=128,
        views=replace(
            stage1.views,
            area_range=(0.2, 1.0),
            jitter=(0.4, 0.4, 0.4, 0.1),
            blur_probabilities=(0.5, 0.5),
            solarise_probabilities=(0.0, 0.0),
        ),
    )
    return stage1, {"queue_size": 65_536 if is_long else 8 * batch_size, "num_groups": 8 if is_long else 2}


REQUIRED = Path("(required)")
"""Placeholder for the images and the folder of a run, which are set later."""


def start_config(recipe: str | None, out: Path = REQUIRED, default: RunConfig | None = None) -> RunConfig:
    """Return the config to start from: a recipe, a YAML file, the config of an existing run, or a default.

    Args:
        recipe: name of a recipe or path of a YAML file; None for that of the run in `out`, if there is one.
        out: folder of the run.
        default: what to return when no recipe and no run is given; the recipe `DEFAULT_RECIPE` if None.

    Raises:
        FileNotFoundError: if the recipe is neither a name nor a file.
        ValueError: if the file is not a config.
    """
    if recipe is not None and recipe in RECIPES:
        return RECIPES[recipe](REQUIRED, REQUIRED)
    saved = RunDir(out).config if recipe is None else Path(recipe).expanduser()
    if saved.is_file() and (recipe is not None or default is None):
        return load_config(saved, {"images": str(REQUIRED), "out": str(REQUIRED)})
    if recipe is not None:
        raise FileNotFoundError(
            f"{recipe} is neither a YAML file nor a recipe: a recipe is {one_of(RECIPES, recipe)}; images are given "
            "with --images"
        )
    return default or RECIPES[DEFAULT_RECIPE](REQUIRED, REQUIRED)


METHODS: dict[ImageMethod, Callable[[RunConfig], RunConfig]] = {
    "byol": byol,
    "mocov2": mocov2,
    "simclr": simclr,
    "densecl": densecl,
    "selfemd": selfemd,
}


def with_method(config: RunConfig, name: ImageMethod) -> RunConfig:
    """Change the image-level method of stage 1, with its rates, views and sizes.

    Args:
        config: returned unchanged if that is its method already.
        name: the method. Its values are those of its paper on COCO if stage 1 has `LONG_EPOCHS` or more, otherwise
            values for short training. Stage 3 starts from scratch if it cannot start from that method's projector.

    Raises:
        ValueError: if there is no such method.
    """
    if config.method.name == name:
        return config
    if name not in METHODS:
        raise ValueError(f"method must be {one_of(METHODS, name)}")
    if name not in WARM_START_METHODS:
        config = replace(config, objects=replace(config.objects, warm_start=False))
    return METHODS[name](config)


def with_changes(
    config: RunConfig,
    *,
    method: ImageMethod | None = None,
    backbone: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    stages: Collection[str] = ("stage1", "stage3"),
) -> RunConfig:
    """Change the most common fields of a config; None leaves a field as it is.

    Args:
        config: the config to start from.
        method: image-level method of stage 1, as `with_method` sets it for the epochs of `config`.
        backbone: network of both training stages.
        epochs: passes over the images in each of `stages`.
        batch_size: images per step in each of `stages`.
        stages: training stages whose epochs and batch size are changed.
    """
    if method is not None:
        config = with_method(config, method)
    if backbone is not None:
        config = replace(config, network=replace(config.network, backbone=backbone))
    changes: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size}
    changes = {name: value for name, value in changes.items() if value is not None}
    return replace(config, **{stage: replace(getattr(config, stage), **changes) for stage in stages})


PUBLISHED_PRECISION: Precision = "16-mixed"
"""Precision of the published training; `coco` takes bf16, which needs no scaling of the loss."""
UNLISTED_FIELDS = frozenset(
    {
        *(
            "network.backbone",
            "discover.shard_size",
            "discover.feature_extractor",
            "discover.architecture",
            "discover.proposals_file",
        ),
        *(f"{stage}.{name}" for stage in ("stage1", "stage3") for name in FREE_TRAIN_FIELDS - {"accumulation_steps"}),
    }
)
"""Fields, by dotted names, that change no result or are named by other lines of a result."""


def training_deviations(config: RunConfig, stage: str) -> list[str]:
    """List the differences between a backbone's training and the published one of its method.

    Args:
        config: the run.
        stage: 'stage1' or 'stage3', whose backbone it is; stage 3 depends on stages 1 and 2 too.

    Example:
        >>> from dataclasses import replace
        >>> config = coco("images", "runs/x")
        >>> training_deviations(replace(config, stage1=replace(config.stage1, epochs=100)), "stage1")
        ['stage1 epochs 100, not 800', 'precision bf16-mixed, not 16-mixed']
    """
    published = replace(with_method(coco(REQUIRED, REQUIRED), config.method.name), precision=PUBLISHED_PRECISION)
    sections = ["network", "stage1", "method"] if stage == "stage1" or config.needs_stage1 else ["network"]
    sections += ["discover", "stage3", "objects"] if stage == "stage3" else []
    now, was = flat(to_plain(config)), flat(to_plain(published))
    found: dict[str, list[str]] = {}
    for name in (*(key for key in now if key.partition(".")[0] in sections), "precision"):
        if name not in UNLISTED_FIELDS and now[name] != was[name]:
            section, _, field = name.partition(".")
            is_trained = section in TRAINED_STAGES
            line = f"{field if is_trained else name} {now[name]}, not {was[name]}"
            found.setdefault(line, []).extend([section] if is_trained else [])
    lines = [" ".join([" and ".join(stages), line]).strip() for line, stages in found.items()]
    lines += ["stage1 by another method than byol"] if stage == "stage3" and config.method.name != "byol" else []
    lines += ["stage2 embeds with given weights"] if stage == "stage3" and config.discover.feature_extractor else []
    return lines + (["starts from given weights"] if config.init_from else [])


def with_fields(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """Change any fields of a config by their dotted names.

    Args:
        config: the config to start from.
        changes: new values by names such as 'seed' or 'stage1.views.size_px'.

    Raises:
        ValueError: if there is no such field, or a value is wrong.

    Example:
        >>> config = with_fields(demo("images", "runs/x"), {"seed": 1, "stage1.views.size_px": 96})
        >>> config.seed, config.stage1.views.size_px
        (1, 96)
    """
    plain = to_plain(config)
    names = flat(plain)
    for name, value in changes.items():
        if name not in names:
            near = get_close_matches(name, names, n=1)
            raise ValueError(f"there is no field {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        *parents, last = name.split(".")
        inner = plain
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    return from_plain(RunConfig, plain, "config")
