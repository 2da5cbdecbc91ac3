"""BYOL training step on this CPU: `orl` against lightly's building blocks in the way of its BYOL example.

Both take the same images, widths, batch, rate and momentum, in float32. How memory and threads are used is a setting of
a whole process, and so each way has a process of its own; they take turns and never run at once. The threads of both
soon sleep while they wait (GOMP_SPINCOUNT), or other programs would disturb the measurement more. That both do the same
work is checked first, in double precision: the losses of two steps and the weights after them, from equal weights.

    python benchmarks/train.py --json FILE
    python benchmarks/train.py --parts      # the gain of each part of our step, and of parts that we do not use
    python benchmarks/train.py --compile    # and with torch.compile, which first takes minutes
    python benchmarks/train.py --busy       # threads that wait for each other: alone, and beside another program
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import compare
import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from orl.datasets.decode import load_image
from orl.datasets.sources import find_images
from orl.memory import keep_freed_memory
from orl.methods.byol import BYOL, regression_loss
from orl.networks.backbones import BUILDERS, build_backbone
from orl.networks.mlp import byol_mlp
from orl.networks.online_target import Encoder
from orl.synthetic.scenes import draw_scene
from orl.views.augment import normalise
from orl.views.crops import cut_boxes, random_resized_crop

SEED = 0
LR, SGD_MOMENTUM, EMA_MOMENTUM = 0.01, 0.9, 0.99
LOSS_FACTOR = 4
"""Ratio of the learning rates: our loss is 4 + 4 times lightly's, which is half a sum of two negative cosines."""
TOLERANCE = 1e-7
"""Tolerance for 1e-16 of double precision after two steps of fifty layers of batch statistics over four images."""
FEATURES = 256
HIDDEN = {"resnet50": 4096}
"""Width of projector and predictor: the paper's, and 1024 as in lightly's example for smaller networks."""
OTHER_HIDDEN = 1024
BATCHES = {"resnet50": 16}
OTHER_BATCH = 32
SCENE_WH = (256, 192)
SHORT_SPIN = {"GOMP_SPINCOUNT": "1000"}

