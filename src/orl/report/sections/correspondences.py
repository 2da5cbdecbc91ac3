"""The section of correspondences: pairs of images with the boxes that stage 2 matched, to be sorted and filtered."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np

from orl.datasets.decode import ImageError
from orl.figures.correspondence_figure import similarity_text
from orl.figures.pair_selection import best_correspondences, ranked_neighbours
from orl.figures.run_images import boxes_of, open_run_table
from orl.report.content import Chip, Figure, Note, Panel, Section
from orl.report.overlays import colour_class, overlay_pair
from orl.report.runs import NOT_SHARED, ReportedRun, ReportInputs
from orl.report.sections.neighbours import NUM_QUERIES
from orl.report.sections.pairs import KINDS, ShownPair, choose_pairs
from orl.report.thumbnails import Thumbnails
from orl.tables import Table

ORDERS = {
    "highest": "Most similar first",
    "lowest": "Least similar first",
    "name": "Name of the query",
    "random": "Random order",
}
COVERS = {
    "same": "Both on objects of one class",
    "both": "Both on an object",
    "none": "Not both on an object",
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A field of the controls with its options: value -> text."""

    label: str
    name: str
    options: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Explorer:
    """Pairs of one run, with the controls that sort and filter them."""

    heading: str
    """Name of the run; empty if there is only one."""
    choices: Sequence[Choice]
    similarity_range: tuple[str, str] | None
    """Ends of the slider; None if the similarities are not known."""
    pairs: Sequence[Figure]


@dataclass(frozen=True, kw_only=True)
class Correspondences(Section):
    """The explorer of each run, and the best pairs that several runs found for the same images."""

    template = "correspondences.html"
    compared: Sequence[Figure]
    explorers: Sequence[Explorer]


def correspondence_section(inputs: ReportInputs) -> Correspondences:
    """Gather pairs of RoIs that stage 2 matched: the most and the least similar, random ones, those of some images.

    Several runs also have the most similar pair that each found for the same query images.
    """
    notes, explorers = [], []
    for run in inputs.runs:
        try:
            thumbnails = run.required_thumbnails()
            pairs = choose_pairs(run.run, thumbnails.images, inputs.options.seed, run.annotations.labels)
        except (FileNotFoundError, ValueError) as error:
            notes.append(run.note("No correspondences have been found yet", error))
            continue
        if pairs:
            explorers.append(_explorer(run, thumbnails, pairs, notes))
        else:
            notes.append(run.note("No correspondence was kept"))
    compared = _compare_pairs(inputs, notes) if inputs.is_comparison else []
    return Correspondences(title="Correspondences", notes=notes, compared=compared, explorers=explorers)


def _explorer(run: ReportedRun, thumbnails: Thumbnails, pairs: Sequence[ShownPair], notes: list[Note]) -> Explorer:
    """Return the pairs with their controls; add a note for each pair whose images cannot be read."""
    is_known = all(np.isfinite(pair.similarities[0]) for pair in pairs)
    if is_known:
        pairs = sorted(pairs, key=lambda pair: -float(pair.similarities[0]))
    figures = []
    for pair in pairs:
        try:
            figures.append(_pair_figure(thumbnails, pair))
        except ImageError as error:
            names = " and ".join(thumbnails.images.names[each] for each in pair.image_ids)
            notes.append(Note(f"{run.named(names)} cannot be shown; {error}"))
    return Explorer(
        heading=run.label if run.prefix else "",
        choices=_choices(pairs, is_known),
        similarity_range=_similarity_range(pairs) if is_known else None,
        pairs=figures,
    )


def _similarity_range(pairs: Sequence[ShownPair]) -> tuple[str, str]:
    values = [float(pair.similarities[0]) for pair in pairs]
    return f"{floor(100 * min(values)) / 100:.2f}", f"{ceil(100 * max(values)) / 100:.2f}"


