"""Matching of published box pairs to rows of the table of RoIs."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32, Int64
from numpy import ndarray

from orl import tables
from orl.datasets.image_table import ImageTable
from orl.published_files import formats
from orl.published_files.take_rows import ranges, take_rows

PAIRS_AT_A_TIME = 4096
"""Pairs that are compared with all RoIs of their images at a time, which bounds the memory."""

TableColumns = dict[str, ndarray]


class PairMatcher:
    """Conversion of box pairs to the columns of correspondences; boxes must equal RoIs of their images bit for bit."""

    def __init__(self, images: ImageTable, folder: Path, path: Path) -> None:
        self._images, self._path = images, path
        self._rois, self._neighbours = tables.load(folder / "rois"), tables.load(folder / "neighbours")
        self._starts = self._rois.row_starts(len(images))

    def __call__(self, images: slice, pairs: list[Float32[ndarray, "_ 9"]]) -> TableColumns:
        """Return the correspondences of a slice of images; `similarity` is NaN, because published files have none.

        Raises:
            ValueError: if a box is not an RoI of its image, or a pair belongs to a neighbour that does not exist.
        """
        image_ids = np.repeat(np.arange(images.start, images.stop, dtype=np.int32), [len(part) for part in pairs])
        values = np.concatenate(pairs)
        neighbour_ids = self._neighbour_ids(images, image_ids, values[:, 0].astype(np.int64))
        columns = {
            "image_id": image_ids,
            "neighbour_id": neighbour_ids,
            "roi": self._roi_rows(image_ids, values[:, 1:5]),
            "neighbour_roi": self._roi_rows(neighbour_ids, values[:, 5:]),
            "similarity": np.full(len(values), np.nan, dtype=np.float32),
        }
        self._rois.release()
        return columns

    def _neighbour_ids(
        self, images: slice, image_ids: Int32[ndarray, "p"], ranks: Int64[ndarray, "p"]
    ) -> Int32[ndarray, "p"]:
        neighbour_ids = self._neighbours.rows("neighbour_ids", images.start, images.stop)
        number = neighbour_ids.shape[1]
        if ranks.max() >= number:
            image = self._images.names[image_ids[ranks.argmax()]]
            raise ValueError(
                f"{self._path}: image {image} has pairs with {ranks.max() + 1} neighbours and only {number} "
                "neighbours; 'knn_bbox_pair' and 'knn_image_id' belong to different runs"
            )
        return neighbour_ids[image_ids - images.start, ranks]

    def _roi_rows(self, image_ids: Int32[ndarray, "p"], boxes: Float32[ndarray, "p 4"]) -> Int64[ndarray, "p"]:
        """Find the row of each box among the RoIs of its image; of equal RoIs the first."""
        owners = np.unique(image_ids)
        starts, stops = self._starts[owners], self._starts[owners + 1]
        candidates, wanted = _bits(take_rows(self._rois, "box", ranges(starts, stops))), _bits(boxes)
        # First candidate of each owner.
        begins = np.cumsum(stops - starts) - (stops - starts)
        owner_of = np.searchsorted(owners, image_ids)
        rows = np.empty(len(boxes), dtype=np.int64)
        for part in tables.shard_slices(len(boxes), PAIRS_AT_A_TIME):
            owner = owner_of[part]
            counts = (stops - starts)[owner]
            candidate = ranges(begins[owner], begins[owner] + counts)
            pair = np.repeat(np.arange(len(owner)), counts)
            left, right = (candidates[candidate, half] == wanted[part][pair, half] for half in range(2))
            same = np.flatnonzero(left & right)
            found, first = np.unique(pair[same], return_index=True)
            if len(found) < len(owner):
                missing = part.start + int(np.setdiff1d(np.arange(len(owner)), found)[0])
                raise ValueError(self._unknown_box(boxes[missing], int(image_ids[missing])))
            rows[part] = (candidate[same[first]] - begins[owner]) + starts[owner]
        return rows

    def _unknown_box(self, box: Float32[ndarray, "4"], image_id: int) -> str:
        num_rois = self._starts[image_id + 1] - self._starts[image_id]
        return (
            f"{self._path}: a pair has the box {formats.boxes_to_json(box[None])[0]}, which is none of the {num_rois} "
            f"RoIs of {self._images.names[image_id]}; 'bbox' and 'knn_bbox_pair' belong to different runs"
        )


def _bits(boxes: Float32[ndarray, "n 4"]) -> Int64[ndarray, "n 2"]:
    """View each box as two integers, which are compared four times as fast; -0 counts as 0."""
    return np.ascontiguousarray(boxes + np.float32(0)).view(np.int64)