Step = Callable[[], float]
"""Function that runs one training step and returns the loss."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """Variant of training; the defaults are those of `orl`."""

    lightly: bool = False
    backbone: str = "resnet18"
    batch_size: int = OTHER_BATCH
    size_px: int = 96
    images: str | None = None
    channels_last: bool = True
    keep_memory: bool = True
    ema: str = "foreach"
    sgd: str = "plain"
    join_views: bool = False
    inference_mode: bool = False
    bf16: bool = False
    compiled: bool = False


PARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "channels_last": ({}, {"channels_last": False}),
    "freed memory kept": ({}, {"keep_memory": False}),
    "foreach average": ({}, {"ema": "loop"}),
    "foreach SGD": ({"sgd": "foreach"}, {}),
    "fused SGD": ({"sgd": "fused"}, {}),
    "inference mode": ({"inference_mode": True}, {}),
    "joined views": ({"join_views": True}, {}),
    "bf16": ({"bf16": True}, {}),
}
"""Our step with and without each part."""


def main(argv: list[str] | None = None) -> None:
    """Check that losses and weights agree, time all variants, and write the result."""
    parser = compare.arguments((__doc__ or "").splitlines()[0], size_px=96, batch_size=0, steps=1, runs=15)
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet50"], choices=tuple(BUILDERS))
    parser.add_argument(
        "--parts", nargs="*", choices=tuple(PARTS), help="also time parts of our step, all if none is named"
    )
    parser.add_argument("--compile", action="store_true", help="also time our step with torch.compile")
    parser.add_argument("--busy", action="store_true", help="also time how threads wait, beside another program")
    parser.add_argument("--serve", help="run the steps of one way, as JSON, for another process (internal)")
    options = parser.parse_args(argv)
    if options.serve:
        serve(Way(**json.loads(options.serve)), options.steps)
        return
    results = [claim for backbone in options.backbones for claim in claims(options, backbone)]
    compare.finish(results, options.json)


def claims(options: argparse.Namespace, backbone: str) -> Iterator[dict[str, Any]]:
    """Run all requested comparisons for one backbone."""
    images = None if options.images is None else str(options.images)
    batch_size = options.batch_size or BATCHES.get(backbone, OTHER_BATCH)
    ours = Way(backbone=backbone, batch_size=batch_size, size_px=options.size_px, images=images)
    lightly = replace(ours, lightly=True, channels_last=False, keep_memory=False)
    agreement = check_agreement(replace(ours, batch_size=min(4, batch_size), size_px=min(64, options.size_px)))
    title = f"a BYOL step of {backbone}"
    yield timed(title, "lightly's building blocks", ours, lightly, options, agreement)
    if options.compile:
        compiled = replace(ours, compiled=True)
        yield timed(f"{title}, torch.compile", "lightly's building blocks", compiled, lightly, options, agreement)
        yield timed(f"{title}, torch.compile", "ours without it", compiled, ours, options, agreement)
    for part in [] if options.parts is None else options.parts or PARTS:
        with_it, without = PARTS[part]
        pair = replace(ours, **with_it), replace(ours, **without)
        yield timed(f"{title}, {part}", "ours without it", *pair, options, {"not_compared": "the same network"})
    if options.busy:
        yield from waiting_claims(title, ours, options)


def timed(
    claim: str, alternative: str, ours: Way, theirs: Way, options: argparse.Namespace, agreement: dict[str, Any]
) -> dict[str, Any]:
    """Time two variants alternately, each in its process."""
    with served(ours, options.steps) as run_ours, served(theirs, options.steps) as run_theirs:
        measured = compare.ratios(*compare.interleaved(run_ours, run_theirs, options.runs))
    return compare.result(
        claim, alternative, measured, agreement, **settings_used(ours, options), **rates(ours, measured, options)
    )


def waiting_claims(title: str, way: Way, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Compare threads that soon sleep while waiting (`GOMP_SPINCOUNT`) with the default, alone and beside a program."""
    agreement = {"not_compared": "the same step"}
    environments = {"the default": {}, "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"}}
    for name, environment in environments.items():
        with served(way, options.steps) as ours, served(way, options.steps, environment) as theirs:
            for beside, other in (("alone", nullcontext), ("beside another program", busy_program)):
                with other():
                    measured = compare.ratios(*compare.interleaved(ours, theirs, options.runs))
                claim = f"{title}, GOMP_SPINCOUNT={SHORT_SPIN['GOMP_SPINCOUNT']}, {beside}"
                settings = settings_used(way, options) | rates(way, measured, options)
                yield compare.result(claim, name, measured, agreement, **settings)


