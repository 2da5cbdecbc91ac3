"""The look at every photo before any training: all are decoded, and the unusable named with the reason."""

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

from orl import tables
from orl.images.decode import PhotoError, load_photo
from orl.images.packed import PackFormat, check_pack, is_pack, open_pack
from orl.images.table import ImageTable
from orl.progress import progress_bar

CHUNK_SIZE = 16


@dataclass(frozen=True)
class Rejected:
    """A photo that is left out of the run."""

    name: str
    """Its path below the root, as it was asked for."""
    reason: str
    """One line: what is wrong, and the value seen."""


@dataclass(frozen=True)
class Accepted:
    """What the scan learns of a good photo."""

    size_wh: tuple[int, int]
    digest: str


def scan_photos(
    root: Path, names: Sequence[str], *, min_side_px: int, max_pixels: int, workers: int, quiet: bool = False
) -> tuple[ImageTable, list[Rejected]]:
    """Decode every photo fully and sort the usable from the unusable; of a pack, compare every checksum instead.

    Args:
        root: folder that the names start from, or a pack.
        names: path of each photo below the root.
        min_side_px: shortest short side, right side up, that a photo may have.
        max_pixels: most pixels that a photo may have.
        workers: processes that decode; up to 1 works in this process. The result is the same.
        quiet: show no progress bar.

    Returns:
        The usable photos and the rejected ones, both in the order of the names.

    Raises:
        RuntimeError: if a process dies, for example for lack of memory.
        ValueError: if a pack is unfinished or damaged.
    """
    if is_pack(root):
        return _scan_pack(root, names, min_side_px=min_side_px, max_pixels=max_pixels, workers=workers, quiet=quiet)
    chunks = [names[chunk] for chunk in tables.shard_slices(len(names), CHUNK_SIZE)]
    workers = min(workers, len(chunks))
    with progress_bar(total=len(names), title="scan photos", unit="photos", quiet=quiet) as bar:
        verdicts: list[Accepted | Rejected] = []
        if workers > 1:
            for scanned in _scan_in_processes(root, chunks, min_side_px, max_pixels, workers, bar.update):
                verdicts.extend(scanned)
        else:
            for name in names:
                verdicts.append(_scan_photo(root, name, min_side_px, max_pixels))
                bar.update()
    return _sorted_out(root, names, verdicts)


def save_rejected(rejected: Sequence[Rejected], path: Path) -> None:
    """Write name and reason of each rejected photo as CSV, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["name", "reason"])
    writer.writerows([photo.name, photo.reason] for photo in rejected)
    # A name that is not Unicode cannot be written as it is; its bytes are spelled out.
    tables.write_atomically(path, text.getvalue().encode("utf-8", errors="backslashreplace"))


def check_scan(
    images: ImageTable,
    rejected: Sequence[Rejected],
    *,
    max_rejected_share: float,
    min_photos: int,
    rejected_path: Path,
) -> None:
    """Refuse to go on with too few photos.

    Args:
        images: the usable photos.
        rejected: the others.
        max_rejected_share: largest share of all photos, in [0, 1], that may be rejected.
        min_photos: fewest usable photos: one more than the neighbours of each.
        rejected_path: where the reasons are written, for the message.

    Raises:
        ValueError: if more than the share is rejected or fewer than `min_photos` are usable.
    """
    num_photos = len(images) + len(rejected)
    share = len(rejected) / max(1, num_photos)
    found = f"{len(rejected)} of {num_photos} photos of {images.root} are unusable"
    if rejected:
        found += f" ({common_reasons(rejected)}; all reasons are in {rejected_path})"
    if len(images) == 0:
        raise ValueError(f"no photo is left: {found}; repair them or give another source")
    if share > max_rejected_share:
        raise ValueError(
            f"too many photos rejected, {share:.1%} where {max_rejected_share:.1%} are allowed: {found}; "
            "repair them, or allow more with --scan.max-rejected-share"
        )
    if len(images) < min_photos:
        raise ValueError(
            f"only {len(images)} usable photos, but at least {min_photos} are needed, one more than the "
            f"neighbours of each: {found}; add photos or ask for fewer neighbours"
        )


def common_reasons(rejected: Sequence[Rejected]) -> str:
    """The most frequent kinds of reasons, with how often each was met: '3 truncated, 1 empty'."""
    kinds = Counter(photo.reason.split(":")[0] for photo in rejected)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(3))


def _scan_photo(root: Path, name: str, min_side_px: int, max_pixels: int) -> Accepted | Rejected:
    if not _is_unicode(name):
        return Rejected(name, f"name is not Unicode: {name!r}; rename the file")
    try:
        height, width, _ = load_photo(root / name, max_pixels).shape
        digest = tables.file_digest(root / name)
    except PhotoError as error:
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
            f"a process that scans photos died after {_num_scanned(futures)} of {sum(map(len, chunks))} "
            "photos: killed, or out of memory? Lower the number of workers, or set it to 1 to scan in this process"
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
        verdicts.append(_scan_photo(root, name, min_side_px, max_pixels))
    return verdicts
