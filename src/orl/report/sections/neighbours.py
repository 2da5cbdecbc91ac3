"""The section of neighbours: a few images with the images nearest to them."""

from orl import tables
from orl.datasets.decode import ImageError
from orl.figures.correspondence_figure import similarity_text
from orl.report import html as page
from orl.report.html import Html
from orl.report.options import GalleryOptions, choose_images
from orl.report.overlays import image_svg
from orl.report.sections.frames import not_there
from orl.report.thumbnails import Album
from orl.rundir import RunDir
from orl.tables import Table


def neighbour_section(run: RunDir, album: Album | None, options: GalleryOptions) -> tuple[str, Html]:
    """A few images with the images nearest to them."""
    title = "Neighbours"
    intro = page.paragraph(
        "The images nearest to a query by the cosine of the embeddings that stage 2 looks with, the query itself left "
        "out. Correspondences are looked for among these."
    )
    try:
        if album is None:
            raise FileNotFoundError("no images")
        neighbours = tables.load(run.table("neighbours"))
        tables.check_image_list(neighbours, album.images.fingerprint)
        if neighbours.num_rows != len(album.images):
            raise ValueError(
                f"the neighbour table has {neighbours.num_rows} rows but the image list {len(album.images)}"
            )
        queries = choose_images(len(album.images), options.num_queries, options.seed)
        figures = [_query_figure(album, neighbours, query, options.num_neighbours) for query in queries]
    except (FileNotFoundError, ValueError) as error:
        return page.section(title, intro, not_there(run, "No neighbours have been found yet", error))
    return page.section(title, intro, page.gallery(figures))


def _query_figure(album: Album, neighbours: Table, query: int, num_neighbours: int) -> Html:
    """A query and its neighbours, or a sentence if an image of them is gone."""
    ids, cosines = (
        neighbours.rows(name, query, query + 1)[0, :num_neighbours].tolist()
        for name in ("neighbour_ids", "similarities")
    )
    if max(ids, default=0) >= len(album.images):
        raise ValueError(f"the neighbour table names image {max(ids)}, but there are {len(album.images)} images")
    name = album.images.names[query]
    try:
        shown = [
            page.cell(image_svg(album.thumbnail(query), f"{name}, the query"), "query", "query"),
            *(
                page.cell(image_svg(album.thumbnail(each), album.images.names[each]), similarity_text(cosine, 3))
                for each, cosine in zip(ids, cosines)
            ),
        ]
    except ImageError as error:
        return page.missing(f"{name} and its neighbours cannot be shown; {error}")
    return page.captioned(page.join(*shown), f"{name} and the {len(ids)} images nearest to it", kind="row nearest")