def settings_used(way: Way, options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the times depend on; a load above 2 on two cores means that other programs ran too."""
    load = {"load_average": round(os.getloadavg()[0], 1)}
    images = "drawn" if way.images is None else "given"
    hidden = HIDDEN.get(way.backbone, OTHER_HIDDEN)
    sizes = {"batch_size": way.batch_size, "size_px": way.size_px, "hidden": hidden, "features": FEATURES}
    return {
        "backbone": way.backbone,
        **sizes,
        "images": images,
        "steps_a_run": options.steps,
        "lightly": version("lightly"),
        **load,
    }


def rates(way: Way, measured: dict[str, float], options: argparse.Namespace) -> dict[str, float]:
    """Return the images per second of both."""
    images = way.batch_size * options.steps
    return {
        "ours_images_per_s": round(images / measured["ours_median_s"], 1),
        "alternative_images_per_s": round(images / measured["alternative_median_s"], 1),
    }


# The process of one variant.


@contextmanager
def served(way: Way, steps: int, environment: dict[str, str] = SHORT_SPIN) -> Iterator[Callable[[], None]]:
    """Start a process that trains one variant; the yielded function runs a number of steps.

    Raises:
        RuntimeError: if the process ends, or its loss is not finite.
    """
    command = [sys.executable, __file__, "--steps", str(steps), "--serve", json.dumps(asdict(way))]
    given = {**os.environ, **environment}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=given)
    assert process.stdin is not None
    assert process.stdout is not None
    lines, answers = process.stdin, process.stdout

    def run() -> None:
        try:
            lines.write("run\n")
            lines.flush()
        except BrokenPipeError:
            pass
        answer = answers.readline()
        if not answer or not np.isfinite(float(answer)):
            raise RuntimeError(f"the process of {way} answers {answer!r} instead of its loss")

    try:
        run()  # warm-up: building, compiling and allocating are not measured
        yield run
    finally:
        lines.close()
        process.wait()
        answers.close()


def serve(way: Way, steps: int) -> None:
    """Train the number of steps on each input line, and print the loss."""
    if way.keep_memory:
        keep_freed_memory()
    torch.manual_seed(SEED)
    views = make_views(way)
    step = lightly_step(way, views) if way.lightly else our_step(way, views)
    for _ in sys.stdin:
        losses = [step() for _ in range(steps)]
        print(losses[-1], flush=True)


@contextmanager
def busy_program() -> Iterator[None]:
    """Run another program that keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        yield
    finally:
        process.kill()
        process.wait()


def make_views(way: Way) -> tuple[Tensor, Tensor]:
    """Cut two views of each image of a batch: synthetic scenes, or the first of the given images."""
    generator = np.random.default_rng(SEED)
    if way.images is None:
        images = [draw_scene(SEED, index, SCENE_WH).image for index in range(way.batch_size)]
    else:
        root, names = find_images(compare.Path(way.images))
        images = [load_image(root / names[index % len(names)]) for index in range(way.batch_size)]

    def view(image: np.ndarray) -> Tensor:
        box = random_resized_crop((image.shape[1], image.shape[0]), (0.2, 1.0), (3 / 4, 4 / 3), generator)
        return cut_boxes(image, box[None], way.size_px)[0]

    first, second = (normalise(torch.stack([view(image) for image in images])) for _ in range(2))
    return first, second


# Ours.


def our_network(way: Way) -> BYOL:
    """Build the model of stage 1."""
    backbone = build_backbone(way.backbone)
    hidden = HIDDEN.get(way.backbone, OTHER_HIDDEN)
    encoder = Encoder(backbone, byol_mlp(backbone.num_channels, hidden, FEATURES))
    return BYOL(encoder, byol_mlp(FEATURES, hidden, FEATURES), join_views=way.join_views)


def our_step(way: Way, views: tuple[Tensor, Tensor], method: BYOL | None = None) -> Step:
    """Build the step of `orl.training` on fixed views."""
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    method = (method or our_network(way)).to(memory_format=layout).train()
    view_1, view_2 = (view.contiguous(memory_format=layout) for view in views)
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    options = {"plain": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}[way.sgd]
    optimiser = torch.optim.SGD(weights, lr=LR, momentum=SGD_MOMENTUM, **options)
    compute_loss = partial(loss_of(way), method)
    if way.compiled:
        compute_loss = torch.compile(compute_loss)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=way.bf16):
            loss = compute_loss(view_1, view_2)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if way.ema == "foreach":
            method.update_target(EMA_MOMENTUM)
        else:
            with torch.no_grad():
                for target, online in zip(method.target.parameters(), method.online.parameters()):
                    target.lerp_(online, 1 - EMA_MOMENTUM)
        return loss.item()

    return step


def loss_of(way: Way) -> Callable[[BYOL, Tensor, Tensor], Tensor]:
    """Return the loss function: that of the package, or with the target in inference mode."""
    if way.inference_mode:
        return inference_loss
    return lambda method, view_1, view_2: method({"view_1": view_1, "view_2": view_2})[0]["loss_global"]


def inference_loss(method: BYOL, view_1: Tensor, view_2: Tensor) -> Tensor:
    """Compute the loss with the target in inference mode."""
    with torch.inference_mode():
        targets = method.target(view_1), method.target(view_2)
    target_1, target_2 = (target.clone() for target in targets)
    return regression_loss(method.predictor(method.online(view_1)), target_2) + regression_loss(
        method.predictor(method.online(view_2)), target_1
    )


# Lightly's, as in its BYOL example.


class LightlyBYOL(nn.Module):
    """Backbone, heads and their moving averages from lightly's building blocks."""

    def __init__(self, network: ResNet, hidden: int) -> None:
        super().__init__()
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        self.backbone = nn.Sequential(*list(network.children())[:-1])
        self.projection_head = BYOLProjectionHead(network.fc.in_features, hidden, FEATURES)
        self.prediction_head = BYOLPredictionHead(FEATURES, hidden, FEATURES)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)

    def forward(self, view: Tensor) -> Tensor:
        return self.prediction_head(self.projection_head(self.backbone(view).flatten(start_dim=1)))

    def forward_momentum(self, view: Tensor) -> Tensor:
        return self.projection_head_momentum(self.backbone_momentum(view).flatten(start_dim=1)).detach()


