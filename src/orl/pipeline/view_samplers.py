"""View samplers of stages 1 and 3, built from the config and the tables of a run."""

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from orl import tables
from orl.config import RunConfig
from orl.datasets.discovery_tables import open_discovery_table
from orl.datasets.image_table import ImageTable
from orl.pipeline.training_setup import view_distribution
from orl.rundir import RunDir
from orl.views.view_samplers import GlobalViewSampler, ObjectTable, ObjectViewSampler


def build_view_sampler(config: RunConfig, stage: str, images: ImageTable) -> GlobalViewSampler | ObjectViewSampler:
    """Build the view sampler of 'stage1' or 'stage3'.

    Raises:
        FileNotFoundError: if the stage is 'stage3' and stage 2 has not run.
        ValueError: if stage 2 was made from another image list, or one of its tables was rebuilt since.
    """
    if stage == "stage1":
        return GlobalViewSampler(images, view_distribution(config.stage1.views), config.seed)
    run, objects = RunDir(config.out), config.objects
    rois, correspondences = (open_discovery_table(run.table(name), images) for name in ("rois", "correspondences"))
    tables.check_inputs(correspondences)
    return ObjectViewSampler(
        images,
        view_distribution(config.stage3.views),
        object_table(rois, correspondences, len(images)),
        objects.roi_size_px,
        config.seed,
        jitter_min_iou=objects.jitter_min_iou,
    )


def object_table(rois: tables.Table, correspondences: tables.Table, num_images: int) -> ObjectTable:
    """Convert stage 2's tables to the form that the view sampler reads.

    Raises:
        ValueError: if an image has no RoI or no correspondence, or the rows are not in the order of the images.
    """
    roi_starts, _ = (_starts_of_all(table, num_images) for table in (rois, correspondences))
    roi_image_ids = rois.column("image_id")
    image_ids = correspondences.column("image_id")
    neighbour_ids = correspondences.column("neighbour_id")
    return ObjectTable(
        rois=np.array(rois.column("box"), dtype=np.float32),
        roi_starts=roi_starts,
        roi_image_ids=roi_image_ids,
        correspondences=np.stack([correspondences.column("roi"), correspondences.column("neighbour_roi")], axis=1),
        neighbour_slices=_pair_groups(image_ids, neighbour_ids, num_images),
    )


def _starts_of_all(table: tables.Table, num_images: int) -> Int[ndarray, "_"]:
    starts = table.row_starts(num_images)
    missing = np.flatnonzero(np.diff(starts) == 0)
    if len(missing):
        raise ValueError(
            f"table {table.folder} has no row of {len(missing)} images, such as image {missing[0]}, and stage 3 needs "
            "one of every image; make it again with 'orl discover --overwrite'"
        )
    return starts


def _pair_groups(
    image_ids: Int[ndarray, "p"], neighbour_ids: Int[ndarray, "p"], num_images: int
) -> list[Int[ndarray, "_ 2"]]:
    new_group = np.flatnonzero((np.diff(image_ids) != 0) | (np.diff(neighbour_ids) != 0)) + 1
    starts = np.concatenate([[0], new_group])
    groups = np.stack([starts, np.append(new_group, len(image_ids))], axis=1)
    return np.split(groups, np.searchsorted(image_ids[starts], np.arange(1, num_images)))
