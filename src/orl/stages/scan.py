"""Before any training: find the photos, read every one, and record those that cannot be used."""

import csv
import logging
from pathlib import Path

from orl.config import RunConfig
from orl.images.scan import check_scan, save_rejected, scan_photos
from orl.images.sources import find_photos
from orl.images.table import ImageTable, load_images, save_images
from orl.rundir import RunDir
from orl.tables import StaleTableError

logger = logging.getLogger(__name__)


def scan(config: RunConfig) -> ImageTable:
    """The usable photos of a run; the others are in `rejected.csv` with the reason.

    A scan is taken over from an earlier part of the run while the source names the same photos and none of the files
    has changed since; `overwrite` reads them all again.

    Raises:
        FileNotFoundError, ValueError: if the source holds no photos, too few, or too many that cannot be used.
        StaleTableError: if the photos changed and `overwrite` is off.
    """
    run = RunDir(config.out)
    root, names = find_photos(config.images, config.split)
    known = load_images(run.images) if run.images.exists() else None
    if known is not None and not config.overwrite and known.root == root and _unchanged(run, known, names):
        return known
    images, rejected = scan_photos(
        root,
        names,
        min_side_px=config.scan.min_side_px,
        max_pixels=int(config.scan.max_megapixels * 1e6),
        workers=config.workers,
    )
    if known is not None and known.fingerprint != images.fingerprint and not config.overwrite:
        raise StaleTableError(
            f"the photos of {run.root} have changed: {len(known)} usable before, {len(images)} now, "
            f"{len(set(known.names) ^ set(images.names))} added or removed. Rebuild with --overwrite, or take "
            "another --out"
        )
    save_rejected(rejected, run.rejected)
    check_scan(
        images,
        rejected,
        max_rejected_share=config.scan.max_rejected_share,
        min_photos=config.discover.num_neighbours + 1,
        rejected_path=run.rejected,
    )
    save_images(images, run.images)
    if rejected:
        logger.warning("%d of %d photos cannot be used; see %s", len(rejected), len(names), run.rejected)
    return images


def _unchanged(run: RunDir, known: ImageTable, names: list[str]) -> bool:
    with open(run.rejected, newline="", encoding="utf-8") as file:
        rejected = {row["name"] for row in csv.DictReader(file)}
    if set(known.names) | rejected != set(names):
        return False
    scanned_at = run.images.stat().st_mtime
    return all(_modified_at(known.path(index)) <= scanned_at for index in range(len(known)))


def _modified_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return float("inf")
