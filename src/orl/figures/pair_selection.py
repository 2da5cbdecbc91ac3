"""Choice of the pairs of images to show, from a correspondence table that may be larger than the memory."""

from bisect import bisect_left
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from orl.tables import Table

IMAGES_PER_BLOCK = 4096
POOL_SIZE = 4096


def rank_column(correspondences: Table) -> str:
    """Return the column that pairs were chosen by: `score` where there is one, else the cosine."""
    return "score" if correspondences.num_rows and "score" in correspondences.column_names else "similarity"


def image_rows(table: Table, image_id: int) -> range:
    """Find the rows of one image by binary search; the table is in the order of the images."""

    def image_id_of(row: int) -> int:
        return int(table.rows("image_id", row, row + 1)[0])

    rows = range(table.num_rows)
    start = bisect_left(rows, image_id, key=image_id_of)
    return range(start, bisect_left(rows, image_id + 1, lo=start, key=image_id_of))


def ranked_neighbours(correspondences: Table, image_id: int) -> tuple[Int[ndarray, "k"], Float[ndarray, "k"]]:
    """Return the neighbours that an image has correspondences in, nearest first.

    Returns:
        The neighbours, and the score of the best correspondence in each.
    """
    rows = image_rows(correspondences, image_id)
    _, neighbour_ids, similarities = _best_of_each(correspondences, rows.start, rows.stop)
    return neighbour_ids, similarities


def best_correspondences(
    correspondences: Table, image_id: int, neighbour_id: int, num_pairs: int
) -> tuple[Int[ndarray, "p"], Int[ndarray, "p"], Float[ndarray, "p"]]:
    """Return the best correspondences of two images: RoIs, matched RoIs and cosines, best first."""
    rows = image_rows(correspondences, image_id)
    there, rois, neighbour_rois, similarities, scores = (
        correspondences.rows(name, rows.start, rows.stop)
        for name in ("neighbour_id", "roi", "neighbour_roi", "similarity", rank_column(correspondences))
    )
    own = np.flatnonzero(there == neighbour_id)
    best = own[np.argsort(-scores[own], kind="stable")[:num_pairs]]
    return rois[best], neighbour_rois[best], similarities[best]


def extreme_pairs(
    correspondences: Table,
    num_images: int,
    num_pairs: int,
    sign: int,
    images_per_block: int = IMAGES_PER_BLOCK,
    pool_size: int = POOL_SIZE,
) -> list[tuple[int, int]]:
    """Choose the pairs of images whose best correspondence is the most similar, or the least.

    Args:
        correspondences: correspondence table.
        num_images: number of images of the run.
        num_pairs: number of pairs to choose.
        sign: 1 for the most similar, -1 for the least.
        images_per_block: number of images whose rows are read at a time.
        pool_size: number of candidates that are kept; it grows when these share too many images.

    Returns:
        Pairs (image, neighbour), the most extreme first; among equals the first in the table.
    """
    while True:
        pool: list[ndarray] = [np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)]
        num_seen = 0
        for block in _blocks(correspondences, num_images, images_per_block):
            num_seen += len(block[0])
            pool = [np.concatenate(columns) for columns in zip(pool, block)]
            # NaN, an unknown similarity of an imported table, is sorted last and so dropped first.
            kept = np.argsort(-sign * pool[2], kind="stable")[:pool_size]
            pool = [column[kept] for column in pool]
        chosen = top_correspondences(pool[0], pool[1], sign * pool[2], num_pairs)
        if len(chosen) == num_pairs or num_seen <= pool_size:
            return [(int(pool[0][row]), int(pool[1][row])) for row in chosen]
        pool_size *= 8


def top_correspondences(
    image_ids: Int[ndarray, "n"],
    neighbour_ids: Int[ndarray, "n"],
    similarities: Float[ndarray, "n"],
    num_pairs: int,
) -> list[int]:
    """Choose the most similar pairs: one per query image, and one for two images that are neighbours of each other.

    Args:
        image_ids: query image of each row of the correspondence table.
        neighbour_ids: neighbour of each row.
        similarities: cosine of the two RoIs of each row.
        num_pairs: number of pairs to choose, at most one per query image.

    Returns:
        Rows of the table, most similar first; among equals the first row.
    """
    chosen: list[int] = []
    seen_queries: set[int] = set()
    seen_images: set[frozenset[int]] = set()
    for row in np.argsort(-similarities, kind="stable"):
        query, images = int(image_ids[row]), frozenset((int(image_ids[row]), int(neighbour_ids[row])))
        if len(chosen) == num_pairs:
            break
        if query not in seen_queries and images not in seen_images:
            chosen.append(int(row))
            seen_queries.add(query)
            seen_images.add(images)
    return chosen


def random_pairs(
    correspondences: Table, num_images: int, num_pairs: int, generator: np.random.Generator
) -> list[tuple[int, int]]:
    """Sample images at random, each with a random neighbour, as stage 3 mostly does."""
    pairs: list[tuple[int, int]] = []
    for image_id in map(int, generator.permutation(num_images)):
        if len(pairs) == num_pairs:
            break
        neighbour_ids, _ = ranked_neighbours(correspondences, image_id)
        if len(neighbour_ids):
            pairs.append((image_id, int(generator.choice(np.unique(neighbour_ids)))))
    return pairs


def first_pairs(correspondences: Table, num_images: int, num_pairs: int) -> list[tuple[int, int]]:
    """Return the first images of the run, each with its nearest neighbour."""
    pairs: list[tuple[int, int]] = []
    for image_id in range(num_images):
        if len(pairs) == num_pairs:
            break
        neighbour_ids, _ = ranked_neighbours(correspondences, image_id)
        pairs += [(image_id, int(neighbour_id)) for neighbour_id in neighbour_ids[:1]]
    return pairs


def _blocks(
    correspondences: Table, num_images: int, images_per_block: int
) -> Iterator[tuple[Int[ndarray, "n"], Int[ndarray, "n"], Float[ndarray, "n"]]]:
    for first in range(0, num_images, images_per_block):
        start, stop = (image_rows(correspondences, image_id).start for image_id in (first, first + images_per_block))
        yield _best_of_each(correspondences, start, stop)
        correspondences.release()


def _best_of_each(
    correspondences: Table, start: int, stop: int
) -> tuple[Int[ndarray, "n"], Int[ndarray, "n"], Float[ndarray, "n"]]:
    """Return image, neighbour and best score of each pair of images in some rows, in the order of the rows."""
    image_ids, neighbour_ids, scores = (
        correspondences.rows(name, start, stop) for name in ("image_id", "neighbour_id", rank_column(correspondences))
    )
    if start == stop:
        return image_ids, neighbour_ids, scores
    is_first = np.r_[True, (np.diff(image_ids) != 0) | (np.diff(neighbour_ids) != 0)]
    firsts = np.flatnonzero(is_first)
    return image_ids[firsts], neighbour_ids[firsts], np.fmax.reduceat(scores, firsts)
