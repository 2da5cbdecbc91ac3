"""The section of proposals and kept RoIs: the boxes as found, and those that discovery may match."""

from collections.abc import Sequence
from dataclasses import dataclass

from orl.datasets.decode import ImageError
from orl.figures.proposal_figure import sample_boxes
from orl.figures.run_images import open_run_table, rows_of
from orl.figures.sheets import count_text
from orl.report.content import Figure, Note, Panel, Section
from orl.report.overlays import overlay_boxes
from orl.report.runs import NOT_SHARED, ReportedRun, ReportInputs
from orl.report.thumbnails import Thumbnails
from orl.tables import Table

NUM_IMAGES = 4
MAX_PROPOSALS = 150
"""Most proposals shown on an image."""


@dataclass(frozen=True, kw_only=True)
class Proposals(Section):
    """Images with their proposals and, beside them, with the RoIs kept of them."""

    template = "proposals.html"
    averages: Sequence[str]
    """Sentence of each run about its number of RoIs."""
    images: Sequence[Figure | Note]


def proposal_section(inputs: ReportInputs) -> Proposals:
    """Gather a few images, the same for all runs, with the boxes of each run."""
    notes = [NOT_SHARED] if inputs.is_comparison and not inputs.shared_images() else []
    averages: list[str] = []
    by_run: list[list[Figure | Note]] = []
    for run in inputs.runs:
        try:
            thumbnails = run.required_thumbnails()
            rois = open_run_table(run.run, "rois", thumbnails.images)
        except (FileNotFoundError, ValueError) as error:
            notes.append(run.note("No RoIs have been kept yet", error))
            continue
        proposals = None
        try:
            proposals = open_run_table(run.run, "proposals", thumbnails.images)
        except (FileNotFoundError, ValueError) as error:
            notes.append(run.note("The proposals are missing, only the RoIs kept of them are there", error))
        averages.append(run.named(f"{rois.num_rows / max(1, len(thumbnails.images)):.1f} RoIs per image on average."))
        sampled = inputs.sample_images_of(run, NUM_IMAGES)
        seed = inputs.options.seed
        by_run.append([_boxes_figure(run, thumbnails, proposals, rois, each, seed) for each in sampled])
    figures = [each for column in zip(*by_run) for each in column]
    return Proposals(title="Proposals and kept RoIs", notes=notes, averages=averages, images=figures)


def _boxes_figure(
    run: ReportedRun, thumbnails: Thumbnails, proposals: Table | None, rois: Table, image_id: int, seed: int
) -> Figure | Note:
    name, kept = run.named(thumbnails.images.names[image_id]), rows_of(rois, image_id)
    num_kept = count_text(len(kept), "RoI")
    try:
        image = thumbnails.get(image_id)
    except ImageError as error:
        return Note(f"{name}: {num_kept} cannot be shown; {error}")
    right = Panel(picture=overlay_boxes(image, kept), alt=f"{name} with {num_kept}", label="kept RoIs")
    if proposals is None:
        return Figure(panels=[right], caption=f"{name}: {num_kept}", layout="row halves")
    found = rows_of(proposals, image_id)
    sampled = sample_boxes(found, MAX_PROPOSALS, (seed, image_id))
    is_part = len(sampled) < len(found)
    num_found = f"{len(sampled):,} of {len(found):,} proposals" if is_part else count_text(len(found), "proposal")
    left = Panel(picture=overlay_boxes(image, sampled, thin=True), alt=f"{name} with {num_found}", label="proposals")
    return Figure(panels=[left, right], caption=f"{name}: {num_found}; {num_kept} kept", layout="row halves")
