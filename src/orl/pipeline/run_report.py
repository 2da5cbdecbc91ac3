"""Reports: one page about one run or several."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from orl.config import RunConfig, load_config
from orl.datasets.image_table import load_image_table
from orl.datasets.object_regions import read_object_regions
from orl.datasets.sources import read_labels
from orl.figures.attention_figure import attention_side_px
from orl.networks.device import compute_device
from orl.pipeline.view_samplers import build_view_sampler
from orl.report.options import Annotations, GalleryOptions
from orl.report.report import write_report
from orl.rundir import RunDir
from orl.views.view_samplers import GlobalViewSampler, ObjectViewSampler

logger = logging.getLogger(__name__)

Found = TypeVar("Found")


def report_runs(roots: Sequence[Path], path: Path | None = None) -> Path:
    """Write one page about runs from the files that they have so far, with the seed and device of the first.

    Args:
        roots: folders of the runs.
        path: the page; by default `report/index.html` of one run, `report/compare.html` in the first of several.

    Raises:
        FileNotFoundError: if a folder holds no run.
        ValueError: if no run is given, one is given twice, or a file of results is damaged.
    """
    for root in roots:
        if not (RunDir(root).config.exists() or RunDir(root).record.exists()):
            raise FileNotFoundError(f"no run at {root}: there is no {RunDir(root).config.name} in it")
    first = RunDir(roots[0]).config if roots else Path()
    options = _gallery_options(load_config(first)) if first.is_file() else None
    return write_report(roots, path, options, _annotations)


def optional_annotations(read: Callable[[Path, str | None], Found | None], config: RunConfig) -> Found | None:
    """Read labels of the images' own source; damaged ones are logged and left out, since training needs none."""
    try:
        return read(config.images, config.split)
    except (ValueError, OSError) as error:
        logger.warning("the annotations of %s are not used: %s", config.images, error)
        return None


def _gallery_options(config: RunConfig) -> GalleryOptions:
    # The report of a run on a GPU may be written on a machine without one.
    device = compute_device("cpu" if config.device == "cpu" else "auto")
    return GalleryOptions(seed=config.seed, device=str(device), attention_side_px=attention_side_px(config))


def _annotations(config: RunConfig) -> Annotations:
    def view_sampler(stage: str) -> GlobalViewSampler | ObjectViewSampler:
        return build_view_sampler(config, stage, load_image_table(RunDir(config.out).images))

    return Annotations(
        labels=optional_annotations(read_labels, config),
        regions=optional_annotations(read_object_regions, config),
        view_sampler=view_sampler,
    )
