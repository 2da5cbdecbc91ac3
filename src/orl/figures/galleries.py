"""The report's pictures: which photos and pairs are shown, and the figures of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from numpy import ndarray

from orl import tables
from orl.config import load_config
from orl.figures import page
from orl.figures.attention import attention_map, draw_attention, score_attention
from orl.figures.correspondences import (
    correspondence_figure,
    random_correspondences,
    similarity_text,
    top_correspondences,
)
from orl.figures.curves import draw_curves, loss_terms, read_metrics
from orl.figures.neighbours import draw_neighbours
from orl.figures.page import Html
from orl.figures.pictures import as_jpeg, as_svg
from orl.figures.proposals import draw_proposals
from orl.figures.results import how_to_go_on
from orl.images.decode import PhotoError, load_photo
from orl.images.labels import LabelledSplit
from orl.images.table import ImageTable, load_images
from orl.networks.backbones import Backbone, load_backbone
from orl.rundir import RunDir

TRAINED = {"stage1": "stage 1", "stage3": "stage 3"}
SERIES = {
    "probe_knn_map": "mean AP by kNN while training",
    "spread": "feature spread",
    "alignment": "alignment of the two views",
    "gradient_norm": "norm of the gradient",
    "lr": "learning rate",
    "photos_per_s": "photos per second",
}
"""What is drawn of the numbers of every step, beside the losses."""
Photo = UInt8[ndarray, "h w 3"]


@dataclass(frozen=True, kw_only=True)
class GalleryOptions:
    """How much the report shows."""

    num_top_pairs: int = 6
    """The most similar correspondences."""
    num_random_pairs: int = 4
    """Correspondences drawn at random."""
    num_attention_photos: int = 5
    """Photos with attention maps."""
    num_scored_photos: int = 60
    """Photos with known objects whose attention maps are scored."""
    attention_side_px: int = 448
    """Longer side of a photo when the network sees it for its attention map."""
    num_queries: int = 4
    """Photos shown with their neighbours."""
    num_neighbours: int = 5
    """Neighbours of each."""
    num_roi_photos: int = 4
    """Photos shown with their kept RoIs."""
    seed: int = 0
    """Of the choice of photos."""
    device: str = "cpu"
    """Where the attention maps are computed."""


def trained_stages(run: RunDir) -> dict[str, str]:
    """The stages that a run trains, with their names: stage 1 is left out where stage 2 looks with other weights."""
    try:
        looks_with = load_config(run.config).discover.backbone
    except (FileNotFoundError, ValueError):
        looks_with = None
    return {stage: label for stage, label in TRAINED.items() if looks_with is None or stage != "stage1"}


def choose_photos(num_photos: int, num_shown: int, seed: int) -> list[int]:
    """Photos drawn at random; a smaller choice begins a larger one, so that sections share photos."""
    return np.random.default_rng(seed).permutation(num_photos)[:num_shown].tolist()


def correspondence_section(run: RunDir, options: GalleryOptions) -> tuple[str, Html]:
    """Pairs of RoIs that stage 2 matched: the most similar, and some at random."""
    title = "Correspondences"
    intro = page.paragraph(
        "Boxes in a photo and in one of its neighbours that stage 2 takes for the same kind of thing. In "
        "stage 3 each pair is pulled together. The number is the cosine of the two boxes' embeddings."
    )
    try:
        images, pairs = load_images(run.images), tables.load(run.table("correspondences"))
        boxes = tables.load(run.table("rois")).column("box")
    except (FileNotFoundError, ValueError) as error:
        return page.section(title, intro, _not_there(run, "No correspondences have been found yet", error))
    columns = {name: pairs.column(name) for name in ("image_id", "neighbour_id", "roi", "neighbour_roi", "similarity")}
    ids = (columns["image_id"], columns["neighbour_id"])
    if pairs.num_rows == 0 or max(ids[0].max(), ids[1].max()) >= len(images):
        found = f"The correspondence table has {pairs.num_rows:,} rows that do not fit {len(images):,} photos. "
        return page.section(title, intro, page.missing(found, how_to_go_on(run)))

    def show(row: int) -> Html:
        chosen = {name: column[row] for name, column in columns.items()}
        names = images.names[chosen["image_id"]], images.names[chosen["neighbour_id"]]
        box, other = boxes[chosen["roi"]][None], boxes[chosen["neighbour_roi"]][None]
        similarity = np.array([chosen["similarity"]])
        return _photo_figure(
            images,
            [int(chosen["image_id"]), int(chosen["neighbour_id"])],
            lambda photos: correspondence_figure(photos[0], photos[1], box, other, similarity),
            f"{names[0]} and its neighbour {names[1]}, a box in each, joined; similarity "
            f"{similarity_text(float(similarity[0]))}",
            f"{names[0]} and {names[1]}",
        )

    generator = np.random.default_rng(options.seed)
    top = []
    if np.isfinite(columns["similarity"]).any():
        top = top_correspondences(*ids, columns["similarity"], options.num_top_pairs)
    drawn = random_correspondences(*ids, columns["similarity"], options.num_random_pairs, generator)
    return page.section(
        title,
        intro,
        page.heading("The most similar"),
        page.paragraph(
            "The best pair of a query photo each, most similar first."
            if top
            else "The table of correspondences holds no similarities, so it is not known which these are."
        ),
        page.gallery(show(row) for row in top),
        page.heading("Drawn at random"),
        page.paragraph("The best pair of a random photo and a random neighbour of it: what stage 3 mostly sees."),
        page.gallery(show(row) for row in drawn),
    )


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
            notes.append(_not_there(run, f"{label.capitalize()} has left no backbone yet", error))
    if not run.images.exists() or not backbones:
        return page.section(title, intro, *notes)
    images, device = load_images(run.images), torch.device(options.device)

    def map_of(backbone: Backbone, photo: Photo) -> Float[ndarray, "h w"]:
        return attention_map(backbone, photo, options.attention_side_px, device)

    def draw(photos: Sequence[Photo]) -> Figure:
        return draw_attention(photos[0], {label: map_of(each, photos[0]) for label, each in backbones.items()})

    whose = " and ".join(backbones)
    figures = [
        _photo_figure(
            images,
            [index],
            draw,
            f"{images.names[index]}, then heat maps of {whose} laid over it",
            f"{images.names[index]}: photo, {', '.join(backbones)}",
        )
        for index in choose_photos(len(images), options.num_attention_photos, options.seed)
    ]
    scores = _attention_scores(images, labels, backbones, map_of, options)
    return page.section(title, intro, *notes, scores, page.gallery(figures, two_columns=False))


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
        return page.section(title, intro, _not_there(run, "No neighbours have been found yet", error))

    def show(query: int) -> Html:
        nearest = neighbour_ids[query, : options.num_neighbours].tolist()
        cosines = similarities[query, : options.num_neighbours]
        return _photo_figure(
            images,
            [query, *nearest],
            lambda photos: draw_neighbours(photos[0], photos[1:], cosines),
            f"{images.names[query]} and the {len(nearest)} photos nearest to it",
            images.names[query],
        )

    queries = choose_photos(len(images), options.num_queries, options.seed)
    return page.section(title, intro, page.gallery(show(query) for query in queries))


def roi_section(run: RunDir, options: GalleryOptions) -> tuple[str, Html]:
    """A few photos with their kept RoIs."""
    title = "Kept RoIs"
    intro = page.paragraph(
        "The proposals that passed the filter of size, shape and overlap: the boxes that discovery may match."
    )
    try:
        images, rois = load_images(run.images), tables.load(run.table("rois"))
        boxes, starts = rois.column("box"), tables.row_starts(rois.column("image_id"), len(images))
    except (FileNotFoundError, ValueError) as error:
        return page.section(title, intro, _not_there(run, "No RoIs have been kept yet", error))

    def show(index: int) -> Html:
        own = boxes[starts[index] : starts[index + 1]]
        counted = f"{len(own)} RoI{'' if len(own) == 1 else 's'}"
        return _photo_figure(
            images,
            [index],
            lambda photos: draw_proposals(photos[0], own),
            f"{images.names[index]} with {counted} drawn on it",
            f"{images.names[index]}: {counted}",
        )

    shown = choose_photos(len(images), options.num_roi_photos, options.seed)
    mean = page.paragraph(f"{len(boxes) / max(1, len(images)):.1f} RoIs a photo on average.")
    return page.section(title, intro, mean, page.gallery(show(index) for index in shown))


def curve_section(run: RunDir) -> tuple[str, Html]:
    """Losses of each stage, and what else was measured at every step."""
    title = "Training curves"
    intro = page.paragraph(
        "Spread is the deviation of the normalised projections: about 1 when they use all directions, 0 "
        "when they have collapsed to one point. Alignment is the mean squared distance between the two views of a "
        "photo, as unit vectors: 0 when both look the same to the network, 2 when they have nothing in common. Faint "
        "lines are raw values, strong ones their running mean."
    )
    metrics, notes = {}, []
    for stage, label in trained_stages(run).items():
        series = read_metrics(run.metrics(stage)) if run.metrics(stage).exists() else {}
        if "epoch" in series:
            metrics[label] = series
        else:
            notes.append(page.missing(f"{label.capitalize()} has not been trained yet. ", how_to_go_on(run)))
    figures = [
        _chart(
            {name: (series["epoch"], values) for name, values in loss_terms(series).items()},
            f"loss, {label}",
            f"Loss of {label} from {_first_to_last(series, 'loss')} over {series['epoch'][-1]:.3g} epochs.",
        )
        for label, series in metrics.items()
        if "loss" in series
    ]
    for name, value_name in SERIES.items():
        known = {label: _known(series, name) for label, series in metrics.items() if name in series}
        curves = {label: (epochs, values) for label, (epochs, values) in known.items() if len(values)}
        if curves:
            told = [f"{label} from {values[0]:.3g} to {values[-1]:.3g}" for label, (_, values) in curves.items()]
            figures.append(_chart(curves, value_name, f"{value_name[0].upper()}{value_name[1:]}: {'; '.join(told)}."))
    return page.section(title, intro, *notes, page.gallery(figures))


def _photo_figure(
    images: ImageTable,
    image_ids: Sequence[int],
    draw: Callable[[Sequence[Photo]], Figure],
    alt: str,
    caption: str,
) -> Html:
    """The figure of some photos, or a sentence if one of them is gone or broken since the scan."""
    try:
        photos = [load_photo(images.path(index)) for index in image_ids]
    except PhotoError as error:
        return page.missing(f"{caption} cannot be shown; {error}")
    return page.figure(as_jpeg(draw(photos)), alt, caption)


def _chart(curves: dict[str, tuple[ndarray, ndarray]], value_name: str, caption: str) -> Html:
    return page.figure(as_svg(draw_curves(curves, value_name)), f"Chart: {caption}", caption)


def _known(series: dict[str, ndarray], name: str) -> tuple[ndarray, ndarray]:
    """Epochs and values of the steps that have one: a probe comes at few of them."""
    known = np.isfinite(series[name])
    return series["epoch"][known], series[name][known]


def _first_to_last(series: dict[str, ndarray], name: str) -> str:
    return f"{series[name][0]:.3g} to {series[name][-1]:.3g}"


def _not_there(run: RunDir, sentence: str, error: Exception) -> Html:
    if isinstance(error, FileNotFoundError):
        return page.missing(f"{sentence}. ", how_to_go_on(run))
    return page.missing(f"{sentence}: {error}. ", how_to_go_on(run))
