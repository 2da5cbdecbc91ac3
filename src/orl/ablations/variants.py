"""What each study compares: arms, which are changes to one base run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orl.ablations.baselines import labelled_boxes, random_feature_extractor
from orl.ablations.compute import epochs_of_equal_compute
from orl.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Base:
    """The run of one seed that the arms of a study are changes of; its stage 1 and stage 2 are done."""

    config: RunConfig
    outside: Path | None = None
    """Weights from elsewhere to look with, where the study has an arm for them."""

    def variant(self, label: str, backbone: str = "stage3", **changes: Any) -> "Variant":
        """An arm by its label and what it changes: `discover={'num_neighbours': 1}`.

        Args:
            label: what differs, in words; the folder is named after it.
            backbone: what is judged: 'random', 'stage1' or 'stage3'.
            changes: part of the settings -> its fields to change.
        """
        config = self.config
        for part, fields in changes.items():
            config = replace(config, **{part: replace(getattr(config, part), **fields)})
        if config != self.config:
            config = replace(config, out=self.config.out.parent / folder_name(label), overwrite=True)
        return Variant(label=label, config=config, backbone=backbone)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One line of a study: a run, and which of its backbones counts."""

    label: str
    config: RunConfig
    """Its folder is the base's where nothing is changed."""
    backbone: str


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A question, and the arms that answer it."""

    question: str
    variants: Callable[[Base], Sequence[Variant]]
    reference: str
    """Label of the arm that the others are held against, the paper's choice."""
    discovery_only: bool = False
    """Whether the arms say nothing about stage 2."""


AS_MANY_IMAGES = "BYOL, as many images"


def folder_name(label: str) -> str:
    """A label as the name of a folder."""
    words = "".join(letter if letter.isalnum() else " " for letter in label.lower()).split()
    return "-".join(words)


def stages(base: Base) -> list[Variant]:
    """Random weights, BYOL at as many images and at as much compute, ORL.

    With a warm start BYOL of as many images starts where ORL does, and is stage 3 without its pairs.
    """
    epochs = epochs_of_equal_compute(base.config)
    byol = [base.variant(AS_MANY_IMAGES, "stage1", stage1={"epochs": base.config.stage3.epochs})]
    if base.config.objects.warm_start:
        alone = {"global_weight": 1.0, "intra_weight": 0.0, "inter_weight": 0.0}
        byol = [base.variant("BYOL, where ORL starts", "stage1"), base.variant(AS_MANY_IMAGES, objects=alone)]
    return [
        base.variant("random weights", "random"),
        *byol,
        base.variant("BYOL, as much compute", "stage1", stage1={"epochs": epochs}),
        base.variant("ORL"),
    ]


def neighbours(base: Base) -> list[Variant]:
    """K, the neighbours of an image that correspondences are looked for in."""
    return [base.variant(f"K = {number}", discover={"num_neighbours": number}) for number in (1, 5, 10, 20)]


def top_fraction(base: Base) -> list[Variant]:
    """The share of pairs of two images that is kept."""
    return [
        base.variant(f"{100 * fraction:g}% kept", discover={"top_fraction": fraction})
        for fraction in (0.05, 0.1, 0.2, 0.5)
    ]


def losses(base: Base) -> list[Variant]:
    """The three terms of the loss, alone and together."""
    used = {
        "global": (1.0, 0.0, 0.0),
        "global + intra": (1.0, 1.0, 0.0),
        "global + inter": (1.0, 0.0, 1.0),
        "intra + inter": (0.0, 1.0, 1.0),
        "global + intra + inter": (1.0, 1.0, 1.0),
    }
    names = ("global_weight", "intra_weight", "inter_weight")
    return [base.variant(label, objects=dict(zip(names, weights))) for label, weights in used.items()]


def jitter(base: Base) -> list[Variant]:
    """How far the second box of an intra-RoI pair may move."""
    overlaps = {"no jitter": 1.0, "IoU above 0.7": 0.7, "IoU above 0.5": 0.5, "IoU above 0.2": 0.2}
    return [base.variant(label, objects={"jitter_min_iou": overlap}) for label, overlap in overlaps.items()]


def proposals(base: Base) -> list[Variant]:
    """Where boxes come from; labelled boxes are the ceiling."""
    sources = {
        "selective search": ("selective-search", base.config.discover.search_scale, None),
        "grid": ("grid", 1.0, None),
        "random boxes": ("random", 1.0, None),
        "labelled boxes": ("file", 1.0, labelled_boxes(base.config)),
    }
    names = ("proposals", "search_scale", "proposals_file")
    return [base.variant(label, discover=dict(zip(names, values))) for label, values in sources.items()]


def feature_extractor(base: Base) -> list[Variant]:
    """What stage 2 looks with."""
    found = [
        base.variant(
            "random weights",
            discover={"feature_extractor": random_feature_extractor(base.config), "architecture": None},
        ),
        base.variant("stage 1", discover={"feature_extractor": None, "architecture": None}),
    ]
    if base.outside is not None:
        found.append(
            base.variant(
                f"outside: {base.outside.stem}", discover={"feature_extractor": base.outside, "architecture": None}
            )
        )
    return found


ABLATIONS = {
    "stages": Ablation(
        question="Does ORL beat BYOL, at as many images and at as much compute?",
        variants=stages,
        reference=AS_MANY_IMAGES,
        discovery_only=True,
    ),
    "neighbours": Ablation(question="How many neighbours of an image?", variants=neighbours, reference="K = 10"),
    "top-fraction": Ablation(question="Which share of the pairs is kept?", variants=top_fraction, reference="10% kept"),
    "losses": Ablation(
        question="Which terms of the loss?", variants=losses, reference="global + intra + inter", discovery_only=True
    ),
    "jitter": Ablation(
        question="How far may a box be jittered?", variants=jitter, reference="IoU above 0.5", discovery_only=True
    ),
    "proposals": Ablation(question="Where do boxes come from?", variants=proposals, reference="selective search"),
    "feature_extractor": Ablation(
        question="What does stage 2 look with?", variants=feature_extractor, reference="stage 1"
    ),
}
"""By the name that `orl ablate` knows them by."""
