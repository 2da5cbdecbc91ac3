"""Scan before training: decode every image, and reject unusable ones with a reason."""

import csv
import ctypes
import io
import multiprocessing
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orl import files, tables
from orl.datasets.decode import ImageError, is_machine_fault, load_image
from orl.datasets.image_table import ImageTable, file_signature
from orl.datasets.loader_workers import end_with_parent, require_main_guard
from orl.datasets.packs import PackFormat, check_pack, is_pack, open_pack, shard_path
from orl.progress import progress_bar

CHUNK_SIZE = 16


@dataclass(frozen=True)
class Rejected:
    """An image that is left out of the run."""

    name: str
    """Path of the image below the root."""
    reason: str
    """Reason in one line, with the value found."""


@dataclass(frozen=True)
class Accepted:
    """Size and digest of a usable image."""

    size_wh: tuple[int, int]
    digest: str
    signature: str = ""


def scan_images(
    root: Path, names: Sequence[str], *, min_side_px: int, max_pixels: int, workers: int, quiet: bool = False
) -> tuple[ImageTable, list[Rejected]]:
    """Decode every image fully, and separate usable from unusable ones; for a pack, compare all digests instead.

    Args:
        root: folder that the names start from, or a pack.
        names: path of each image below the root.
        min_side_px: smallest short side of a usable image.
        max_pixels: largest number of pixels of a usable image.
        workers: number of processes that decode; 0 or 1 for this process. The result is the same.
        quiet: show no progress bar.

    Returns:
        The usable images and the rejected ones, both in the order of the names.

    Raises:
        RuntimeError: if a worker process dies, for example for lack of memory.
        ValueError: if a pack is unfinished or damaged.
    """
    if is_pack(root):
        return _scan_pack(root, names, min_side_px=min_side_px, max_pixels=max_pixels, workers=workers, quiet=quiet)
    chunks = [names[chunk] for chunk in tables.shard_slices(len(names), CHUNK_SIZE)]
    workers = min(workers, len(chunks))
    with progress_bar(total=len(names), title="scan images", unit="images", quiet=quiet) as bar:
        scanned: list[Accepted | Rejected] = []
        if workers > 1:
            for chunk in _scan_in_processes(root, chunks, min_side_px, max_pixels, workers, bar.update):
                scanned.extend(chunk)
        else:
            for name in names:
                scanned.append(_scan_image(root, name, min_side_px, max_pixels))
                bar.update()
    return _separate(root, names, scanned)


