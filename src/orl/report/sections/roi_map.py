"""The section of the RoI map: boxes with similar embeddings of stage 2 lie near each other."""

from collections.abc import Sequence
from dataclasses import dataclass

from orl.figures.pictures import as_jpeg
from orl.figures.roi_map_figure import RoiMapOptions, draw_run_roi_map
from orl.report.content import Figure, Section, picture_figure
from orl.report.runs import ReportInputs

DPI = 150
MAX_POINTS = 600
MAX_THUMBNAILS = 120


@dataclass(frozen=True, kw_only=True)
class RoiMap(Section):
    """A map of RoIs for each run."""

    template = "roi_map.html"
    maps: Sequence[Figure]


def roi_map_section(inputs: ReportInputs) -> RoiMap:
    """Draw some of the RoIs of each run in the plane, by t-SNE of the embeddings that stage 2 matched."""
    options = RoiMapOptions(points=MAX_POINTS, thumbnails=MAX_THUMBNAILS, seed=inputs.options.seed)
    notes, maps = [], []
    for run in inputs.runs:
        try:
            picture = as_jpeg(draw_run_roi_map(run.run, options, run.annotations.labels, DPI))
        except (FileNotFoundError, ValueError) as error:
            notes.append(run.note("No map of RoIs is available yet", error))
            continue
        alt = run.titled("scatter plot of RoI embeddings in two dimensions, some RoIs as thumbnails")
        caption = run.titled(f"at most {MAX_POINTS:,} RoIs, sampled by the seed of the report")
        maps.append(picture_figure(picture, alt, caption))
    return RoiMap(title="Map of RoIs", notes=notes, maps=maps)
