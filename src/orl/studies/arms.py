"""What each study compares: arms, which are changes to one base run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orl.config import RunConfig
from orl.studies.compute import epochs_of_equal_compute
from orl.studies.materials import labelled_boxes, random_prior


@dataclass(frozen=True, kw_only=True)
class Base:
    """The run of one seed that the arms of a study are changes of; its stage 1 and stage 2 are done."""

    config: RunConfig
    outside: Path | None = None
    """Weights from elsewhere to look with, where the study has an arm for them."""

    def arm(self, label: str, backbone: str = "stage3", **changes: Any) -> "Arm":
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
        return Arm(label=label, config=config, backbone=backbone)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One line of a study: a run, and which of its backbones counts."""

    label: str
    config: RunConfig
    """Its folder is the base's where nothing is changed."""
    backbone: str


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question, and the arms that answer it."""

    question: str
    arms: Callable[[Base], Sequence[Arm]]
    reference: str
    """Label of the arm that the others are held against, the paper's choice."""
    judges_only: bool = False
    """Whether the arms say nothing about stage 2."""


AS_MANY_PHOTOS = "BYOL, as many photos"


def folder_name(label: str) -> str:
    """A label as the name of a folder."""
    words = "".join(letter if letter.isalnum() else " " for letter in label.lower()).split()
    return "-".join(words)


def stages(base: Base) -> list[Arm]:
    """Random weights, BYOL at as many photos and at as much compute, ORL.

    With a warm start BYOL of as many photos starts where ORL does, and is stage 3 without its pairs.
    """
    epochs = epochs_of_equal_compute(base.config)
    byol = [base.arm(AS_MANY_PHOTOS, "stage1", stage1={"epochs": base.config.stage3.epochs})]
    if base.config.objects.warm_start:
        alone = {"global_weight": 1.0, "intra_weight": 0.0, "inter_weight": 0.0}
        byol = [base.arm("BYOL, where ORL starts", "stage1"), base.arm(AS_MANY_PHOTOS, objects=alone)]
    return [
        base.arm("random weights", "random"),
        *byol,
        base.arm("BYOL, as much compute", "stage1", stage1={"epochs": epochs}),
        base.arm("ORL"),
    ]


def neighbours(base: Base) -> list[Arm]:
    """K, the neighbours of a photo that correspondences are looked for in."""
    return [base.arm(f"K = {number}", discover={"num_neighbours": number}) for number in (1, 5, 10, 20)]


def pair_share(base: Base) -> list[Arm]:
    """The share of pairs of two photos that is kept."""
    return [base.arm(f"{100 * share:g}% kept", discover={"pair_share": share}) for share in (0.05, 0.1, 0.2, 0.5)]


def losses(base: Base) -> list[Arm]:
    """The three terms of the loss, alone and together."""
    used = {
        "global": (1.0, 0.0, 0.0),
        "global + intra": (1.0, 1.0, 0.0),
        "global + inter": (1.0, 0.0, 1.0),
        "intra + inter": (0.0, 1.0, 1.0),
        "global + intra + inter": (1.0, 1.0, 1.0),
    }
    names = ("global_weight", "intra_weight", "inter_weight")
    return [base.arm(label, objects=dict(zip(names, weights))) for label, weights in used.items()]


def jitter(base: Base) -> list[Arm]:
    """How far the second box of an intra-RoI pair may move."""
    overlaps = {"no jitter": 1.0, "IoU above 0.7": 0.7, "IoU above 0.5": 0.5, "IoU above 0.2": 0.2}
    return [base.arm(label, objects={"jitter_min_iou": overlap}) for label, overlap in overlaps.items()]


def proposals(base: Base) -> list[Arm]:
    """Where boxes come from; labelled boxes are the ceiling."""
    sources = {
        "selective search": ("selective-search", base.config.discover.search_scale, None),
        "grid": ("grid", 1.0, None),
        "random boxes": ("random", 1.0, None),
        "labelled boxes": ("file", 1.0, labelled_boxes(base.config)),
    }
    names = ("proposals", "search_scale", "proposals_file")
    return [base.arm(label, discover=dict(zip(names, values))) for label, values in sources.items()]


def prior(base: Base) -> list[Arm]:
    """What stage 2 looks with."""
    found = [
        base.arm("random weights", discover={"backbone": random_prior(base.config), "architecture": None}),
        base.arm("stage 1", discover={"backbone": None, "architecture": None}),
    ]
    if base.outside is not None:
        found.append(
            base.arm(f"outside: {base.outside.stem}", discover={"backbone": base.outside, "architecture": None})
        )
    return found


STUDIES = {
    "stages": Study(
        question="Does ORL beat BYOL, at as many photos and at as much compute?",
        arms=stages,
        reference=AS_MANY_PHOTOS,
        judges_only=True,
    ),
    "neighbours": Study(question="How many neighbours of a photo?", arms=neighbours, reference="K = 10"),
    "pair-share": Study(question="Which share of the pairs is kept?", arms=pair_share, reference="10% kept"),
    "losses": Study(
        question="Which terms of the loss?", arms=losses, reference="global + intra + inter", judges_only=True
    ),
    "jitter": Study(
        question="How far may a box be jittered?", arms=jitter, reference="IoU above 0.5", judges_only=True
    ),
    "proposals": Study(question="Where do boxes come from?", arms=proposals, reference="selective search"),
    "prior": Study(question="What does stage 2 look with?", arms=prior, reference="stage 1"),
}
"""By the name that `orl ablate` knows them by."""
