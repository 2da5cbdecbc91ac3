"""The section of augmented views: what the network sees of a photo in each stage, and where it was cut."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from orl.figures import page
from orl.figures.album import Album
from orl.figures.overlays import photo_svg
from orl.figures.page import Html
from orl.figures.pictures import Picture, data_uri, encode_jpeg
from orl.figures.run_photos import RunPhotos
from orl.figures.sections.frames import not_there, trained_stages
from orl.figures.sections.options import GalleryOptions, choose_photos
from orl.figures.style import colour_class
from orl.figures.views import SampleViews, read_sample
from orl.images.datasets import ImageViews, ObjectViews
from orl.images.decode import PhotoError
from orl.rundir import RunDir

MAX_BYTES = 20_000
DPI = 110
"""Of the photos that boxes are given on, which the page shows as thumbnails of its own."""


def view_section(
    run: RunDir,
    album: Album | None,
    options: GalleryOptions,
    placer_of: Callable[[str], ImageViews | ObjectViews] | None,
) -> tuple[str, Html]:
    """Views of the first epoch of each stage, by the code that training uses."""
    title = "Views"
    intro = page.paragraph(
        "What the network sees of a photo in the first epoch, after all changes of colour; each view has the colour of "
        "the box that it was cut along. In stage 3 the same object is also seen twice in a photo, and once in another."
    )
    parts: list[Html] = []
    if album is None or placer_of is None:
        missing = not_there(run, "Views can be shown once the photos are scanned", FileNotFoundError())
        return page.section(title, intro, missing)
    for stage, label in trained_stages(run).items():
        parts.append(page.heading(label.capitalize()))
        try:
            placer = placer_of(stage)
            shown = choose_photos(len(album.images), options.num_view_photos, options.seed)
            photos = RunPhotos(run, album.images, DPI)
            parts.append(page.gallery(_sample_figure(album, photos, placer, each) for each in shown))
        except (FileNotFoundError, ValueError) as error:
            parts.append(not_there(run, f"Views of {label} cannot be shown", error))
    return page.section(title, intro, *parts)


def _sample_figure(album: Album, photos: RunPhotos, placer: ImageViews | ObjectViews, image_id: int) -> Html:
    """A photo with the boxes of its views, the views, and the neighbour where there is one."""
    key = (0, image_id)
    name = album.images.names[image_id]
    try:
        sample = read_sample(placer, key, photos)
        placed = placer.place(key)
        ids = list(dict.fromkeys(each.image_id for each in placed.values()))
        order = {view: index for index, view in enumerate(sample.views)}
        cells = [
            page.cell(
                photo_svg(
                    album.thumbnail(each),
                    f"{album.images.names[each]} with the boxes of its views",
                    np.stack([at.box for at in placed.values() if at.image_id == each]),
                    colours=[order[view] for view, at in placed.items() if at.image_id == each],
                ),
                ("photo", "neighbour")[position],
            )
            for position, each in enumerate(ids)
        ]
    except (PhotoError, ValueError) as error:
        return page.missing(f"{name} cannot be shown; {error}")
    views = _view_cells(sample, order)
    return page.captioned(page.join(cells[0], *views, *cells[1:]), " and ".join(sample.names), kind="row views")


def _view_cells(sample: SampleViews, order: Mapping[str, int]) -> list[Html]:
    return [
        page.cell(
            page.image(_picture(view), f"{sample.names[0]}, {_words(name)}"),
            f"{_words(name)}, {view.shape[0]} px",
            f"view {colour_class(order[name])}",
        )
        for name, view in sample.views.items()
    ]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _picture(view: UInt8[ndarray, "s s 3"]) -> Picture:
    uri = data_uri("image/jpeg", encode_jpeg(view, MAX_BYTES, subsampling=0))
    return Picture(uri=uri, width_px=view.shape[1], height_px=view.shape[0])
