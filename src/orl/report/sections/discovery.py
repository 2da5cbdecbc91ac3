"""The section of the discovery score: are the matched boxes objects, and of one class?"""

from collections.abc import Mapping
from typing import Any

from orl.datasets.labels import COVERING_IOU
from orl.report import html as page
from orl.report.html import Html
from orl.report.results import how_to_go_on
from orl.rundir import RunDir, read_discovery_score

KINDS = {"Best of each two images": "", "All that were kept": "kept_", "Paired at random": "random_"}
"""What is scored, and how its names begin in the file."""


def discovery_section(run: RunDir) -> tuple[str, Html]:
    """The discovery score: are the matched boxes objects, and of one class?"""
    title, score = "Discovery score", read_discovery_score(run)
    if score is None:
        reason = "Discovery has not been scored: that needs images whose objects are known (boxes with classes). "
        return page.section(title, page.missing(reason, how_to_go_on(run)))
    columns = ["Pairs", "Number", "Both on an object (%)", "Of those, one class (%)", "Both, one class (%)"]
    rows = [
        [
            name,
            f"{score[f'{kind}num_pairs']:,}",
            *(
                page.fraction_bar(score.get(f"{kind}{fraction}"), score.get(f"{kind}{fraction}_interval_95"))
                for fraction in ("object_fraction", "same_class_fraction", "both_fraction")
            ),
        ]
        for name, kind in KINDS.items()
        if f"{kind}num_pairs" in score
    ]
    return page.section(
        title,
        page.paragraph(
            "Before any training on objects: are the pairs that stage 2 finds worth learning from? A box is on an "
            f"object when their IoU is at least {score.get('iou_threshold', COVERING_IOU):g}. The yardstick pairs "
            "random RoIs of the same two images. Ranges are 95% intervals by a bootstrap over the query images."
        ),
        page.table("Matched pairs against random pairs", columns, rows),
        page.paragraph(_discovery_sentence(score)),
    )


def _discovery_sentence(score: Mapping[str, Any]) -> str:
    matched, chance = score["object_fraction"], score["random_object_fraction"]
    sentence = (
        f"Of the best pairs {100 * matched:.1f}% have an object under both boxes, of random pairs {100 * chance:.1f}%"
    )
    same, same_chance = score.get("same_class_fraction"), score.get("random_same_class_fraction")
    if same is not None and same_chance is not None:
        sentence += (
            f"; where they do, the two objects are of one class in {100 * same:.1f}% against {100 * same_chance:.1f}%"
        )
    if matched <= chance:
        return f"{sentence}. Discovery does not beat chance here: stage 3 learns from noise."
    found, drawn = score.get("object_fraction_interval_95"), score.get("random_object_fraction_interval_95")
    if found and drawn and found[0] <= drawn[1]:
        return f"{sentence}. The two intervals overlap: with so few images this may be chance."
    return f"{sentence}. The further above chance, the more stage 3 has to learn from."
