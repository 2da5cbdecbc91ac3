"""The look at every image before any training: all are decoded, and the unusable named with the reason."""

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
from orl.datasets.decode import ImageError, load_image
from orl.datasets.image_table import ImageTable
from orl.datasets.packs import PackFormat, check_pack, is_pack, open_pack
from orl.progress import progress_bar

CHUNK_SIZE = 16


@dataclass(frozen=True)
class Rejected:
    """An image that is left out of the run."""

    name: str
    """Its path below the root, as it was asked for."""
    reason: str
    """One line: what is wrong, and the value seen."""


@dataclass(frozen=True)
class Accepted:
    """What the scan learns of a good image."""

    size_wh: tuple[int, int]
    digest: str


def scan_images(
    root: Path, names: Sequence[str], *, min_side_px: int, max_pixels: int, workers: int, quiet: bool = False
) -> tuple[ImageTable, list[Rejected]]:
    """Decode every image fully and sort the usable from the unusable; of a pack, compare every checksum instead.

    Args:
        root: folder that the names start from, or a pack.
        names: path of each image below the root.
        min_side_px: shortest short side, right side up, that an image may have.
        max_pixels: most pixels that an image may have.
        workers: processes that decode; up to 1 works in this process. The result is the same.
        quiet: show no progress bar.

    Returns:
        The usable images and the rejected ones, both in the order of the names.

    Raises:
        RuntimeError: if a process dies, for example for lack of memory.
        ValueError: if a pack is unfinished or damaged.
    """
    if is_pack(root):
        return _scan_pack(root, names, min_side_px=min_side_px, max_pixels=max_pixels, workers=workers, quiet=quiet)
    chunks = [names[chunk] for chunk in tables.shard_slices(len(names), CHUNK_SIZE)]
    workers = min(workers, len(chunks))
    with progress_bar(total=len(names), title="scan images", unit="images", quiet=quiet) as bar:
        verdicts: list[Accepted | Rejected] = []
        if workers > 1:
            for scanned in _scan_in_processes(root, chunks, min_side_px, max_pixels, workers, bar.update):
                verdicts.extend(scanned)
        else:
            for name in names:
                verdicts.append(_scan_image(root, name, min_side_px, max_pixels))
                bar.update()
    return _sorted_out(root, names, verdicts)


