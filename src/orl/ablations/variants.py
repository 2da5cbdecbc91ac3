"""The ablations, and the variants that each compares: changes to one base run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orl.ablations.baselines import labelled_boxes, random_feature_extractor
from orl.ablations.compute import compute_matched_epochs
from orl.config import RunConfig

IMAGE_MATCHED, COMPUTE_MATCHED = "BYOL, image-matched", "BYOL, compute-matched"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of an ablation: a run, and which of its backbones is evaluated."""

    label: str
    config: RunConfig
    """Config of the run; its folder is that of the base run if nothing is changed."""
    backbone: str
    """Backbone that is evaluated: 'random', 'stage1' or 'stage3'."""


@dataclass(frozen=True, kw_only=True)
class BaseRun:
    """The run of one seed that the variants of an ablation change; its stage 1 and stage 2 are done."""

    config: RunConfig
    outside: Path | None = None
    """External weights for a variant of the feature extractor."""

    def variant(self, label: str, backbone: str = "stage3", **changes: Any) -> Variant:
        """Return a variant by its label and its changes, such as `discover={'num_neighbours': 1}`.

        Args:
            label: the difference in words; it names the folder.
            backbone: backbone that is evaluated: 'random', 'stage1' or 'stage3'.
            changes: section of the config -> changed fields.
        """
        config = self.config
        for section, fields in changes.items():
            config = replace(config, **{section: replace(getattr(config, section), **fields)})
        if config != self.config:
            config = replace(config, out=self.config.out.parent / folder_name(label), overwrite=True)
        return Variant(label=label, config=config, backbone=backbone)


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A question about the method, and the variants that are compared."""

    question: str
    variants: Callable[[BaseRun], Sequence[Variant]]
    reference: str
    """Label of the variant that the others are compared with, the paper's choice."""
    same_discovery: bool = False
    """Whether all variants have the same stage 2, so that `--discovery-only` compares nothing."""


def folder_name(label: str) -> str:
    """Return a label as the name of a folder."""
    words = "".join(letter if letter.isalnum() else " " for letter in label.lower()).split()
    return "-".join(words)


def stage_variants(base: BaseRun) -> list[Variant]:
    """Return random weights, image-matched BYOL, compute-matched BYOL, and ORL.

    With a warm start, image-matched BYOL starts from the same weights as ORL: it is stage 3 without its pairs.
    """
    byol = [base.variant(IMAGE_MATCHED, "stage1", stage1={"epochs": base.config.stage3.epochs})]
    if base.config.objects.warm_start:
        no_pairs = {"global_weight": 1.0, "intra_weight": 0.0, "inter_weight": 0.0}
        byol = [base.variant("BYOL, start of ORL", "stage1"), base.variant(IMAGE_MATCHED, objects=no_pairs)]
    return [
        base.variant("random weights", "random"),
        *byol,
        base.variant(COMPUTE_MATCHED, "stage1", stage1={"epochs": compute_matched_epochs(base.config)}),
        base.variant("ORL"),
    ]


def neighbour_variants(base: BaseRun) -> list[Variant]:
    """Return numbers of neighbours per image."""
    return [base.variant(f"K = {number}", discover={"num_neighbours": number}) for number in (1, 5, 10, 20)]


def top_fraction_variants(base: BaseRun) -> list[Variant]:
    """Return fractions of the pairs of RoIs that are kept."""
    return [
        base.variant(f"{100 * fraction:g}% kept", discover={"top_fraction": fraction})
        for fraction in (0.05, 0.1, 0.2, 0.5)
    ]


def loss_variants(base: BaseRun) -> list[Variant]:
    """Return combinations of the three terms of the loss."""
    weights = {
        "global": (1.0, 0.0, 0.0),
        "global + intra": (1.0, 1.0, 0.0),
        "global + inter": (1.0, 0.0, 1.0),
        "intra + inter": (0.0, 1.0, 1.0),
        "global + intra + inter": (1.0, 1.0, 1.0),
    }
    names = ("global_weight", "intra_weight", "inter_weight")
    return [base.variant(label, objects=dict(zip(names, each))) for label, each in weights.items()]


def jitter_variants(base: BaseRun) -> list[Variant]:
    """Return lower limits on the IoU of the two boxes of an intra-RoI pair."""
    min_ious = {"no jitter": 1.0, "IoU above 0.7": 0.7, "IoU above 0.5": 0.5, "IoU above 0.2": 0.2}
    return [base.variant(label, objects={"jitter_min_iou": min_iou}) for label, min_iou in min_ious.items()]


def proposal_variants(base: BaseRun) -> list[Variant]:
    """Return sources of the proposals; labelled boxes are the upper limit."""
    sources = {
        "selective search": ("selective-search", base.config.discover.search_scale, None),
        "grid": ("grid", 1.0, None),
        "random boxes": ("random", 1.0, None),
        "labelled boxes": ("file", 1.0, labelled_boxes(base.config)),
    }
    names = ("proposals", "search_scale", "proposals_file")
    return [base.variant(label, discover=dict(zip(names, values))) for label, values in sources.items()]


def feature_extractor_variants(base: BaseRun) -> list[Variant]:
    """Return feature extractors of stage 2."""
    sources: dict[str, Path | None] = {"random weights": random_feature_extractor(base.config), "stage 1": None}
    if base.outside is not None:
        sources[f"outside: {base.outside.stem}"] = base.outside
    return [
        base.variant(label, discover={"feature_extractor": source, "architecture": None})
        for label, source in sources.items()
    ]


ABLATIONS = {
    "stages": Ablation(
        question="Does ORL beat BYOL, image-matched and compute-matched?",
        variants=stage_variants,
        reference=IMAGE_MATCHED,
        same_discovery=True,
    ),
    "neighbours": Ablation(
        question="How many neighbours of an image?", variants=neighbour_variants, reference="K = 10"
    ),
    "top-fraction": Ablation(
        question="Which fraction of the pairs is kept?", variants=top_fraction_variants, reference="10% kept"
    ),
    "losses": Ablation(
        question="Which terms of the loss?",
        variants=loss_variants,
        reference="global + intra + inter",
        same_discovery=True,
    ),
    "jitter": Ablation(
        question="How far may a box be jittered?",
        variants=jitter_variants,
        reference="IoU above 0.5",
        same_discovery=True,
    ),
    "proposals": Ablation(
        question="Where do boxes come from?", variants=proposal_variants, reference="selective search"
    ),
    "feature-extractor": Ablation(
        question="Which feature extractor for stage 2?", variants=feature_extractor_variants, reference="stage 1"
    ),
}
"""The ablations by their names in `orl ablate`."""