def lightly_network(way: Way) -> LightlyBYOL:
    return LightlyBYOL(BUILDERS[way.backbone](), HIDDEN.get(way.backbone, OTHER_HIDDEN))


def lightly_step(way: Way, views: tuple[Tensor, Tensor], model: LightlyBYOL | None = None) -> Step:
    """Build the loop body of lightly's BYOL example."""
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.utils import update_momentum

    model = (model or lightly_network(way)).train()
    criterion = NegativeCosineSimilarity()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.SGD(weights, lr=LOSS_FACTOR * LR, momentum=SGD_MOMENTUM)
    view_1, view_2 = views

    def step() -> float:
        update_momentum(model.backbone, model.backbone_momentum, m=EMA_MOMENTUM)
        update_momentum(model.projection_head, model.projection_head_momentum, m=EMA_MOMENTUM)
        prediction_1, target_1 = model(view_1), model.forward_momentum(view_1)
        prediction_2, target_2 = model(view_2), model.forward_momentum(view_2)
        loss = 0.5 * (criterion(prediction_1, target_2) + criterion(prediction_2, target_1))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        return loss.item()

    return step


# Agreement of both.


def check_agreement(way: Way) -> dict[str, Any]:
    """Compare two steps of both from equal weights in double precision: losses, and the weights after them.

    The heads differ in one place: ours has a bias in the first layer, where batch normalisation takes it away again,
    and lightly's in the last. Neither has one here.

    Raises:
        RuntimeError: if a loss or a weight differs by more than rounding.
    """
    torch.manual_seed(SEED)
    view_1, view_2 = (view.double() for view in make_views(way))
    method, model = our_network(way).double(), lightly_network(way).double()
    drop_biases(method, model)
    with torch.no_grad():
        for theirs, ours in zip(in_order(model), in_order(method), strict=True):
            theirs.copy_(ours)
    ours, theirs = our_step(way, (view_1, view_2), method), lightly_step(way, (view_1, view_2), model)
    losses = [(ours(), 4 + LOSS_FACTOR * theirs()) for _ in range(2)]
    largest_loss = max(abs(ours - theirs) for ours, theirs in losses)
    weights = zip(online_weights(method), online_weights(model), strict=True)
    largest_weight = max((ours - theirs).abs().max().item() for ours, theirs in weights)
    if max(largest_loss, largest_weight) > TOLERANCE:
        raise RuntimeError(
            f"losses differ by {largest_loss} and weights by {largest_weight}, above {TOLERANCE}: the two do not do "
            "the same work"
        )
    return {
        "compared": "losses of two steps in float64 (ours is 4 + 4 times lightly's) and the weights after them",
        "largest_difference_of_losses": largest_loss,
        "largest_difference_of_weights": largest_weight,
    }


def drop_biases(method: BYOL, model: LightlyBYOL) -> None:
    """Remove the biases that only one of the two has."""
    for head in (method.online.projector, method.target.projector, method.predictor):
        head[0].bias = None
    for head in (model.projection_head, model.projection_head_momentum, model.prediction_head):
        head.layers[-1].bias = None


def in_order(network: BYOL | LightlyBYOL) -> list[Tensor]:
    """Return all weights in the same order for both, the online ones first."""
    if isinstance(network, BYOL):
        return [*online_weights(network), *network.target.parameters()]
    return [
        *online_weights(network),
        *network.backbone_momentum.parameters(),
        *network.projection_head_momentum.parameters(),
    ]


def online_weights(network: BYOL | LightlyBYOL) -> list[Tensor]:
    """Return the trained modules: backbone, projector, predictor."""
    parts = (
        (network.online, network.predictor)
        if isinstance(network, BYOL)
        else (network.backbone, network.projection_head, network.prediction_head)
    )
    return [weight for part in parts for weight in part.parameters()]


if __name__ == "__main__":
    main()
