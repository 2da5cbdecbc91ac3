import shutil

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from tests.figures.conftest import NUM_PROPOSALS, frames, rewrite_table, texts
from tests.finished_run import NUM_IMAGES

from orl import tables
from orl.datasets.image_table import load_image_table
from orl.figures.correspondence_figure import PAIR_COLOURS
from orl.figures.figure_files import FigureFile
from orl.figures.proposal_figure import ProposalOptions, draw_boxes, draw_found_and_kept, proposal_figure
from orl.rundir import RunDir

SMALL = FigureFile(dpi=40)

BOXES = np.array([[0, 0, 10, 10], [5, 5, 35, 25], [2, 2, 20, 20]], dtype=np.float32)


def test_found_boxes_lie_on_the_first_image_and_kept_ones_on_the_second():
    axes = Figure().add_subplot()
    draw_found_and_kept(axes, np.zeros((30, 50, 3), dtype=np.uint8), BOXES, BOXES[1:2])
    assert [image.get_extent() for image in axes.images] == [[0, 50, 30, 0], [52, 102, 30, 0]]
    frames = [patch.get_bbox().extents.tolist() for patch in axes.patches]
    assert frames == [*BOXES[[1, 2, 0]].tolist(), [57, 5, 87, 25]]
    thin, bold = axes.patches[0].get_linewidth(), axes.patches[-1].get_linewidth()
    assert bold > 2 * thin
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 102), (30, 0))


def test_boxes_have_cycling_colours_from_the_largest_on():
    axes = Figure().add_subplot()
    draw_boxes(axes, BOXES.repeat(3, axis=0), linewidth=2)
    colours = [to_rgba(patch.get_edgecolor()) for patch in axes.patches]
    assert colours[:6] == [to_rgba(colour) for colour in PAIR_COLOURS]
    assert colours[6] == colours[0]
    assert {patch.get_linewidth() for patch in axes.patches} == {2}


def test_no_boxes_draw_no_frames():
    axes = Figure().add_subplot()
    draw_boxes(axes, BOXES[:0], linewidth=2)
    assert len(axes.patches) == 0


def test_proposals_and_rois_are_counted_and_drawn(discovered: RunDir, sheets: list[Figure]) -> None:
    proposal_figure(discovered, ProposalOptions(image="image_3.png", boxes=15), FigureFile())
    title = "Proposals of image_3.png and the RoIs kept of them"
    assert texts(sheets[0]) == [title, "found", "image_3.png", "15 of 40 proposals", "2 RoIs kept"]
    boxes = tables.load(discovered.table("proposals")).column("box")[3 * NUM_PROPOSALS : 4 * NUM_PROPOSALS].tolist()
    shown = frames(sheets[0])
    assert len(shown) == 15 + 2
    assert all(frame in boxes for frame in shown[:15])
    proposal_figure(discovered, ProposalOptions(image="image_3.png", boxes=100), FigureFile())
    assert texts(sheets[1])[3] == "40 of 40 proposals"
    assert sorted(frames(sheets[1])[:40]) == sorted(boxes)


def test_the_choice_of_proposals_depends_on_the_seed_and_the_image_only(
    discovered: RunDir, sheets: list[Figure]
) -> None:
    for options in (
        ProposalOptions(seed=1, rows=3, boxes=5),
        ProposalOptions(seed=2, rows=3, boxes=5),
        ProposalOptions(seed=1, image="image_3.png", boxes=5),
    ):
        proposal_figure(discovered, options, FigureFile())
    names = [
        [text for text in texts(figure) if text in load_image_table(discovered.images).names] for figure in sheets[:2]
    ]
    assert sorted(names[0]) == sorted(names[1]) != names[0]
    at = [each.index("image_3.png") for each in names]
    one, other, alone = frames(sheets[0], at[0]), frames(sheets[1], at[1]), frames(sheets[2])
    assert one == alone != other


def test_images_with_equal_proposals_have_choices_of_their_own(discovered: RunDir, sheets: list[Figure]) -> None:
    columns = {name: tables.load(discovered.table("proposals")).column(name) for name in ("image_id", "box")}
    columns["box"] = np.tile(columns["box"][:NUM_PROPOSALS], (NUM_IMAGES, 1))
    rewrite_table(discovered, "proposals", columns)
    proposal_figure(discovered, ProposalOptions(rows=1, boxes=5), FigureFile())
    assert frames(sheets[0], 0)[:5] != frames(sheets[0], 1)[:5]


def test_an_image_without_proposals_is_shown(discovered: RunDir, sheets: list[Figure]) -> None:
    one_box = {"image_id": np.array([5], np.int32), "box": np.array([[0, 0, 9, 9]], np.float32)}
    rewrite_table(discovered, "proposals", one_box)
    for name in ("image_3.png", "image_5.png"):
        proposal_figure(discovered, ProposalOptions(image=name), FigureFile())
    assert [texts(figure)[3] for figure in sheets] == ["0 of 0 proposals", "1 of 1 proposal"]


def test_rois_of_other_proposals_are_refused(discovered: RunDir) -> None:
    columns = {name: tables.load(discovered.table("rois")).column(name) for name in ("image_id", "box")}
    for fingerprint, is_refused in ((tables.load(discovered.table("proposals")).fingerprint, False), ("0123", True)):
        shutil.rmtree(discovered.table("rois"))
        tables.begin(discovered.table("rois"), {"proposals": fingerprint}, num_shards=1)
        tables.write_shard(discovered.table("rois"), 0, columns)
        if is_refused:
            with pytest.raises(ValueError, match="rois was made from other proposals; rebuild it"):
                proposal_figure(discovered, ProposalOptions(), SMALL)
        else:
            assert proposal_figure(discovered, ProposalOptions(), SMALL).exists()


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="boxes must be at least 1, got 0"):
        ProposalOptions(boxes=0)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        ProposalOptions(seed=-1)
