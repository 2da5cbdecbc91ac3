"""The section of neighbours: a few images with the images nearest to them."""

from collections.abc import Sequence
from dataclasses import dataclass

from orl.datasets.decode import ImageError
from orl.figures.correspondence_figure import similarity_text
from orl.figures.run_images import open_run_table
from orl.report.content import Figure, Note, Panel, Section
from orl.report.overlays import overlay_boxes
from orl.report.runs import NOT_SHARED, ReportedRun, ReportInputs
from orl.report.thumbnails import Thumbnails
from orl.tables import Table

NUM_QUERIES = 4
"""Images shown with their neighbours, and with their correspondences in them."""
NUM_NEIGHBOURS = 5


@dataclass(frozen=True, kw_only=True)
class Neighbours(Section):
    """Queries, each with its neighbours."""

    template = "neighbours.html"
    queries: Sequence[Figure | Note]


def neighbour_section(inputs: ReportInputs) -> Neighbours:
    """Gather a few images, the same for all runs, with their neighbours in each run."""
    notes = [NOT_SHARED] if inputs.is_comparison and not inputs.shared_images() else []
    by_run: list[list[Figure | Note]] = []
    for run in inputs.runs:
        try:
            thumbnails = run.required_thumbnails()
            neighbours = open_run_table(run.run, "neighbours", thumbnails.images)
            queries = inputs.sample_images_of(run, NUM_QUERIES)
            by_run.append([_query_figure(run, thumbnails, neighbours, query) for query in queries])
        except (FileNotFoundError, ValueError) as error:
            notes.append(run.note("No neighbours have been found yet", error))
    return Neighbours(title="Neighbours", notes=notes, queries=[each for column in zip(*by_run) for each in column])


def _query_figure(run: ReportedRun, thumbnails: Thumbnails, neighbours: Table, query: int) -> Figure | Note:
    """Return a query and its neighbours, or a note if one of the images is missing."""
    ids, cosines = (
        neighbours.rows(name, query, query + 1)[0, :NUM_NEIGHBOURS].tolist()
        for name in ("neighbour_ids", "similarities")
    )
    names = thumbnails.images.names
    try:
        shown = [overlay_boxes(each) for each in thumbnails.get_all([query, *ids])]
    except ImageError as error:
        return Note(f"{names[query]} and its neighbours cannot be shown; {error}")
    panels = [
        Panel(picture=shown[0], alt=f"{names[query]}, the query", label="query", kind="query"),
        *(
            Panel(picture=picture, alt=names[each], label=similarity_text(cosine, 3))
            for picture, each, cosine in zip(shown[1:], ids, cosines)
        ),
    ]
    caption = run.named(f"{names[query]} and the {len(ids)} images nearest to it")
    return Figure(panels=panels, caption=caption, layout="row nearest")
