"""`orl figures roi-map`: a 2-D map of RoI embeddings, with thumbnails where there is room; similar RoIs lie close."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy import ndarray
from PIL import Image

from orl import tables
from orl.config import RunConfig, load_config
from orl.datasets.image_table import ImageTable
from orl.datasets.labels import NO_OBJECT, LabelledSplit, covered_classes
from orl.datasets.sources import read_labels
from orl.embed_maps import embed_rois
from orl.figures.figure_files import FigureFile, check_at_least, save_figure
from orl.figures.pictures import TITLE_COLOUR
from orl.figures.run_images import REBUILD, RunImages, load_run_images, open_run_table
from orl.networks.device import compute_device
from orl.progress import progress_bar
from orl.rundir import RunDir
from orl.tables import Table
from orl.views.crops import round_to_pixels
from orl.weights.loading import load_eval_network

logger = logging.getLogger(__name__)

MIN_POINTS, MAX_POINTS = 10, 10_000
NUM_COMPONENTS, PERPLEXITY = 50, 30
THUMBNAIL_PX = 120
THUMBNAIL_FRACTION = 0.062
"""Side of a thumbnail, over the side of the map."""
NO_OBJECT_COLOUR, OTHER_COLOUR, ONE_COLOUR = "#b9bcc2", "#4a4d55", "#2563c9"
COLOUR_ORDER = [*(0, 2, 4, 6, 8, 10, 12, 16, 18), *(1, 3, 5, 7, 9, 11, 13, 17, 19)]
"""Colours of Matplotlib's tab20 for the most frequent classes: dark, then light, without its grays."""
MAP_IN, LEGEND_IN, CAPTION_IN, MARGIN_IN = 7.2, 1.5, 0.22, 0.15


@dataclass(frozen=True, kw_only=True)
class RoiMapOptions:
    """The choice of the RoIs and of their embeddings."""

    points: int = 2000
    """Most RoIs on the map; of more, a random choice. 2,000 take about ten seconds, more take proportionally longer."""
    thumbnails: int = 150
    """Most RoIs shown as thumbnails, which do not overlap."""
    backbone: Path | None = None
    """Backbone that embeds the RoIs: any source of `orl.load_backbone`. By default the embeddings of stage 2."""
    seed: int = 0
    """Seed of the choice of RoIs and of the map."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that a backbone runs on."""

    def __post_init__(self) -> None:
        for name, least in (("points", 1), ("thumbnails", 0)):
            if not least <= getattr(self, name) <= MAX_POINTS:
                raise ValueError(f"{name} must be from {least} to {MAX_POINTS}, got {getattr(self, name)}")
        check_at_least(self, seed=0)


def roi_map_figure(run: RunDir, options: RoiMapOptions, file: FigureFile) -> Path:
    """Draw the map of some of a run's RoIs; return the path.

    Raises:
        FileNotFoundError: if there is no run or no such backbone, or stage 2 has not written its tables.
        ValueError: if a table was made from other RoIs or images, or an image cannot be read.
    """
    path = file.path(run.figures, "roi_map")
    save_figure(draw_run_roi_map(run, options, _labels_of(run), file.dpi), path)
    return path


def draw_run_roi_map(run: RunDir, options: RoiMapOptions, labels: LabelledSplit | None, dpi: int = 110) -> Figure:
    """Draw the map of some of a run's RoIs, coloured by the classes of the objects that they cover.

    Args:
        run: folder of a run whose stage 2 has embedded the RoIs.
        options: choice of the RoIs and of their embeddings.
        labels: objects of the run's images; None if they are unknown, for a map in one colour.
        dpi: resolution of a PNG, in pixels per inch.

    Raises:
        FileNotFoundError: if there is no run or no such backbone, or stage 2 has not written its tables.
        ValueError: if a table was made from other RoIs or images, or an image cannot be read.
    """
    images, config = load_run_images(run), load_config(run.config)
    rois = open_run_table(run, "rois", images)
    rows = np.sort(np.random.default_rng(options.seed).permutation(rois.num_rows)[: options.points])
    image_ids = np.array([rois.rows("image_id", row, row + 1)[0] for row in rows.tolist()], dtype=np.int64)
    boxes = np.array([rois.rows("box", row, row + 1)[0] for row in rows.tolist()], dtype=np.float32).reshape(-1, 4)
    if options.backbone is None:
        embeddings, origin = _stored_embeddings(run, rois, rows), "as stage 2 embedded them"
    else:
        embeddings = _embed(config, images, image_ids, boxes, options.backbone, options.device)
        origin = f"embedded by {options.backbone}"
    positions = map_points(embeddings, options.seed)
    # The table is in the order of the images, and thumbnails are preferred in a random order.
    order = np.random.default_rng([options.seed, 1]).permutation(len(positions))
    shown = order[choose_separate(positions[order], options.thumbnails)].tolist()
    run_images = RunImages(run, images, dpi)
    thumbnails = {index: _load_roi(run_images, int(image_ids[index]), boxes[index]) for index in shown}
    classes = None if labels is None else _classes(labels, images, image_ids, boxes)
    class_names = () if labels is None else labels.classes
    caption = (
        f"{len(positions):,} of {rois.num_rows:,} RoIs, {origin}; t-SNE, seed {options.seed}: close means similar."
    )
    return draw_roi_map(positions, thumbnails, classes, class_names, caption, dpi)


