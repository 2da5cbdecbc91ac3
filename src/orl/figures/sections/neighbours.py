"""The section of neighbours: a few photos with the photos nearest to them."""

from orl import tables
from orl.figures import page
from orl.figures.neighbours import draw_neighbours
from orl.figures.page import Html
from orl.figures.sections.frames import not_there, photo_figure
from orl.figures.sections.options import GalleryOptions, choose_photos
from orl.images.table import load_images
from orl.rundir import RunDir


def neighbour_section(run: RunDir, options: GalleryOptions) -> tuple[str, Html]:
    """A few photos with the photos nearest to them."""
    title = "Neighbours"
    intro = page.paragraph(
        "The photos nearest to a query by the cosine of stage 1's embeddings, the query itself left out. "
        "Correspondences are looked for among these."
    )
    try:
        images, neighbours = load_images(run.images), tables.load(run.table("neighbours"))
        neighbour_ids, similarities = neighbours.column("neighbour_ids"), neighbours.column("similarities")
        if len(neighbour_ids) != len(images):
            raise ValueError(f"the neighbour table has {len(neighbour_ids)} rows but the image list {len(images)}")
    except (FileNotFoundError, ValueError) as error:
        return page.section(title, intro, not_there(run, "No neighbours have been found yet", error))

    def show(query: int) -> Html:
        nearest = neighbour_ids[query, : options.num_neighbours].tolist()
        cosines = similarities[query, : options.num_neighbours]
        return photo_figure(
            images,
            [query, *nearest],
            lambda photos: draw_neighbours(photos[0], photos[1:], cosines),
            f"{images.names[query]} and the {len(nearest)} photos nearest to it",
            images.names[query],
        )

    queries = choose_photos(len(images), options.num_queries, options.seed)
    return page.section(title, intro, page.gallery(show(query) for query in queries))
