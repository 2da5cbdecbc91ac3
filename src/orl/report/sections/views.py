"""The section of augmented views: the network's input for an image in each stage, and where it was cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from orl.datasets.decode import ImageError
from orl.figures.pictures import Picture, data_uri, encode_jpeg
from orl.figures.run_images import RunImages
from orl.figures.view_figure import SampleViews, read_sample
from orl.report.content import Figure, Note, Panel, Section
from orl.report.overlays import colour_class, overlay_boxes
from orl.report.runs import NOT_SHARED, ReportInputs
from orl.report.thumbnails import Thumbnails
from orl.views.view_samplers import GlobalViewSampler, ObjectViewSampler

NUM_IMAGES = 4
MAX_BYTES = 20_000
"""Size limit of a view."""
DPI = 110
"""Resolution at which the boxes of a sample are given; the page shows thumbnails of its own."""


@dataclass(frozen=True, kw_only=True)
class Views(Section):
    """Samples of each stage, by the name of the stage, of each run."""

    template = "views.html"
    stages: Mapping[str, Sequence[Figure | Note]]


def view_section(inputs: ReportInputs) -> Views:
    """Gather views of the first epoch of each stage of each run, by the code that training uses."""
    notes = [NOT_SHARED] if inputs.is_comparison and not inputs.shared_images() else []
    stages: dict[str, Sequence[Figure | Note]] = {}
    for run in inputs.runs:
        view_sampler_of, thumbnails = run.annotations.view_sampler, run.thumbnails
        if thumbnails is None or view_sampler_of is None:
            notes.append(run.note("Views can be shown once the images are scanned"))
            continue
        images = RunImages(run.run, thumbnails.images, DPI)
        for stage, name in run.trained_stages.items():
            try:
                view_sampler = view_sampler_of(stage)
            except (FileNotFoundError, ValueError) as error:
                notes.append(run.note(f"Views of {name} cannot be shown", error))
                continue
            stages[run.titled(name)] = [
                _sample_figure(thumbnails, images, view_sampler, image_id)
                for image_id in inputs.sample_images_of(run, NUM_IMAGES)
            ]
    return Views(title="Views", notes=notes, stages=stages)


def _sample_figure(
    thumbnails: Thumbnails, images: RunImages, view_sampler: GlobalViewSampler | ObjectViewSampler, image_id: int
) -> Figure | Note:
    """Return an image with the boxes of its views, the views, and the neighbour where there is one."""
    key = (0, image_id)
    names = thumbnails.images.names
    try:
        sample = read_sample(view_sampler, key, images)
        view_boxes = view_sampler.sample_boxes(key)
        order = {view: index for index, view in enumerate(sample.views)}
        panels = []
        for label, each in zip(("image", "neighbour"), dict.fromkeys(box.image_id for box in view_boxes.values())):
            own = {view: box for view, box in view_boxes.items() if box.image_id == each}
            boxes = np.stack([box.box for box in own.values()])
            picture = overlay_boxes(thumbnails.get(each), boxes, colours=[order[view] for view in own])
            panels.append(Panel(picture=picture, alt=f"{names[each]} with the boxes of its views", label=label))
    except (ImageError, ValueError) as error:
        return Note(f"{names[image_id]} cannot be shown; {error}")
    panels[1:1] = _view_panels(sample, order)
    return Figure(panels=panels, caption=" and ".join(sample.names), layout="row views")


def _view_panels(sample: SampleViews, order: Mapping[str, int]) -> list[Panel]:
    return [
        Panel(
            picture=_picture(view),
            alt=f"{sample.names[0]}, {name.replace('_', ' ')}",
            label=f"{name.replace('_', ' ')}, {view.shape[0]} px",
            kind=f"view {colour_class(order[name])}",
        )
        for name, view in sample.views.items()
    ]


def _picture(view: UInt8[ndarray, "s s 3"]) -> Picture:
    uri = data_uri("image/jpeg", encode_jpeg(view, MAX_BYTES, subsampling=0))
    return Picture(uri=uri, width_px=view.shape[1], height_px=view.shape[0])