def map_points(embeddings: Float[ndarray, "n d"], seed: int = 0) -> Float[ndarray, "n 2"]:
    """Compute positions in the plane by t-SNE of the first 50 principal components of the unit vectors.

    Near points are similar. Large distances, and the size of groups, have no meaning.

    Args:
        embeddings: one per row.
        seed: seed of t-SNE; the same positions each time on one machine.

    Returns:
        Positions in [0, 1], each axis stretched.

    Raises:
        ValueError: if there are too few embeddings, or all are equal.

    Source:
        t-SNE (van der Maaten and Hinton, JMLR 2008), by scikit-learn.
    """
    if len(embeddings) < MIN_POINTS:
        raise ValueError(f"a map needs at least {MIN_POINTS} RoIs, got {len(embeddings)}")
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    vectors = embeddings.astype(np.float64)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    if np.ptp(unit, axis=0).max() < 1e-6:
        # Scikit-learn crashes the process on these.
        raise ValueError(f"the embeddings of {len(unit)} RoIs are all the same: no map; has the network collapsed?")
    num_components = min(NUM_COMPONENTS, *unit.shape)
    components = PCA(num_components, svd_solver="full").fit_transform(unit)
    perplexity = min(PERPLEXITY, (len(unit) - 1) / 3)
    positions = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(components).astype(np.float64)
    low, high = positions.min(axis=0), positions.max(axis=0)
    return (positions - low) / np.maximum(high - low, 1e-12)


def choose_separate(positions: Float[ndarray, "n 2"], most: int, side: float = THUMBNAIL_FRACTION) -> list[int]:
    """Choose points whose squares do not overlap, each point in turn if there is still room.

    Args:
        positions: centres of the squares, in the order of preference.
        most: most points chosen.
        side: side of the squares.
    """
    chosen: list[int] = []
    for index, position in enumerate(positions):
        if len(chosen) == most:
            break
        if not chosen or (np.abs(positions[chosen] - position).max(axis=1) >= side).all():
            chosen.append(index)
    return chosen


def draw_roi_map(
    positions: Float[ndarray, "n 2"],
    thumbnails: Mapping[int, UInt8[ndarray, "_ _ 3"]],
    classes: Int[ndarray, "n"] | None = None,
    class_names: Sequence[str] = (),
    caption: str = "",
    dpi: int = 110,
) -> Figure:
    """Draw every RoI as a dot and some as thumbnails, in the colours of their classes where these are known.

    Args:
        positions: positions of the RoIs, in [0, 1].
        thumbnails: RoI -> its pixels.
        classes: index into the names, or -1 for an RoI that covers no object; None if labels are unknown.
        class_names: name of each class.
        caption: text below the map.
        dpi: resolution of a PNG, in pixels per inch.
    """
    legend_in = 0 if classes is None else LEGEND_IN
    width_in, height_in = MAP_IN + 2 * MARGIN_IN + legend_in, MAP_IN + 2 * MARGIN_IN + CAPTION_IN
    figure = Figure(figsize=(width_in, height_in), dpi=dpi)
    corner = (MARGIN_IN / width_in, (MARGIN_IN + CAPTION_IN) / height_in)
    axes = figure.add_axes((*corner, MAP_IN / width_in, MAP_IN / height_in))
    colours = {} if classes is None else _colours(classes)
    dots = [ONE_COLOUR] * len(positions) if classes is None else [colours[label] for label in classes.tolist()]
    half = THUMBNAIL_FRACTION / 2
    axes.scatter(positions[:, 0], positions[:, 1], s=9, c=dots, linewidths=0, zorder=1)
    for index, pixels in thumbnails.items():
        _draw_thumbnail(axes, positions[index], pixels, dots[index])
    axes.set(xlim=(-half - 0.01, 1 + half + 0.01), ylim=(-half - 0.01, 1 + half + 0.01), xticks=[], yticks=[])
    axes.spines[:].set_color("#00000030")
    if classes is not None:
        _draw_legend(axes, colours, class_names)
    style: dict[str, Any] = {"fontsize": 8, "color": TITLE_COLOUR, "parse_math": False}
    figure.text(corner[0], 0.4 * (MARGIN_IN + CAPTION_IN) / height_in, caption, **style)
    return figure


