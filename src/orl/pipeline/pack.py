"""`orl data pack`: a copy of an image set that is fast to read, written shard by shard."""

import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from orl import files, provenance, tables
from orl.datasets.decode import ImageError, load_image
from orl.datasets.image_table import ImageTable
from orl.datasets.packs import KIND, PACK_VERSION, SHARDS, PackFormat, is_pack, open_pack, pack_digest, shard_path
from orl.datasets.sources import find_images
from orl.datasets.threads import map_in_threads
from orl.datasets.validation import Rejected, save_rejected
from orl.pipeline.pack_options import PackOptions
from orl.pipeline.scan import scan_into
from orl.progress import progress_bar
from orl.rundir import RunDir

logger = logging.getLogger(__name__)

JPEG_QUALITY = 95
MEGABYTE = 10**6
COLUMNS = {"name": object, "digest": object, "original_digest": object, "offset": np.int64, "num_bytes": np.int64}
COLUMNS |= dict.fromkeys(("width", "height", "original_width", "original_height"), np.int32)


def pack_images(options: PackOptions) -> Path:
    """Pack the usable images of a source; the others are in the pack's `rejected.csv` with the reason.

    The same images and options give the same shards, byte for byte, for any number of workers and of interruptions.
    Finished shards are kept if they have their full size.

    Returns:
        The folder of the pack, which is a source of images.

    Raises:
        FileNotFoundError: if the source is missing.
        ValueError: if the source has no images, or too many that cannot be used.
        StaleResultError: if the folder holds a pack of other images or options and `overwrite` is off.
        OSError: if the disk is full; finished shards are kept.
    """
    root, names = find_images(options.images, options.split, options.to)
    if is_pack(root):
        raise ValueError(f"{root} is already a pack; pack the images that it was made from")
    format_options = _format_options(options)
    provenance.claim(
        options.to,
        {**format_options, "images": len(names), "names": provenance.fingerprint({"": names})},
        options.overwrite,
    )
    run = RunDir(options.to)
    images = scan_into(run, root, names, options.scan, 1, workers=options.workers, overwrite=options.overwrite)
    sizes_wh = [packed_size(size_wh, options.short_side) for size_wh in images.sizes_wh]
    slices = plan_shards(sizes_wh, options.shard_mb * MEGABYTE)
    inputs = {**format_options, "images": images.fingerprint}
    folder = options.to / SHARDS
    missing = tables.begin(folder, inputs, len(slices), options.overwrite)
    job = _Job(options=options, images=images, sizes_wh=sizes_wh, slices=slices)
    _write_shards(job, missing)
    tables.finish_table(folder)
    open_pack.cache_clear()
    pack = open_pack(options.to)
    damaged = [index for index in range(pack.num_shards) if not pack.is_complete(index)]
    if damaged:
        logger.warning("%d shards of %s are missing or damaged and are made again", len(damaged), options.to)
        tables.delete_shards(folder, damaged)
        _write_shards(job, damaged)
        tables.finish_table(folder)
        open_pack.cache_clear()
    return options.to


def packed_size(size_wh: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """Return width and height of an image in the pack; an image is never enlarged."""
    scale = 1.0 if short_side is None else min(1.0, short_side / min(size_wh))
    return max(1, round(size_wh[0] * scale)), max(1, round(size_wh[1] * scale))


def plan_shards(sizes_wh: Sequence[tuple[int, int]], shard_bytes: int) -> list[slice]:
    """Split images into shards of at most `shard_bytes` bytes of pixels, and of at least one image."""
    starts, filled = [0], 0
    for row, (width, height) in enumerate(sizes_wh):
        filled += 3 * width * height
        if filled > shard_bytes and row > starts[-1]:
            starts.append(row)
            filled = 3 * width * height
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(sizes_wh)])]


def pack_image(image: UInt8[ndarray, "h w 3"], size_wh: tuple[int, int], format: PackFormat) -> bytes:
    """Return an image's bytes in a pack: resized by antialiased bicubic interpolation, as plain pixels or as JPEG."""
    if size_wh == (image.shape[1], image.shape[0]) and format == "pixels":
        return image.tobytes()
    resized = Image.fromarray(image).resize(size_wh, Image.Resampling.BICUBIC)
    if format == "pixels":
        return resized.tobytes()
    encoded = io.BytesIO()
    resized.save(encoded, "JPEG", quality=JPEG_QUALITY)
    return encoded.getvalue()