def _pair_figure(thumbnails: Thumbnails, pair: ShownPair) -> Figure:
    names = [thumbnails.images.names[each] for each in pair.image_ids]
    similarities = [similarity_text(float(value), 3) for value in pair.similarities]
    count = len(similarities)
    joined = "a box in each, joined" if count == 1 else f"{count} pairs of boxes, each joined"
    image, neighbour = thumbnails.get_all(pair.image_ids)
    overlay = overlay_pair(image, neighbour, pair.boxes, pair.neighbour_boxes)
    alt = f"{names[0]} and its neighbour {names[1]}, {joined}; similarity {', '.join(similarities)}"
    return Figure(
        panels=[Panel(picture=overlay, alt=alt)],
        caption=" and ".join(names),
        chips=[
            *(Chip(text, colour_class(index)) for index, text in enumerate(similarities)),
            *([] if pair.covered is None else [Chip(_covered_text(pair.covered))]),
            *(Chip(KINDS[kind]) for kind in pair.kinds),
        ],
        data={
            "query": names[0],
            "names": " ".join(names),
            "kinds": " ".join(pair.kinds),
            "covers": " ".join(pair.covers),
            "similarity": f"{pair.similarities[0]:.5f}",
        },
    )


def _covered_text(covered: tuple[str, str]) -> str:
    if not any(covered):
        return "neither on an object"
    if covered[0] == covered[1]:
        return f"both on {covered[0]}"
    return f"on {' and '.join(each or 'no object' for each in covered)}"


def _choices(pairs: Sequence[ShownPair], is_known: bool) -> list[Choice]:
    kinds = Counter(kind for pair in pairs for kind in pair.kinds)
    covers = Counter(word for pair in pairs for word in pair.covers)
    orders = ORDERS if is_known else {"listed": "As listed"} | {name: ORDERS[name] for name in ("name", "random")}
    shown_kinds = {kind: f"{text.capitalize()} ({kinds[kind]})" for kind, text in KINDS.items() if kinds[kind]}
    choices = [
        Choice(label="Sort by", name="sort", options=orders),
        Choice(label="Which pairs", name="kind", options={"": f"All kinds ({len(pairs)})"} | shown_kinds),
    ]
    if covers:
        options = {"": "Any"} | {word: f"{text} ({covers[word]})" for word, text in COVERS.items()}
        choices.append(Choice(label="The best boxes are", name="covers", options=options))
    return choices


def _compare_pairs(inputs: ReportInputs, notes: list[Note]) -> list[Figure]:
    """Show, for each query image, the most similar pair that each run found; add a note if no image is shared."""
    if not inputs.shared_images():
        notes.append(NOT_SHARED)
    panels: dict[tuple[int, ...], list[Panel | Note]] = {ids: [] for ids in inputs.sample_images(NUM_QUERIES)}
    for position, (run, thumbnails) in enumerate(inputs.runs_with_images):
        try:
            rois, correspondences = (
                open_run_table(run.run, name, thumbnails.images) for name in ("rois", "correspondences")
            )
        except (FileNotFoundError, ValueError):
            continue  # The explorer of the run has a note.
        for ids, own in panels.items():
            own.append(_best_pair(run, thumbnails, rois, correspondences, ids[position]))
    names = inputs.runs_with_images[0][1].images.names if panels else ()
    return [
        Figure(panels=own, caption=f"{names[ids[0]]}, the query", layout="row wide-cells")
        for ids, own in panels.items()
        if own
    ]


def _best_pair(
    run: ReportedRun, thumbnails: Thumbnails, rois: Table, correspondences: Table, image_id: int
) -> Panel | Note:
    neighbour_ids, similarities = ranked_neighbours(correspondences, image_id)
    if not len(neighbour_ids):
        return Note(run.named("no correspondence of this image"))
    pair = image_id, int(neighbour_ids[np.nan_to_num(similarities, nan=-np.inf).argmax()])
    *rows, values = best_correspondences(correspondences, *pair, 1)
    try:
        boxes, neighbour_boxes = (boxes_of(rois, row, each) for row, each in zip(rows, pair))
        image, neighbour = thumbnails.get_all(pair)
    except ValueError as error:
        return Note(run.named(str(error)))
    alt = run.named(f"{thumbnails.images.names[pair[1]]}, similarity {similarity_text(float(values[0]))}")
    return Panel(picture=overlay_pair(image, neighbour, boxes, neighbour_boxes), alt=alt, label=run.label)