def _labels_of(run: RunDir) -> LabelledSplit | None:
    """Read the objects of a run's images; without them the map is drawn in one colour."""
    if not run.config.exists():
        return None
    config = load_config(run.config)
    try:
        return read_labels(config.images, config.split)
    except (ValueError, OSError) as error:
        logger.warning("the map has no classes: %s", error)
        return None


def _stored_embeddings(run: RunDir, rois: Table, rows: Int[ndarray, "n"]) -> Float[ndarray, "n d"]:
    try:
        table = tables.load(run.table("roi_embeddings"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{run.root} has no embeddings of its RoIs; make them with 'orl discover --out {run.root}', or give a "
            "backbone that embeds them with --backbone"
        ) from error
    if table.num_rows != rois.num_rows or table.inputs.get("rois", rois.fingerprint) != rois.fingerprint:
        raise ValueError(f"{table.folder} was made from other RoIs; {REBUILD}")
    embeddings = [table.rows("embedding", row, row + 1)[0] for row in rows.tolist()]
    return np.array(embeddings, dtype=np.float32).reshape(len(embeddings), -1)


def _embed(
    config: RunConfig,
    images: ImageTable,
    image_ids: Int[ndarray, "n"],
    boxes: Float[ndarray, "n 4"],
    backbone: Path,
    device_name: str,
) -> Float[ndarray, "n d"]:
    device = compute_device(device_name)
    network = load_eval_network(backbone).to(device)
    own = np.unique(image_ids)
    with progress_bar(total=len(own), title="embed RoIs", unit="images") as bar:
        embeddings = list(
            embed_rois(
                network,
                [images.path(image_id) for image_id in own.tolist()],
                [boxes[image_ids == image_id] for image_id in own],
                config.discover,
                device=device,
                workers=0,
                report=bar.update,
            )
        )
    return np.concatenate(embeddings) if embeddings else np.zeros((0, 1), np.float32)


def _load_roi(images: RunImages, image_id: int, box: Float[ndarray, "4"]) -> UInt8[ndarray, "_ _ 3"]:
    image = images.load(image_id)
    left, top, right, bottom = round_to_pixels(box, (image.shape[1], image.shape[0]))
    crop = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
    crop.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    return np.asarray(crop)


def _classes(
    labels: LabelledSplit, images: ImageTable, image_ids: Int[ndarray, "n"], boxes: Float[ndarray, "n 4"]
) -> Int[ndarray, "n"]:
    """Return the class of the object that each RoI covers, or `NO_OBJECT`."""
    rows = {name: row for row, name in enumerate(labels.names)}
    classes = np.full(len(boxes), NO_OBJECT, dtype=np.int64)
    for image_id in np.unique(image_ids).tolist():
        own, row = image_ids == image_id, rows.get(images.names[image_id])
        if row is not None:
            classes[own] = covered_classes(labels, row, boxes[own])
    return classes


def _draw_thumbnail(axes: Axes, position: Float[ndarray, "2"], pixels: ndarray, colour: str) -> None:
    """Draw an RoI at its aspect ratio, its longer side as long as the side of a square."""
    height, width = pixels.shape[:2]
    half_width, half_height = (THUMBNAIL_FRACTION / 2 * side / max(height, width) for side in (width, height))
    x, y = position.tolist()
    extent = (x - half_width, x + half_width, y - half_height, y + half_height)
    axes.imshow(pixels, extent=extent, aspect="auto", zorder=2)
    frame = Rectangle(
        (extent[0], extent[2]), 2 * half_width, 2 * half_height, fill=False, edgecolor=colour, linewidth=1.8, zorder=3
    )
    axes.add_patch(frame)


def _colours(classes: Int[ndarray, "n"]) -> dict[int, str]:
    """Return the colour of each class: separate colours for the most frequent ones, one colour for all others."""
    labels, counts = np.unique(classes[classes != NO_OBJECT], return_counts=True)
    frequent = labels[np.argsort(-counts, kind="stable")].tolist()
    colours = {label: to_hex(colormaps["tab20"](index)) for label, index in zip(frequent, COLOUR_ORDER)}
    return {NO_OBJECT: NO_OBJECT_COLOUR, **dict.fromkeys(frequent, OTHER_COLOUR), **colours}


def _draw_legend(axes: Axes, colours: Mapping[int, str], class_names: Sequence[str]) -> None:
    names = {label: class_names[label] for label in sorted(colours) if label != NO_OBJECT}
    own = {name: colours[label] for label, name in names.items() if colours[label] != OTHER_COLOUR}
    num_others = len(names) - len(own)
    others = {f"{num_others} other classes": OTHER_COLOUR} if num_others else {}
    for name, colour in {**own, **others, "no object": NO_OBJECT_COLOUR}.items():
        axes.scatter([], [], s=28, c=colour, label=name)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9, handletextpad=0.2)
