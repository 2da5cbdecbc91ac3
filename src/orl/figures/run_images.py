"""The images and tables of a run, checked for a figure, and the choice of the images to show."""

import difflib
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from orl.datasets.decode import ImageError
from orl.datasets.discovery_tables import open_discovery_table
from orl.datasets.image_table import ImageTable, load_image_table
from orl.figures.pair_selection import image_rows
from orl.figures.sheets import shrink_to_cell
from orl.rundir import RunDir
from orl.tables import Table
from orl.views.cut import read_listed_image

REBUILD = "rebuild it with 'orl discover --overwrite'"
MAX_NEAR_CANDIDATES = 2000


@dataclass(frozen=True)
class RunImages:
    """The images of a run, decoded for figures of a resolution."""

    run: RunDir
    images: ImageTable
    dpi: int

    def load(self, image_id: int) -> UInt8[ndarray, "h w 3"]:
        """Decode an image at its full size.

        Raises:
            ValueError: if it cannot be read, or its size has changed since the scan.
        """
        try:
            return read_listed_image(self.images, image_id)
        except ImageError as error:
            raise ValueError(
                f"{error}; the images of this run were at {self.images.root}. If they have been moved, "
                f"'orl discover --images IMAGES --out {self.run.root}' finds them again"
            ) from error

    def load_thumbnail(self, image_id: int) -> tuple[UInt8[ndarray, "h w 3"], Float[ndarray, "4"]]:
        """Decode an image at the size that a sheet shows.

        Returns:
            The image, and the factors that bring boxes from its full size to this size.

        Raises:
            ValueError: if it cannot be read, or its size has changed since the scan.
        """
        image = self.load(image_id)
        small = shrink_to_cell(image, self.dpi)
        scale_xy = small.shape[1] / image.shape[1], small.shape[0] / image.shape[0]
        return small, np.array([*scale_xy, *scale_xy], dtype=np.float32)


def load_run_images(run: RunDir) -> ImageTable:
    """Load the table of a run's images.

    Raises:
        FileNotFoundError: if there is no run, or its images have not been scanned.
    """
    if not (run.config.exists() or run.images.exists()):
        raise FileNotFoundError(f"no run at {run.root}: there is no {run.config.name} in it")
    return load_image_table(run.images)


def open_run_table(run: RunDir, name: str, images: ImageTable) -> Table:
    """Open a table of stage 2 that was made from these images, and verify all of it.

    Raises:
        FileNotFoundError: if stage 2 has not written it yet.
        ValueError: if it was made from other images, is damaged, or has a value out of range.
    """
    try:
        table = open_discovery_table(run.table(name), images)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{run.root} has no table of {name} yet; make it with 'orl discover --out {run.root}'"
        ) from error
    table.verify()
    return table


def rows_of(table: Table, image_id: int) -> Float[ndarray, "n 4"]:
    """Return the boxes of one image."""
    rows = image_rows(table, image_id)
    return table.rows("box", rows.start, rows.stop)


def boxes_of(rois: Table, rows: Int[ndarray, "p"], image_id: int) -> Float[ndarray, "p 4"]:
    """Return some RoIs of an image by their rows in the table, which was checked when it was opened."""
    own = image_rows(rois, image_id)
    return rois.rows("box", own.start, own.stop)[rows - own.start]


def choose_image_ids(images: ImageTable, name: str | None, num_images: int, seed: int) -> list[int]:
    """Return the image of this name, or without a name a random choice of images.

    Raises:
        ValueError: if there is no such image, or several.
    """
    if name is not None:
        return [find_image(images, name)]
    return np.random.default_rng(seed).permutation(len(images))[:num_images].tolist()


def find_image(images: ImageTable, name: str) -> int:
    """Return the image of this name, or the only image whose name ends in a slash and this name.

    Raises:
        ValueError: if there is none, or several; the message suggests similar names.
    """
    if name in images.names:
        return images.names.index(name)
    found = [image_id for image_id, each in enumerate(images.names) if each.endswith(f"/{name}")]
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(images.names[image_id] for image_id in found[:3])
        raise ValueError(f"{len(found)} images of the run end in {name!r}, such as {some}; give more of the name")
    near = _near_names(images, name)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the first is {images.names[0]}"
    raise ValueError(f"no image {name!r} among the {len(images):,} of the run; {hint}")


def _near_names(images: ImageTable, name: str) -> list[str]:
    """Return similar names, searched near the name in the alphabet: a search of all would take minutes."""
    by_last_part = sorted((each.rpartition("/")[2], each) for each in images.names)
    name = name.rpartition("/")[2]
    at = bisect_left(by_last_part, (name, ""))
    candidates = dict(by_last_part[max(0, at - MAX_NEAR_CANDIDATES // 2) : at + MAX_NEAR_CANDIDATES // 2])
    return [candidates[each] for each in difflib.get_close_matches(name, candidates, n=3)]
