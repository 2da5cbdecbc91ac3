"""The section of attention: where each backbone looks, scored where the objects are known."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray

from orl.figures import page
from orl.figures.attention import attention_map, draw_attention, score_attention
from orl.figures.page import Html
from orl.figures.sections.frames import Photo, not_there, photo_figure, trained_stages
from orl.figures.sections.options import GalleryOptions, choose_photos
from orl.images.decode import PhotoError, load_photo
from orl.images.labels import LabelledSplit
from orl.images.table import ImageTable, load_images
from orl.networks.backbones import Backbone, load_backbone
from orl.rundir import RunDir


def attention_section(run: RunDir, options: GalleryOptions, labels: LabelledSplit | None) -> tuple[str, Html]:
    """Attention maps of stage 1 beside stage 3, scored where the objects are known."""
    title = "Attention"
    intro = page.paragraph(
        "Where the backbone's last feature map is strong: mean magnitude over its channels, each photo "
        "stretched from 0 to 1, on one colour scale; the white outline is 0.6. Objects fully covered, all "
        "of them and little else, is what to look for in stage 3."
    )
    backbones, notes = {}, []
    for stage, label in trained_stages(run).items():
        try:
            backbones[label] = load_backbone(run.backbone(stage))
        except (FileNotFoundError, ValueError) as error:
            notes.append(not_there(run, f"{label.capitalize()} has left no backbone yet", error))
    if not run.images.exists() or not backbones:
        return page.section(title, intro, *notes)
    images, device = load_images(run.images), torch.device(options.device)

    def map_of(backbone: Backbone, photo: Photo) -> Float[ndarray, "h w"]:
        return attention_map(backbone, photo, options.attention_side_px, device)

    def draw(photos: Sequence[Photo]) -> Figure:
        return draw_attention(photos[0], {label: map_of(each, photos[0]) for label, each in backbones.items()})

    whose = " and ".join(backbones)
    figures = [
        photo_figure(
            images,
            [index],
            draw,
            f"{images.names[index]}, then heat maps of {whose} laid over it",
            f"{images.names[index]}: photo, {', '.join(backbones)}",
        )
        for index in choose_photos(len(images), options.num_attention_photos, options.seed)
    ]
    scores = _attention_scores(images, labels, backbones, map_of, options)
    return page.section(title, intro, *notes, scores, page.gallery(figures, columns=""))


def _attention_scores(
    images: ImageTable,
    labels: LabelledSplit | None,
    backbones: Mapping[str, Backbone],
    map_of: Callable[[Backbone, Photo], Float[ndarray, "_ _"]],
    options: GalleryOptions,
) -> Html:
    """A table of how well the maps lie on the labelled objects; nothing where no object is known."""
    known = {} if labels is None else {name: boxes for name, boxes in zip(labels.names, labels.boxes) if len(boxes)}
    drawn = choose_photos(len(images), len(images), options.seed)
    chosen = [index for index in drawn if images.names[index] in known][: options.num_scored_photos]
    try:
        photos = [load_photo(images.path(index)) for index in chosen]
    except PhotoError as error:
        return page.missing(f"The attention maps are not scored; {error}")
    if not photos:
        return Html("")
    boxes = [known[images.names[index]] for index in chosen]
    scores = {
        label: score_attention((map_of(each, photo) for photo in photos), boxes) for label, each in backbones.items()
    }
    rows = [
        [label, page.share_bar(each.pointing_share), page.share_bar(each.inside_share)]
        for label, each in scores.items()
    ]
    chance = next(iter(scores.values())).box_share
    rows.append(["chance (share of the photo in boxes)", page.share_bar(chance), page.share_bar(chance)])
    return page.table(
        f"Maps against the known objects of {len(photos)} photos",
        ["Backbone", "Peak on an object (%)", "Map inside the objects (%)"],
        rows,
    )
