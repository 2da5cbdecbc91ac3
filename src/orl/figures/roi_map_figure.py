"""The map of a run's RoIs: which are drawn, their embeddings, their classes and their pixels."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure
from numpy import ndarray
from PIL import Image

from orl import tables
from orl.config import RunConfig, load_config
from orl.datasets.image_table import ImageTable
from orl.datasets.labels import NO_OBJECT, LabelledSplit, covered_classes
from orl.datasets.sources import read_labels
from orl.embed import embed_boxes
from orl.figures.figure_files import FileOptions, check_file_options, figure_file, save_figure
from orl.figures.roi_map import draw_roi_map, map_points, spread_out
from orl.figures.run_images import REBUILD, RunImages, load_run_images, load_run_table
from orl.networks.backbones import pool
from orl.networks.device import compute_device
from orl.progress import progress_bar
from orl.rundir import RunDir
from orl.tables import Table
from orl.views.crops import round_to_pixels
from orl.weights.loading import load_eval_network

logger = logging.getLogger(__name__)

MAX_POINTS = 10_000
THUMBNAIL_PX = 120


@dataclass(frozen=True, kw_only=True)
class RoiMapOptions(FileOptions):
    """Which RoIs are drawn, and by whose embeddings."""

    points: int = 2000
    """Most RoIs on the map; of more, a random choice. 2,000 take about ten seconds, and time grows with them."""
    thumbnails: int = 150
    """Most RoIs that are shown; as many as do not overlap."""
    backbone: Path | None = None
    """What embeds the RoIs: anything that `orl.load_backbone` takes; as stage 2 embedded them if not given."""
    seed: int = 0
    """Seed of the choice and of the map."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where a backbone embeds."""


def roi_map_figure(run: RunDir, options: RoiMapOptions) -> Path:
    """Write the map of some of a run's RoIs; arguments and errors as `run_roi_map`.

    Returns:
        Where it lies.
    """
    check_file_options(options)
    labels = _readable_labels(run)
    figure = run_roi_map(run, options, labels, options.dpi)
    path = figure_file(options, run.figures, "roi_map")
    save_figure(figure, path)
    return path


def _readable_labels(run: RunDir) -> LabelledSplit | None:
    """The classes of the objects, which only colour the map."""
    if not run.config.exists():
        return None
    config = load_config(run.config)
    try:
        return read_labels(config.images, config.split)
    except (ValueError, OSError) as error:
        logger.warning("the map has no classes: %s", error)
        return None


def run_roi_map(run: RunDir, options: RoiMapOptions, labels: LabelledSplit | None, dpi: int = 110) -> Figure:
    """Draw the map of some of a run's RoIs, coloured by the classes of the objects they cover where these are known.

    Args:
        run: folder of a run whose stage 2 has embedded the RoIs.
        options: which RoIs, by whose embeddings, and where the picture goes.
        labels: the objects of the run's images; none where they are not known.

    Raises:
        FileNotFoundError: if there is no run or no such backbone, or stage 2 has not left the tables.
        ValueError: if an option is out of range, a table is of other RoIs or images, or an image cannot be read.
    """
    check_file_options(options)
    for name, least, most in (("points", 1, MAX_POINTS), ("thumbnails", 0, MAX_POINTS), ("seed", 0, None)):
        value = getattr(options, name)
        if value < least or (most is not None and value > most):
            allowed = f"at least {least}" if most is None else f"from {least} to {most}"
            raise ValueError(f"{name} must be {allowed}, not {value}")
    images, config = load_run_images(run), load_config(run.config)
    rois = load_run_table(run, "rois", images)
    drawn = np.sort(np.random.default_rng(options.seed).permutation(rois.num_rows)[: options.points])
    image_ids = np.array([rois.rows("image_id", row, row + 1)[0] for row in drawn.tolist()], dtype=np.int64)
    boxes = np.array([rois.rows("box", row, row + 1)[0] for row in drawn.tolist()], dtype=np.float32).reshape(-1, 4)
    if options.backbone is None:
        embeddings, whose = _stored(run, rois, drawn), "as stage 2 embedded them"
    else:
        embeddings = _embedded(config, images, image_ids, boxes, options)
        whose = f"embedded by {options.backbone}"
    places = map_points(embeddings, options.seed)
    # The table is in the order of the images; thumbnails shall not be the first ones.
    order = np.random.default_rng([options.seed, 1]).permutation(len(places))
    shown = order[spread_out(places[order], options.thumbnails)].tolist()
    run_images = RunImages(run, images, dpi)
    thumbnails = {index: _cut(run_images, int(image_ids[index]), boxes[index]) for index in shown}
    classes, names = _classes(labels, images, image_ids, boxes)
    caption = f"{len(places):,} of {rois.num_rows:,} RoIs, {whose}; t-SNE, seed {options.seed}: near is alike."
    return draw_roi_map(places, thumbnails, classes, names, caption, dpi)


def _stored(run: RunDir, rois: Table, drawn: Int[ndarray, "n"]) -> Float[ndarray, "n d"]:
    try:
        table = tables.load(run.table("roi_embeddings"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{run.root} has no embeddings of its RoIs; make them with 'orl discover --out {run.root}', or give what "
            "embeds them with --backbone"
        ) from error
    if table.num_rows != rois.num_rows or table.inputs.get("rois", rois.fingerprint) != rois.fingerprint:
        raise ValueError(f"{table.folder} was made from other RoIs; {REBUILD}")
    rows = [table.rows("embedding", row, row + 1)[0] for row in drawn.tolist()]
    return np.array(rows, dtype=np.float32).reshape(len(rows), -1)


def _embedded(
    config: RunConfig,
    images: ImageTable,
    image_ids: Int[ndarray, "n"],
    boxes: Float[ndarray, "n 4"],
    options: RoiMapOptions,
) -> Float[ndarray, "n d"]:
    assert options.backbone is not None
    device = compute_device(options.device)
    network = load_eval_network(options.backbone).to(device)
    own = np.unique(image_ids)
    with progress_bar(total=len(own), title="embed RoIs", unit="images") as bar:
        parts = embed_boxes(
            lambda crops: pool(network(crops)),
            [images.path(image_id) for image_id in own.tolist()],
            [boxes[image_ids == image_id] for image_id in own],
            size_px=config.discover.roi_embed_px,
            device=device,
            workers=0,
            report=bar.update,
        )
        found = list(parts)
    return np.concatenate(found) if found else np.zeros((0, 1), np.float32)


def _cut(images: RunImages, image_id: int, box: Float[ndarray, "4"]) -> UInt8[ndarray, "_ _ 3"]:
    image = images.whole(image_id)
    left, top, right, bottom = round_to_pixels(box, (image.shape[1], image.shape[0]))
    crop = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
    crop.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    return np.asarray(crop)


def _classes(
    labels: LabelledSplit | None, images: ImageTable, image_ids: Int[ndarray, "n"], boxes: Float[ndarray, "n 4"]
) -> tuple[Int[ndarray, "n"] | None, tuple[str, ...]]:
    """The class of the object that each RoI covers; none where the images' source has no labels."""
    if labels is None:
        return None, ()
    rows = {name: row for row, name in enumerate(labels.names)}
    classes = np.full(len(boxes), NO_OBJECT, dtype=np.int64)
    for image_id in np.unique(image_ids).tolist():
        own, row = image_ids == image_id, rows.get(images.names[image_id])
        if row is not None:
            classes[own] = covered_classes(labels, row, boxes[own])
    return classes, labels.classes
