"""The same images as the compared runs see them: attention of the last backbones, and best correspondences."""

from collections.abc import Sequence

import numpy as np
import torch

from orl.datasets.decode import ImageError, load_image
from orl.figures.attention import attention_map
from orl.figures.correspondence_figure import similarity_text
from orl.figures.pair_selection import best_correspondences, ranked_neighbours
from orl.figures.run_images import boxes_of, load_run_table
from orl.networks.backbones import Backbone
from orl.report import html as page
from orl.report.compared.runs import ComparedRun
from orl.report.heat_maps import colour_scale, maps_figure
from orl.report.html import Html
from orl.report.options import GalleryOptions, choose_images
from orl.report.overlays import pair_svg
from orl.report.thumbnails import Album

NOT_SHARED = "The runs share no images, so that none can be shown side by side."


def attention_section(
    runs: Sequence[ComparedRun], albums: Sequence[Album], shared: Sequence[tuple[int, ...]], options: GalleryOptions
) -> tuple[str, Html]:
    """Heat maps of the last backbone of each run, on the same images.

    Args:
        runs: the runs.
        albums: the images of those that have some.
        shared: ids of the images that these share.
        options: how many are shown, and how they are seen.
    """
    title = "Attention"
    backbones: dict[str, Backbone] = {}
    notes: list[Html] = []
    for each in runs:
        try:
            backbone = each.last_backbone()
        except ValueError as error:
            notes.append(page.missing(f"The backbone of {each.label} cannot be opened: {error}"))
            continue
        if backbone is None:
            notes.append(page.missing(f"{each.label} has left no backbone yet."))
        else:
            backbones[each.last_label] = backbone
    if not shared:
        return page.section(title, page.missing(NOT_SHARED), *notes)
    if not backbones:
        return page.section(title, *notes)
    intro = page.paragraph(
        "Where the last feature map of each run's last backbone is strong: mean magnitude over its channels, each map "
        "stretched to its own range."
    )
    figures = []
    for index in choose_images(len(shared), options.num_attention_images, options.seed):
        album, image_id = albums[0], shared[index][0]
        name = album.images.names[image_id]
        try:
            thumbnail, image = album.thumbnail(image_id), load_image(album.images.path(image_id), None)
        except ImageError as error:
            figures.append(page.missing(f"{name} cannot be shown; {error}"))
            continue
        device = torch.device(options.device)
        maps = {
            label: attention_map(each, image, options.attention_side_px, device) for label, each in backbones.items()
        }
        figures.append(maps_figure(thumbnail, name, image, maps))
    return page.section(title, intro, *notes, colour_scale(), page.gallery(figures, columns=""))


def correspondence_section(
    runs: Sequence[ComparedRun], albums: Sequence[Album], shared: Sequence[tuple[int, ...]], options: GalleryOptions
) -> tuple[str, Html]:
    """The best correspondence that each run found for the same query images; arguments as `attention_section`."""
    title = "Correspondences"
    if not shared:
        return page.section(title, page.missing(NOT_SHARED))
    with_images = [each for each in runs if each.images is not None]
    figures = []
    for index in choose_images(len(shared), options.num_queries, options.seed):
        cells = [
            page.cell(_best_pair(each, album, image_id), each.label)
            for each, album, image_id in zip(with_images, albums, shared[index])
        ]
        name = albums[0].images.names[shared[index][0]]
        figures.append(page.captioned(page.join(*cells), f"{name}, the query", kind="row wide-cells"))
    intro = page.paragraph("The most similar pair of boxes that each run found for the same image, drawn by the seed.")
    return page.section(title, intro, page.gallery(figures, columns=""))


def _best_pair(run: ComparedRun, album: Album, image_id: int) -> Html:
    try:
        rois, correspondences = (load_run_table(run.run, name, album.images) for name in ("rois", "correspondences"))
        neighbour_ids, similarities = ranked_neighbours(correspondences, image_id)
        if not len(neighbour_ids):
            return page.missing("no correspondence of this image")
        known = np.nan_to_num(similarities, nan=-np.inf)
        pair = image_id, int(neighbour_ids[int(known.argmax())])
        *rows, values = best_correspondences(correspondences, *pair, 1)
        boxes, neighbour_boxes = (boxes_of(rois, each, of) for each, of in zip(rows, pair))
        image, neighbour = album.thumbnails(pair)
    except (FileNotFoundError, ValueError) as error:
        return page.missing(str(error))
    alt = f"{run.label}: {album.images.names[pair[1]]}, similarity {similarity_text(float(values[0]))}"
    return pair_svg(image, neighbour, boxes, neighbour_boxes, alt)
