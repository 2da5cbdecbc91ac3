"""Reduction of RoI embeddings, fitted to the RoIs of a sample of images and kept as a table of one shard."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from numpy import ndarray

from orl import tables
from orl.datasets.image_table import ImageTable
from orl.discovery.nearest_neighbours import unit_vectors
from orl.discovery.reduction import fit_reduction
from orl.embed_maps import embed_rois
from orl.networks.online_target import Encoder
from orl.pipeline.preflight import RunInputs
from orl.pipeline.shards import random_rows
from orl.processes import Processes
from orl.progress import progress_bar

MAX_IMAGES = 500
"""Images whose RoIs the projection is fitted to."""


def build_reduction(
    inputs: RunInputs,
    images: ImageTable,
    rois: tables.Table,
    encoder: Encoder,
    origin: dict[str, Any],
    device: torch.device,
    processes: Processes,
) -> tables.Table | None:
    """Fit the projection in the first process if `discover.roi_dims` is given; None if it is not.

    Args:
        inputs: the checked inputs of the run.
        images: its images.
        rois: table of the RoIs.
        encoder: the frozen network.
        origin: the inputs that the embeddings of RoIs are made from.
        device: device to compute on.
        processes: all processes of the run.

    Raises:
        ValueError: if the embeddings do not have more dimensions.
        StaleResultError: if it was fitted to other embeddings and `overwrite` is off.
    """
    config = inputs.config
    if config.discover.roi_dims is None:
        return None
    folder, num_dims = inputs.run.table("roi_reduction"), config.discover.roi_dims

    def fit() -> tables.Table:
        origins = {**origin, "roi_dims": num_dims, "max_images": MAX_IMAGES, "seed": config.seed}
        if tables.begin(folder, origins, 1, config.overwrite):
            rows = random_rows(len(images), MAX_IMAGES, config.seed).tolist()
            starts = rois.row_starts(len(images))
            slices = [starts[row : row + 2].tolist() for row in rows]
            boxes = [np.array(rois.rows("box", *ends)) for ends in slices]
            has_masks = tables.RLE in rois.column_names
            masks = [rois.rows(tables.RLE, *ends).tolist() for ends in slices] if has_masks else None
            with progress_bar(total=len(rows), title="reduction of RoI embeddings", unit="images") as bar:
                parts = embed_rois(
                    encoder.backbone,
                    [images.path(row) for row in rows],
                    boxes,
                    config.discover,
                    device=device,
                    workers=config.workers,
                    report=bar.update,
                    image_masks=masks,
                )
                units = unit_vectors(np.concatenate(list(parts))).numpy()
            tables.write_shard(folder, 0, {"matrix": fit_reduction(units, num_dims)})
        return tables.finish_table(folder)

    processes.from_first(lambda: fit().num_rows, "the reduction of RoI embeddings")
    return tables.load(folder)


def read_reduction(table: tables.Table | None) -> Float32[ndarray, "d k"] | None:
    """Read the projection from its table; None if there is none."""
    return None if table is None else np.array(table.column("matrix"))
