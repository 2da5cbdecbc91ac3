"""The section of augmented views: what the network sees of an image in each stage, and where it was cut."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from orl.datasets.decode import ImageError
from orl.figures.pictures import Picture, data_uri, encode_jpeg
from orl.figures.run_images import RunImages
from orl.figures.view_figure import SampleViews, read_sample
from orl.report import html as page
from orl.report.html import Html
from orl.report.options import GalleryOptions, choose_images
from orl.report.overlays import image_svg
from orl.report.sections.frames import not_there, trained_stages
from orl.report.style import colour_class
from orl.report.thumbnails import Album
from orl.rundir import RunDir
from orl.views.view_samplers import GlobalViewSampler, ObjectViewSampler

MAX_BYTES = 20_000
DPI = 110
"""Of the images that boxes are given on, which the page shows as thumbnails of its own."""


def view_section(
    run: RunDir,
    album: Album | None,
    options: GalleryOptions,
    view_sampler_of: Callable[[str], GlobalViewSampler | ObjectViewSampler] | None,
) -> tuple[str, Html]:
    """Views of the first epoch of each stage, by the code that training uses."""
    title = "Views"
    intro = page.paragraph(
        "What the network sees of an image in the first epoch, after all changes of colour; each view has the colour of "
        "the box that it was cut along. In stage 3 the same object is also seen twice in an image, and once in another."
    )
    parts: list[Html] = []
    if album is None or view_sampler_of is None:
        missing = not_there(run, "Views can be shown once the images are scanned", FileNotFoundError())
        return page.section(title, intro, missing)
    for stage, label in trained_stages(run).items():
        parts.append(page.heading(label.capitalize()))
        try:
            view_sampler = view_sampler_of(stage)
            shown = choose_images(len(album.images), options.num_view_images, options.seed)
            images = RunImages(run, album.images, DPI)
            parts.append(page.gallery(_sample_figure(album, images, view_sampler, each) for each in shown))
        except (FileNotFoundError, ValueError) as error:
            parts.append(not_there(run, f"Views of {label} cannot be shown", error))
    return page.section(title, intro, *parts)


def _sample_figure(
    album: Album, images: RunImages, view_sampler: GlobalViewSampler | ObjectViewSampler, image_id: int
) -> Html:
    """An image with the boxes of its views, the views, and the neighbour where there is one."""
    key = (0, image_id)
    name = album.images.names[image_id]
    try:
        sample = read_sample(view_sampler, key, images)
        placed = view_sampler.sample_boxes(key)
        ids = list(dict.fromkeys(each.image_id for each in placed.values()))
        order = {view: index for index, view in enumerate(sample.views)}
        cells = [
            page.cell(
                image_svg(
                    album.thumbnail(each),
                    f"{album.images.names[each]} with the boxes of its views",
                    np.stack([at.box for at in placed.values() if at.image_id == each]),
                    colours=[order[view] for view, at in placed.items() if at.image_id == each],
                ),
                ("image", "neighbour")[position],
            )
            for position, each in enumerate(ids)
        ]
    except (ImageError, ValueError) as error:
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
