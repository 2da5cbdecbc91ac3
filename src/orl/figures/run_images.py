"""The images and tables of a run's folder, as figures want them: checked, and at the size they are shown in."""

import difflib
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from orl import tables
from orl.datasets.decode import ImageError, load_image
from orl.datasets.image_table import ImageTable, load_image_table
from orl.figures.pair_selection import image_rows
from orl.figures.sheets import thumbnail
from orl.rundir import RunDir
from orl.tables import Table

REBUILD = "rebuild it with 'orl discover --overwrite'"
MAX_NEAR_CANDIDATES = 2000


@dataclass(frozen=True)
class RunImages:
    """The images of a run, at the size that a sheet shows them in."""

    run: RunDir
    images: ImageTable
    dpi: int

    def whole(self, image_id: int) -> UInt8[ndarray, "h w 3"]:
        """An image in its own pixels.

        Raises:
            ValueError: if it cannot be read, or has another size than it had when the images were scanned.
        """
        try:
            image = load_image(self.images.path(image_id), None)
        except ImageError as error:
            raise ValueError(
                f"{error}; the images of this run were at {self.images.root}. If they have been moved, "
                f"'orl discover --images IMAGES --out {self.run.root}' finds them again"
            ) from error
        width, height = self.images.sizes_wh[image_id]
        if image.shape[:2] != (height, width):
            raise ValueError(
                f"image {self.images.path(image_id)} has {image.shape[1]}x{image.shape[0]} pixels, but had "
                f"{width}x{height} when it was scanned; {REBUILD}"
            )
        return image

    def small(self, image_id: int) -> tuple[UInt8[ndarray, "h w 3"], Float[ndarray, "4"]]:
        """An image, and what brings boxes from its own pixels to these.

        Raises:
            ValueError: as `whole`.
        """
        image = self.whole(image_id)
        shown = thumbnail(image, self.dpi)
        scale_xy = shown.shape[1] / image.shape[1], shown.shape[0] / image.shape[0]
        return shown, np.array([*scale_xy, *scale_xy], dtype=np.float32)


def load_run_images(run: RunDir) -> ImageTable:
    """The images of a run.

    Raises:
        FileNotFoundError: if there is no run, or it has not scanned its images.
    """
    if not (run.config.exists() or run.images.exists()):
        raise FileNotFoundError(f"no run at {run.root}: there is no {run.config.name} in it")
    return load_image_table(run.images)


def load_run_table(run: RunDir, name: str, images: ImageTable) -> Table:
    """A table of stage 2 that has rows of images.

    Raises:
        FileNotFoundError: if stage 2 has not left it.
        ValueError: if it is of other images.
    """
    try:
        table = tables.load(run.table(name))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{run.root} has no table of {name} yet; make it with 'orl discover --out {run.root}'"
        ) from error
    last = int(table.rows("image_id", table.num_rows - 1, table.num_rows)[0]) if table.num_rows else 0
    if last >= len(images):
        raise ValueError(f"{table.folder} has rows of image {last}, but there are {len(images):,} images; {REBUILD}")
    tables.check_image_list(table, images.fingerprint)
    return table


def rows_of(table: Table, image_id: int) -> Float[ndarray, "n 4"]:
    """The boxes of one image."""
    rows = image_rows(table, image_id)
    return table.rows("box", rows.start, rows.stop)


def boxes_of(rois: Table, rows: Int[ndarray, "p"], image_id: int) -> Float[ndarray, "p 4"]:
    """Some RoIs of this image, by their rows in the table.

    Raises:
        ValueError: if one of the rows is not of this image.
    """
    own = image_rows(rois, image_id)
    if not own.start <= rows.min() <= rows.max() < own.stop:
        raise ValueError(
            f"the correspondences name rows {rows.min()} to {rows.max()} of {rois.folder} for image {image_id}, which "
            f"has {len(own)} rows from {own.start} on: they were made from other RoIs; {REBUILD}"
        )
    return rois.rows("box", own.start, own.stop)[rows - own.start]


def find_image(images: ImageTable, name: str) -> int:
    """The image of this name, or the only one whose name ends in it after a slash.

    Raises:
        ValueError: if there is none, or several; near names are told.
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
    """Names like this one, of those that lie about it in the alphabet: comparing with all would take minutes."""
    by_last_part = sorted((each.rpartition("/")[2], each) for each in images.names)
    name = name.rpartition("/")[2]
    at = bisect_left(by_last_part, (name, ""))
    candidates = dict(by_last_part[max(0, at - MAX_NEAR_CANDIDATES // 2) : at + MAX_NEAR_CANDIDATES // 2])
    return [candidates[each] for each in difflib.get_close_matches(name, candidates, n=3)]