def _format_options(options: PackOptions) -> dict[str, Any]:
    return {
        "kind": KIND,
        "pack_version": PACK_VERSION,
        "short_side": options.short_side,
        "format": options.format,
        "shard_mb": options.shard_mb,
        "min_side_px": options.scan.min_side_px,
        "max_megapixels": options.scan.max_megapixels,
    }


class _Packed(NamedTuple):
    """A packed image: its row of the table without the offset, and its bytes."""

    row: dict[str, Any]
    data: bytes


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Inputs of all shards of a pack."""

    options: PackOptions
    images: ImageTable
    sizes_wh: Sequence[tuple[int, int]]
    """Sizes of the images in the pack."""
    slices: Sequence[slice]
    """Images of each shard."""


def _write_shards(job: _Job, shards: Sequence[int]) -> None:
    num_images = sum(job.slices[index].stop - job.slices[index].start for index in shards)
    done = len(job.images) - num_images
    with progress_bar(total=len(job.images), done=done, title="pack images", unit="images") as bar:
        for index in shards:
            _write_shard(job, index, bar.update)


def _write_shard(job: _Job, index: int, report: Callable[[int], object]) -> None:
    """Write the images, then the table: a shard is finished when its table shard exists."""
    data, rows, rejected = bytearray(), [], []

    def take(one: _Packed | Rejected) -> None:
        if isinstance(one, Rejected):
            rejected.append(one)
        else:
            rows.append({**one.row, "offset": len(data), "num_bytes": len(one.data)})
            data.extend(one.data)
        report(1)

    images = range(job.slices[index].start, job.slices[index].stop)
    map_in_threads(partial(_pack_one, job), images, job.options.workers, take)
    if rejected:
        _record_rejected(job.options, rejected, len(images))
    folder = job.options.to
    files.write_atomically(shard_path(folder, index, job.options.format), memoryview(data))
    columns = {key: np.array([row[key] for row in rows], kind) for key, kind in COLUMNS.items()}
    tables.write_shard(folder / SHARDS, index, columns)


def _pack_one(job: _Job, image_id: int) -> _Packed | Rejected:
    images, size_wh = job.images, job.sizes_wh[image_id]
    name = images.names[image_id]
    path = images.root / name
    try:
        image = load_image(path, int(job.options.scan.max_megapixels * 1e6))
        if files.file_digest(path) != images.digests[image_id]:
            return Rejected(name, "changed: the file is not the one that was scanned")
    except ImageError as error:
        return Rejected(name, error.reason)
    except OSError as error:
        return Rejected(name, f"cannot be read: {error}")
    data = pack_image(image, size_wh, job.options.format)
    row: dict[str, Any] = {"name": name, "digest": pack_digest(name, size_wh, data)}
    row["original_digest"] = images.digests[image_id]
    row |= dict(zip(("width", "height"), size_wh))
    row |= dict(zip(("original_width", "original_height"), images.sizes_wh[image_id]))
    return _Packed(row, data)


def _record_rejected(options: PackOptions, rejected: Sequence[Rejected], num_images: int) -> None:
    """Add images to `rejected.csv` that the scan could read and the packing could not.

    Raises:
        RuntimeError: if more than the allowed fraction of a shard has become unreadable.
    """
    if len(rejected) > max(1, options.scan.max_rejected_fraction * num_images):
        raise RuntimeError(
            f"{len(rejected)} of {num_images} images have become unreadable since the scan, such as "
            f"{rejected[0].name} ({rejected[0].reason}); check that {options.images} is complete, and give the "
            "same command again: finished shards are kept"
        )
    path = RunDir(options.to).rejected
    known = [Rejected(row["name"], row["reason"]) for row in files.read_csv(path, ("name", "reason"))]
    new = {image.name for image in rejected}
    save_rejected([*(image for image in known if image.name not in new), *rejected], path)
    logger.warning("%d images have become unreadable since the scan; see %s", len(rejected), path)
