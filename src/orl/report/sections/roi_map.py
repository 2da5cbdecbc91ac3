"""The section of the RoI map: boxes that look alike to stage 2 lie near each other."""

from orl.datasets.labels import LabelledSplit
from orl.figures.pictures import as_jpeg
from orl.figures.roi_map_figure import RoiMapOptions, run_roi_map
from orl.report import html as page
from orl.report.html import Html
from orl.report.options import GalleryOptions
from orl.report.sections.frames import not_there
from orl.rundir import RunDir

DPI = 150


def roi_map_section(run: RunDir, options: GalleryOptions, labels: LabelledSplit | None) -> tuple[str, Html]:
    """Some of the RoIs in the plane, by the embeddings that stage 2 matched them with."""
    title = "Map of RoIs"
    intro = page.paragraph(
        "Kept RoIs placed by their embeddings: near is alike, far tells nothing. Colours are the classes of the "
        "objects that they cover, where these are known: groups of one colour are what discovery can work with."
    )
    asked = RoiMapOptions(points=options.num_map_points, thumbnails=options.num_map_thumbnails, seed=options.seed)
    try:
        picture = as_jpeg(run_roi_map(run, asked, labels, DPI))
    except (FileNotFoundError, ValueError) as error:
        return page.section(title, intro, not_there(run, "No map of RoIs can be drawn yet", error))
    alt = "Scatter plot of RoI embeddings in two dimensions, some RoIs as thumbnails"
    caption = f"At most {options.num_map_points:,} RoIs, drawn by the report's seed"
    return page.section(title, intro, page.gallery([page.figure(picture, alt, caption)], columns=""))
