"""Summary of stage 2: counts, similarities and times, for the table at the end of `orl discover`."""

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy import ndarray

from orl import files, tables
from orl.pipeline.neighbour_tables import RECALL
from orl.rundir import RunDir

logger = logging.getLogger(__name__)

STEPS = ("embeddings", "neighbours", "proposals", "rois", "roi_embeddings", "correspondences")
QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)
NUM_BINS = 200_000
"""Bins of cosines in [-1, 1]: quantiles are accurate to 1e-5."""


class StepRecord:
    """Seconds and images of the computation of one table, added up over all calls in `discover/summary.json`."""

    def __init__(self, run: RunDir, name: str, fingerprint: str, quiet: bool = False) -> None:
        """Resume the record of an earlier call that made the same table.

        Args:
            run: the run.
            name: name of the table.
            fingerprint: fingerprint of the table's inputs.
            quiet: write nothing, as all processes but the first.
        """
        self.path, self.name, self.fingerprint, self.quiet = summary_path(run), name, fingerprint, quiet
        before = _read_records(self.path).get(name, {})
        self.before = before if before.get("fingerprint") == fingerprint else {}
        self.num_images = self.num_rows = 0
        self.num_in_table: int | None = None
        self.started = time.monotonic()

    def update(self, num_images: int) -> None:
        """Save the number of images done by this call; called before their shard is written, in case of a kill."""
        self.num_images = num_images
        self.save()

    def finish(self, num_images: int, num_rows: int) -> None:
        """Set the numbers of a finished table; a shard that a kill made necessary again counts once."""
        self.num_in_table, self.num_rows = num_images, num_rows

    def save(self) -> None:
        """Write the record; a failure is logged, so that it does not hide an error of the computation."""
        is_known = self.num_in_table is not None and self.before.get("images") == self.num_in_table
        if self.quiet or (is_known and self.num_images == 0):
            return
        images = self.before.get("images", 0) + self.num_images if self.num_in_table is None else self.num_in_table
        record = {
            "fingerprint": self.fingerprint,
            "images": images,
            "seconds": round(self.before.get("seconds", 0.0) + time.monotonic() - self.started, 3),
            "rows": self.num_rows,
        }
        try:
            files.write_atomically(self.path, json.dumps({**_read_records(self.path), self.name: record}, indent=1))
        except OSError as error:
            logger.warning("the times of %s are not saved: %s", self.name, error)

    def __enter__(self) -> "StepRecord":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.save()


def summary_path(run: RunDir) -> Path:
    """Return the path of the times of the tables."""
    return run.table("summary.json")


def discover_summary(run: RunDir) -> dict[str, Any]:
    """Compute counts, similarities and times of a finished discovery, reading shard by shard.

    Returns:
        `images`, `proposals`, `rois`, `rois_per_image`, `pairs`; `similarity_quantiles` of neighbours and
        correspondences at `QUANTILES`; `steps` with the images, seconds and images per second of each timed table, and
        `seconds` of all of them; `neighbour_recall` where the neighbours come from an index.

    Raises:
        FileNotFoundError: if a table is missing.
        ValueError: if a table is unfinished.
    """
    found = {name: tables.load(run.table(name)) for name in STEPS}
    images, rois = found["embeddings"].num_rows, found["rois"].num_rows
    records = _read_records(summary_path(run))
    steps = {
        name: _rate(records[name])
        for name in STEPS
        if records.get(name, {}).get("fingerprint") == found[name].fingerprint
    }
    recall = _read_json(run.table("neighbours") / RECALL)
    return {
        **({"neighbour_recall": recall} if _has_numbers(recall, "recall", "images") else {}),
        "images": images,
        "proposals": found["proposals"].num_rows,
        "rois": rois,
        "rois_per_image": round(rois / max(1, images), 2),
        "pairs": found["correspondences"].num_rows,
        "similarity_quantiles": {
            "neighbours": similarity_quantiles(found["neighbours"], "similarities"),
            "correspondences": similarity_quantiles(found["correspondences"], "similarity"),
        },
        "steps": steps,
        "seconds": round(sum(step["seconds"] for step in steps.values()), 3),
    }


def similarity_quantiles(table: tables.Table, column: str) -> list[float]:
    """Compute the quantiles at `QUANTILES` of a column of cosines; the ends are exact, the others accurate to a bin."""
    counts, low, high = np.zeros(NUM_BINS, np.int64), np.inf, -np.inf
    for _, values in table.parts(column):
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            counts += _histogram(values)
    if not counts.any():
        return []
    bins = np.searchsorted(counts.cumsum(), np.multiply(QUANTILES, counts.sum() - 1), side="right")
    middles = (bins + 0.5) * 2 / NUM_BINS - 1
    return [round(float(value), 5) for value in (low, *middles[1:-1].clip(low, high), high)]


def format_summary(summary: Mapping[str, Any]) -> str:
    """Format the summary as a table for the terminal."""
    counts = [
        f"{summary['images']:,} images, {summary['proposals']:,} proposals, {summary['rois']:,} RoIs "
        f"({summary['rois_per_image']:.1f} an image), {summary['pairs']:,} pairs of RoIs"
    ]
    similarities = [f"{'similarity':<16}" + "".join(f"{f'{quantile:.0%}':>9}" for quantile in QUANTILES)]
    for name, values in summary["similarity_quantiles"].items():
        similarities.append(f"{name:<16}" + "".join(f"{value:>9.3f}" for value in values))
    steps = [f"{'step':<16}{'images':>12}{'seconds':>12}{'images/s':>12}"]
    for name, step in summary["steps"].items():
        row = f"{step['images']:>12,}{step['seconds']:>12,.1f}{step['images_per_s']:>12,.1f}"
        steps.append(f"{name.replace('_', ' '):<16}{row}")
    steps.append(f"{'all':<16}{'':>12}{summary['seconds']:>12,.1f}")
    if "neighbour_recall" in summary:
        recall = summary["neighbour_recall"]
        fraction = f"the index finds {recall['recall']:.1%} of the exact neighbours of {recall['images']} images"
        similarities.append(fraction)
    return "\n".join([*counts, "", *steps, "", *similarities])


def _read_json(path: Path) -> dict[str, Any]:
    """Read an object; a damaged file counts as an empty one."""
    try:
        return files.read_json(path)
    except (OSError, ValueError):
        return {}


def _read_records(path: Path) -> dict[str, Any]:
    """Read the times of the tables; damaged ones are left out."""
    return {name: record for name, record in _read_json(path).items() if _has_numbers(record, "images", "seconds")}


def _has_numbers(record: object, *names: str) -> bool:
    return isinstance(record, dict) and all(type(record.get(name)) in (int, float) for name in names)


def _rate(record: Mapping[str, Any]) -> dict[str, Any]:
    images, seconds = record["images"], record["seconds"]
    return {"images": images, "seconds": seconds, "images_per_s": round(images / max(seconds, 1e-3), 2)}


def _histogram(values: ndarray) -> ndarray:
    bins = ((values.ravel().astype(np.float64) + 1) * (NUM_BINS / 2)).astype(np.int64)
    return np.bincount(bins.clip(0, NUM_BINS - 1), minlength=NUM_BINS)
