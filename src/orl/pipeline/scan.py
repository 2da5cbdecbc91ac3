"""Before any training: find the images, read every one, and record those that cannot be used."""

import csv
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from orl.config import RunConfig, ScanConfig
from orl.datasets.image_table import ImageTable, load_image_table, save_image_table
from orl.datasets.packs import SHARDS
from orl.datasets.sources import find_images
from orl.datasets.validation import check_scan, save_rejected, scan_images
from orl.provenance import MANIFEST, StaleResultError
from orl.rundir import TRAINED_STAGES, RunDir

logger = logging.getLogger(__name__)


def scan(config: RunConfig) -> ImageTable:
    """The usable images of a run; the others are in `rejected.csv` with the reason.

    A scan is taken over from an earlier part of the run while the source names the same images and none of the files
    has changed since; `overwrite` reads them all again.

    Raises:
        FileNotFoundError, ValueError: if the source holds no images, too few, or too many that cannot be used.
        StaleResultError: if the images changed and `overwrite` is off.
    """
    root, names = find_images(config.images, config.split)
    min_images = config.discover.num_neighbours + 1
    return scan_into(
        RunDir(config.out), root, names, config.scan, min_images, workers=config.workers, overwrite=config.overwrite
    )


def scan_into(
    run: RunDir,
    root: Path,
    names: Sequence[str],
    limits: ScanConfig,
    min_images: int,
    *,
    workers: int,
    overwrite: bool,
) -> ImageTable:
    """The usable ones of these images, as `scan`; a pack keeps its scan in files of the same names as a run.

    Args:
        run: where the table of the images and `rejected.csv` lie.
        root: folder that the names start from, or a pack.
        names: path of each image below the root.
        limits: which images are taken.
        min_images: fewest usable images.
        workers: processes that read.
        overwrite: read all again, and take what is found.

    Raises:
        FileNotFoundError, ValueError, StaleResultError: as `scan`.
    """
    known = load_image_table(run.images) if run.images.exists() else None
    if known is not None and not overwrite and known.root == root and _unchanged(run, known, names):
        return known
    images, rejected = scan_images(
        root,
        names,
        min_side_px=limits.min_side_px,
        max_pixels=int(limits.max_megapixels * 1e6),
        workers=workers,
    )
    if known is not None and not overwrite and _may_go_on_without(run, known, images, limits):
        return replace(known, root=images.root)
    if known is not None and known.fingerprint != images.fingerprint and not overwrite:
        raise StaleResultError(
            f"the images of {run.root} have changed: {len(known)} usable before, {len(images)} now, "
            f"{len(set(known.names) ^ set(images.names))} added or removed. Rebuild with --overwrite, or take "
            "another folder"
        )
    save_rejected(rejected, run.rejected)
    check_scan(
        images,
        rejected,
        max_rejected_fraction=limits.max_rejected_fraction,
        min_images=min_images,
        rejected_path=run.rejected,
    )
    save_image_table(images, run.images)
    if rejected:
        logger.warning("%d of %d images cannot be used; see %s", len(rejected), len(names), run.rejected)
    return images


def _may_go_on_without(run: RunDir, known: ImageTable, images: ImageTable, limits: ScanConfig) -> bool:
    """Whether a few images alone are gone from a run that has begun to train, which takes others in their place."""
    lost = len(known) - len(images)
    begun = any((run.stage(stage) / MANIFEST).exists() for stage in TRAINED_STAGES)
    if not begun or known.packed != images.packed or not 0 < lost <= limits.max_rejected_fraction * len(known):
        return False
    digests = dict(zip(known.names, known.digests))
    if any(digests.get(name) != digest for name, digest in zip(images.names, images.digests)):
        return False
    gone = sorted(set(known.names) - set(images.names))
    logger.warning(
        "%d of the %d images of this run are gone or cannot be read any more, such as %s: training takes others in "
        "their place, and stage 2 needs them back. --overwrite begins anew without them",
        lost,
        len(known),
        gone[0],
    )
    return True


def _unchanged(run: RunDir, known: ImageTable, names: Sequence[str]) -> bool:
    with open(run.rejected, newline="", encoding="utf-8") as file:
        rejected = {row["name"] for row in csv.DictReader(file)}
    if set(known.names) | rejected != set(names):
        return False
    scanned_at = run.images.stat().st_mtime
    return all(_modified_at(path) <= scanned_at for path in _files(known))


def _files(images: ImageTable) -> Iterator[Path]:
    """What the images lie in; the folder of a pack's shards too, which tells that one was deleted."""
    if images.packed:
        shards = images.root / SHARDS
        return iter([shards, *shards.iterdir()])
    return (images.root / name for name in images.names)


def _modified_at(path: Path) -> float:
    """A file that was put in another's place may keep an older time of its own, but not of its entry."""
    try:
        found = path.stat()
        return max(found.st_mtime, found.st_ctime)
    except OSError:
        return float("inf")
