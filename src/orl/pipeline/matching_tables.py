"""Whitening of RoI embeddings, fitted to a sample and kept as a table of one shard."""

import logging

import numpy as np

from orl import tables
from orl.discovery.nearest_neighbours import unit_vectors
from orl.discovery.whitening import SHRINKAGE, Whitening, fit_whitening
from orl.pipeline.preflight import RunInputs
from orl.pipeline.shards import random_rows
from orl.processes import Processes

logger = logging.getLogger(__name__)

WHITENED = ("whitened", "contrast")
"""Values of `discover.matching` that whiten embeddings."""
HUB_CORRECTED = ("csls", "contrast")
"""Values of `discover.matching` that correct similarities for hubs."""
MAX_SAMPLE = 20_000
"""RoIs that the whitening is fitted to."""


def build_whitening(inputs: RunInputs, roi_embeddings: tables.Table, processes: Processes) -> tables.Table | None:
    """Fit the whitening in the first process if `discover.matching` needs it; None if it does not.

    Raises:
        ValueError: if the embeddings cannot be whitened.
        StaleResultError: if it was fitted to other embeddings and `overwrite` is off.
    """
    config = inputs.config
    if config.discover.matching not in WHITENED:
        return None
    folder = inputs.run.table("whitening")

    def fit() -> tables.Table:
        origin = {
            "roi_embeddings": roi_embeddings.fingerprint,
            "shrinkage": SHRINKAGE,
            "max_sample": MAX_SAMPLE,
            "seed": config.seed,
        }
        if tables.begin(folder, origin, 1, config.overwrite):
            rows = random_rows(roi_embeddings.num_rows, MAX_SAMPLE, config.seed)
            logger.info("whitening: fitted to %d RoIs", len(rows))
            halves = np.stack([roi_embeddings.rows("embedding", row, row + 1)[0] for row in rows.tolist()])
            roi_embeddings.release()
            found = fit_whitening(unit_vectors(halves).numpy())
            tables.write_shard(folder, 0, {"mean": found.mean, "matrix": found.matrix})
        return tables.finish_table(folder)

    processes.from_first(lambda: fit().num_rows, "the whitening")
    return tables.load(folder)


def read_whitening(table: tables.Table | None) -> Whitening | None:
    """Read the whitening from its table; None if there is none."""
    if table is None:
        return None
    return Whitening(mean=np.array(table.column("mean")), matrix=np.array(table.column("matrix")))