def save_rejected(rejected: Sequence[Rejected], path: Path) -> None:
    """Write name and reason of each rejected image as CSV, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["name", "reason"])
    writer.writerows([image.name, image.reason] for image in rejected)
    # A name that is not Unicode cannot be written as it is; its bytes are spelled out.
    files.write_atomically(path, text.getvalue().encode("utf-8", errors="backslashreplace"))


def check_scan(
    images: ImageTable,
    rejected: Sequence[Rejected],
    *,
    max_rejected_fraction: float,
    min_images: int,
    rejected_path: Path,
) -> None:
    """Refuse to go on with too few images.

    Args:
        images: the usable images.
        rejected: the others.
        max_rejected_fraction: largest share of all images, in [0, 1], that may be rejected.
        min_images: fewest usable images: one more than the neighbours of each.
        rejected_path: where the reasons are written, for the message.

    Raises:
        ValueError: if more than the share is rejected or fewer than `min_images` are usable.
    """
    num_images = len(images) + len(rejected)
    fraction = len(rejected) / max(1, num_images)
    found = f"{len(rejected)} of {num_images} images of {images.root} are unusable"
    if rejected:
        found += f" ({common_reasons(rejected)}; all reasons are in {rejected_path})"
    if len(images) == 0:
        raise ValueError(f"no image is left: {found}; repair them or give another source")
    if fraction > max_rejected_fraction:
        raise ValueError(
            f"too many images rejected, {fraction:.1%} where {max_rejected_fraction:.1%} are allowed: {found}; "
            "repair them, or allow more with --scan.max-rejected-fraction"
        )
    if len(images) < min_images:
        raise ValueError(
            f"only {len(images)} usable images, but at least {min_images} are needed, for the largest batch and one more than "
            f"the neighbours of an image: {found}; add images, or set a smaller batch or fewer neighbours"
        )


def common_reasons(rejected: Sequence[Rejected]) -> str:
    """The most frequent kinds of reasons, with how often each was met: '3 truncated, 1 empty'."""
    kinds = Counter(image.reason.split(":")[0] for image in rejected)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(3))


def _scan_image(root: Path, name: str, min_side_px: int, max_pixels: int) -> Accepted | Rejected:
    if not _is_unicode(name):
        return Rejected(name, f"name is not Unicode: {name!r}; rename the file")
    try:
        height, width, _ = load_image(root / name, max_pixels).shape
        digest = files.file_digest(root / name)
    except ImageError as error:
        return Rejected(name, error.reason)
    except OSError as error:
        return Rejected(name, f"cannot be read: {error}")
    if min(width, height) < min_side_px:
        return _too_small(name, (width, height), min_side_px)
    return Accepted((width, height), digest)


def _too_small(name: str, size_wh: tuple[int, int], min_side_px: int) -> Rejected:
    return Rejected(name, f"too small: {size_wh[0]}x{size_wh[1]} px, at least {min_side_px} on the short side")


def _scan_pack(
    folder: Path, names: Sequence[str], *, min_side_px: int, max_pixels: int, workers: int, quiet: bool
) -> tuple[ImageTable, list[Rejected]]:
    open_pack.cache_clear()
    pack = open_pack(folder)
    check_pack(pack, workers=workers, quiet=quiet)
    verdicts: list[Accepted | Rejected] = []
    for name in names:
        width, height = pack.sizes_wh[pack.rows[name]].tolist()
        if min(width, height) < min_side_px:
            verdicts.append(_too_small(name, (width, height), min_side_px))
        elif width * height > max_pixels:
            verdicts.append(
                Rejected(name, f"too many pixels: {width}x{height} px, at most {max_pixels / 1e6:g} million")
            )
        else:
            verdicts.append(Accepted((width, height), pack.digests[pack.rows[name]]))
    return _sorted_out(folder, names, verdicts, packed=pack.format)


def _sorted_out(
    root: Path, names: Sequence[str], verdicts: Sequence[Accepted | Rejected], packed: PackFormat | None = None
) -> tuple[ImageTable, list[Rejected]]:
    accepted = [(name, verdict) for name, verdict in zip(names, verdicts) if isinstance(verdict, Accepted)]
    images = ImageTable(
        root=root,
        names=tuple(name for name, _ in accepted),
        sizes_wh=tuple(verdict.size_wh for _, verdict in accepted),
        digests=tuple(verdict.digest for _, verdict in accepted),
        packed=packed,
    )
    return images, [verdict for verdict in verdicts if isinstance(verdict, Rejected)]


def _is_unicode(name: str) -> bool:
    """Whether the name can be stored; a file name that was never UTF-8 reaches Python with surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _scan_in_processes(
    root: Path,
    chunks: Sequence[Sequence[str]],
    min_side_px: int,
    max_pixels: int,
    workers: int,
    report: Callable[[int], object],
) -> list[list[Accepted | Rejected]]:
    # Spawned, not forked: torch's threads in this process must not be copied half-way.
    context = multiprocessing.get_context("spawn")
    # Without a lock: a process that is killed while it holds one would keep this one waiting for ever.
    leave = context.RawValue(ctypes.c_bool, False)
    pool = ProcessPoolExecutor(workers, context, initializer=_begin_worker, initargs=(leave,))
    futures: list[Future[list[Accepted | Rejected]]] = []
    try:
        for chunk in chunks:
            with _sigint_blocked():  # a process that starts here inherits it: only this one answers Ctrl-C
                futures.append(pool.submit(_scan_chunk, root, chunk, min_side_px, max_pixels))
        for future in as_completed(futures):
            report(len(future.result()))
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"a process that scans images died after {_num_scanned(futures)} of {sum(map(len, chunks))} "
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
    """Ctrl-C waits until the end of the block; ignored instead, it would be lost."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows: `_begin_worker` sees to it a little later
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


def _scan_chunk(root: Path, names: Sequence[str], min_side_px: int, max_pixels: int) -> list[Accepted | Rejected]:
    verdicts = []
    for name in names:
        if _leave is not None and _leave.value:
            break  # nobody waits for the result any more
        verdicts.append(_scan_image(root, name, min_side_px, max_pixels))
    return verdicts
