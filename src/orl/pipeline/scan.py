"""Scan: read every image before any training, write `images.parquet`, and record those that cannot be used."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orl import files
from orl.config import ScanConfig, save_config
from orl.datasets.image_table import ImageTable, changed_images, load_image_table, save_image_table
from orl.datasets.validation import check_scan, save_rejected, scan_images
from orl.pipeline.preflight import RunInputs, with_absolute_paths
from orl.pipeline.record import begin_record, recorded_stage
from orl.processes import Processes
from orl.provenance import MANIFEST, StaleResultError
from orl.rundir import TRAINED_STAGES, RunDir

logger = logging.getLogger(__name__)


def scan(inputs: RunInputs, processes: Processes | None = None) -> ImageTable:
    """Read all images of a run and return the usable ones; the others are in `rejected.csv` with the reason.

    The first process scans; the others wait and load its table. The config is saved after the scan: from then on
    the folder belongs to it. A refused command can be corrected and given again.

    An earlier scan is reused while the source lists the same images and no file has changed since; `overwrite` reads
    all images again.

    Raises:
        ValueError: if too few images are usable, or too many are not.
        StaleResultError: if the images changed and `overwrite` is off.
    """
    processes, config, run = processes or Processes(), inputs.config, inputs.run
    if not processes.is_first:
        processes.wait("the scan of the images")
        return load_image_table(run.images)
    begin_record(run, {"recipe": config.recipe, "seed": config.seed, "device": inputs.device_name})
    with recorded_stage(run, "scan"):
        images = scan_into(
            run,
            inputs.root,
            inputs.names,
            config.scan,
            inputs.min_images,
            workers=config.workers,
            overwrite=config.overwrite,
        )
    save_config(with_absolute_paths(config), run.config)
    processes.wait("the scan of the images")
    return images


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
    """Scan images into a folder, as `scan` does; a pack has the files of its scan under the same names.

    Args:
        run: folder of the image table and of `rejected.csv`.
        root: folder that the names start from, or a pack.
        names: path of each image below the root.
        limits: rules for usable images.
        min_images: fewest usable images.
        workers: processes that read.
        overwrite: read all images again, and replace an earlier table.

    Raises:
        ValueError: if too few images are usable, or too many are not.
        StaleResultError: if the images changed and `overwrite` is off.
    """
    earlier = load_image_table(run.images) if run.images.exists() and not overwrite else None
    if earlier is not None and earlier.root == root and _is_unchanged(run, earlier, names):
        return earlier
    images, rejected = scan_images(
        root,
        names,
        min_side_px=limits.min_side_px,
        max_pixels=int(limits.max_megapixels * 1e6),
        workers=workers,
    )
    if earlier is not None and _only_few_images_lost(run, earlier, images, limits):
        return replace(earlier, root=images.root)
    if earlier is not None and earlier.fingerprint != images.fingerprint:
        raise StaleResultError(
            f"the images of {run.root} have changed: {len(earlier)} usable before, {len(images)} now, "
            f"{len(set(earlier.names) ^ set(images.names))} added or removed. Rebuild with --overwrite, or use "
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


def _only_few_images_lost(run: RunDir, earlier: ImageTable, images: ImageTable, limits: ScanConfig) -> bool:
    """Check that a run in training lost only a few images, which training replaces by others."""
    num_lost = len(earlier) - len(images)
    in_training = any((run.stage(stage) / MANIFEST).exists() for stage in TRAINED_STAGES)
    max_lost = limits.max_rejected_fraction * len(earlier)
    if not in_training or earlier.packed != images.packed or not 0 < num_lost <= max_lost:
        return False
    digests = dict(zip(earlier.names, earlier.digests))
    if any(digests.get(name) != digest for name, digest in zip(images.names, images.digests)):
        return False
    lost = sorted(set(earlier.names) - set(images.names))
    logger.warning(
        "%d of the %d images of this run are gone or unreadable, such as %s: training takes others in their place, and "
        "stage 2 needs them back. --overwrite starts from scratch without them",
        num_lost,
        len(earlier),
        lost[0],
    )
    return True


def _is_unchanged(run: RunDir, earlier: ImageTable, names: Sequence[str]) -> bool:
    rejected = {row["name"] for row in files.read_csv(run.rejected, ("name", "reason"))}
    if set(earlier.names) | rejected != set(names):
        return False
    are_there = earlier.packed or all((earlier.root / name).exists() for name in earlier.names)
    return bool(earlier.signatures) and bool(are_there) and not changed_images(earlier)