def save_rejected(rejected: Sequence[Rejected], path: Path) -> None:
    """Write name and reason of each rejected image to a CSV atomically."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["name", "reason"])
    writer.writerows([image.name, image.reason] for image in rejected)
    # Bytes of a name that is not Unicode are written as escapes.
    files.write_atomically(path, text.getvalue().encode("utf-8", errors="backslashreplace"))


def check_scan(
    images: ImageTable,
    rejected: Sequence[Rejected],
    *,
    max_rejected_fraction: float,
    min_images: int,
    rejected_path: Path,
) -> None:
    """Check that enough images are usable.

    Args:
        images: the usable images.
        rejected: the rejected images.
        max_rejected_fraction: largest allowed fraction of rejected images, in [0, 1].
        min_images: smallest allowed number of usable images.
        rejected_path: CSV with the reasons, for the error message.

    Raises:
        ValueError: if a larger fraction is rejected, or fewer than `min_images` images are usable.
    """
    num_images = len(images) + len(rejected)
    fraction = len(rejected) / max(1, num_images)
    found = f"{len(rejected)} of {num_images} images of {images.root} are unusable"
    if rejected:
        found += f" ({common_reasons(rejected)}; all reasons are in {rejected_path})"
    if len(images) == 0:
        raise ValueError(f"no image is usable: {found}; repair them or give another source")
    if fraction > max_rejected_fraction:
        raise ValueError(
            f"too many images are rejected, {fraction:.1%} where {max_rejected_fraction:.1%} are allowed: {found}; "
            "repair them, or allow more with --scan.max-rejected-fraction"
        )
    if len(images) < min_images:
        raise ValueError(
            f"only {len(images)} usable images, but at least {min_images} are needed, for a batch, and in stage 2 for "
            f"one more than the neighbours of an image: {found}; add images, or set a smaller batch or fewer neighbours"
        )


def common_reasons(rejected: Sequence[Rejected]) -> str:
    """Summarise the most frequent kinds of reasons with their counts: '3 truncated, 1 empty'."""
    kinds = Counter(image.reason.split(":")[0] for image in rejected)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(3))


def _scan_image(root: Path, name: str, min_side_px: int, max_pixels: int) -> Accepted | Rejected:
    if not _is_unicode(name):
        return Rejected(name, f"name is not Unicode: {name!r}; rename the file")
    try:
        signature = file_signature(root / name)  # before the content: a later change shows
        height, width, _ = load_image(root / name, max_pixels).shape
        digest = files.file_digest(root / name)
    except ImageError as error:
        return Rejected(name, error.reason)
    except OSError as error:
        if is_machine_fault(error):
            raise
        return Rejected(name, f"cannot be read: {error}")
    if min(width, height) < min_side_px:
        return _too_small(name, (width, height), min_side_px)
    return Accepted((width, height), digest, signature)


def _too_small(name: str, size_wh: tuple[int, int], min_side_px: int) -> Rejected:
    return Rejected(name, f"too small: {size_wh[0]}x{size_wh[1]} px, at least {min_side_px} on the short side")


def _scan_pack(
    folder: Path, names: Sequence[str], *, min_side_px: int, max_pixels: int, workers: int, quiet: bool
) -> tuple[ImageTable, list[Rejected]]:
    open_pack.cache_clear()
    pack = open_pack(folder)
    # Before the content is read: a later change shows.
    signatures = [file_signature(shard_path(folder, shard, pack.format)) for shard in range(pack.num_shards)]
    check_pack(pack, workers=workers, quiet=quiet)
    scanned: list[Accepted | Rejected] = []
    for name in names:
        width, height = pack.sizes_wh[pack.rows[name]].tolist()
        if min(width, height) < min_side_px:
            scanned.append(_too_small(name, (width, height), min_side_px))
        elif width * height > max_pixels:
            scanned.append(
                Rejected(name, f"too many pixels: {width}x{height} px, at most {max_pixels / 1e6:g} million")
            )
        else:
            signature = signatures[pack.shard_of(name)]
            scanned.append(Accepted((width, height), pack.digests[pack.rows[name]], signature))
    return _separate(folder, names, scanned, packed=pack.format)


def _separate(
    root: Path, names: Sequence[str], scanned: Sequence[Accepted | Rejected], packed: PackFormat | None = None
) -> tuple[ImageTable, list[Rejected]]:
    accepted = [(name, image) for name, image in zip(names, scanned) if isinstance(image, Accepted)]
    images = ImageTable(
        root=root,
        names=tuple(name for name, _ in accepted),
        sizes_wh=tuple(image.size_wh for _, image in accepted),
        digests=tuple(image.digest for _, image in accepted),
        packed=packed,
        signatures=tuple(image.signature for _, image in accepted),
    )
    return images, [image for image in scanned if isinstance(image, Rejected)]


def _is_unicode(name: str) -> bool:
    """Return True if the name can be stored; Python represents bytes that are not UTF-8 by surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _scan_in_processes(
    root: Path,
    chunks: Sequence[Sequence[str]],
    min_side_px: int,
    max_pixels: int,
    workers: int,
    report: Callable[[int], object],
) -> list[list[Accepted | Rejected]]:
    require_main_guard()
    # Spawned, because a fork would copy the threads of torch in an undefined state.
    context = multiprocessing.get_context("spawn")
    # No lock: a worker killed while it owns a lock would block this process for ever.
    leave = context.RawValue(ctypes.c_bool, False)
    pool = ProcessPoolExecutor(workers, context, initializer=_begin_worker, initargs=(leave,))
    futures: list[Future[list[Accepted | Rejected]]] = []
    try:
        for chunk in chunks:
            with _sigint_blocked():  # workers inherit the mask: only this process handles Ctrl-C
                futures.append(pool.submit(_scan_chunk, root, chunk, min_side_px, max_pixels))
        for future in as_completed(futures):
            report(len(future.result()))
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"a worker process of the scan died after {_num_scanned(futures)} of {sum(map(len, chunks))} "
            "images: killed, or out of memory? Lower the number of workers, or set it to 1 to scan in this process"
        ) from error
    finally:
        leave.value = True
        pool.shutdown(cancel_futures=True)


def _num_scanned(futures: Sequence[Future[list[Accepted | Rejected]]]) -> int:
    finished = [future for future in futures if future.done() and not future.cancelled()]
    return sum(len(future.result()) for future in finished if future.exception() is None)


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block; an ignored signal would be lost."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows: `_begin_worker` ignores the signal a little later
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


_leave: ctypes.c_bool | None = None


def _begin_worker(leave: ctypes.c_bool) -> None:
    global _leave
    _leave = leave
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def _scan_chunk(root: Path, names: Sequence[str], min_side_px: int, max_pixels: int) -> list[Accepted | Rejected]:
    scanned = []
    for name in names:
        if _leave is not None and _leave.value:
            break  # the main process has given up
        scanned.append(_scan_image(root, name, min_side_px, max_pixels))
    return scanned
