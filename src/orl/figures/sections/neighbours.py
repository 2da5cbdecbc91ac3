"""The section of neighbours: a few photos with the photos nearest to them."""

from orl import tables
from orl.figures import page
from orl.figures.album import Album
from orl.figures.correspondences import similarity_text
from orl.figures.overlays import photo_svg
from orl.figures.page import Html
from orl.figures.sections.frames import not_there
from orl.figures.sections.options import GalleryOptions, choose_photos
from orl.images.decode import PhotoError
from orl.rundir import RunDir
from orl.tables import Table


def neighbour_section(run: RunDir, album: Album | None, options: GalleryOptions) -> tuple[str, Html]:
    """A few photos with the photos nearest to them."""
    title = "Neighbours"
    intro = page.paragraph(
        "The photos nearest to a query by the cosine of the embeddings that stage 2 looks with, the query itself left "
        "out. Correspondences are looked for among these."
    )
    try:
        if album is None:
            raise FileNotFoundError("no photos")
        neighbours = tables.load(run.table("neighbours"))
        tables.check_photos(neighbours, album.images.fingerprint)
        if neighbours.num_rows != len(album.images):
            raise ValueError(
                f"the neighbour table has {neighbours.num_rows} rows but the image list {len(album.images)}"
            )
        queries = choose_photos(len(album.images), options.num_queries, options.seed)
        figures = [_query_figure(album, neighbours, query, options.num_neighbours) for query in queries]
    except (FileNotFoundError, ValueError) as error:
        return page.section(title, intro, not_there(run, "No neighbours have been found yet", error))
    return page.section(title, intro, page.gallery(figures))


def _query_figure(album: Album, neighbours: Table, query: int, num_neighbours: int) -> Html:
    """A query and its neighbours, or a sentence if a photo of them is gone."""
    ids, cosines = (
        neighbours.rows(name, query, query + 1)[0, :num_neighbours].tolist()
        for name in ("neighbour_ids", "similarities")
    )
    if max(ids, default=0) >= len(album.images):
        raise ValueError(f"the neighbour table names photo {max(ids)}, but there are {len(album.images)} photos")
    name = album.images.names[query]
    try:
        shown = [
            page.cell(photo_svg(album.thumbnail(query), f"{name}, the query"), "query", "query"),
            *(
                page.cell(photo_svg(album.thumbnail(each), album.images.names[each]), similarity_text(cosine, 3))
                for each, cosine in zip(ids, cosines)
            ),
        ]
    except PhotoError as error:
        return page.missing(f"{name} and its neighbours cannot be shown; {error}")
    return page.captioned(page.join(*shown), f"{name} and the {len(ids)} photos nearest to it", kind="row nearest")
