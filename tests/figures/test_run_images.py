import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from tests.figures.conftest import NUM_PROPOSALS, frames
from tests.finished_run import HEIGHT, WIDTH

from orl import tables
from orl.datasets.image_table import ImageTable, load_image_table, save_image_table
from orl.figures.correspondence_figure import CorrespondenceOptions, correspondence_figure
from orl.figures.figure_files import FigureFile
from orl.figures.proposal_figure import ProposalOptions, proposal_figure
from orl.figures.run_images import find_image
from orl.figures.sheets import SheetOptions
from orl.rundir import RunDir

SMALL = FigureFile(dpi=40)
KINDS = [
    (correspondence_figure, CorrespondenceOptions(rows=2, cols=2)),
    (proposal_figure, ProposalOptions(rows=2, cols=2)),
]


@pytest.mark.parametrize(("kind", "draw", "options"), [("correspondences", *KINDS[0]), ("proposals", *KINDS[1])])
def test_the_figure_is_written_into_the_run_and_is_the_same_each_time(
    discovered: RunDir, kind: str, draw: Callable[..., Path], options: SheetOptions
) -> None:
    path = draw(discovered, options, SMALL)
    assert path == discovered.root / "figures" / f"{kind}.png"
    before = path.read_bytes()
    with Image.open(path) as image:
        assert image.width == round(12.7 * 40)
    assert draw(discovered, options, SMALL).read_bytes() == before


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_figure_is_written_to_the_file_asked_for(discovered: RunDir, tmp_path: Path, suffix: str) -> None:
    to = tmp_path / "paper" / f"figure{suffix}"
    for draw, options in KINDS:
        assert draw(discovered, options, FigureFile(dpi=40, to=to)) == to
        assert to.stat().st_size > 1000
        to.unlink()
    assert not (discovered.root / "figures").exists()


def test_boxes_shrink_with_their_images(discovered: RunDir, sheets: list[Figure]) -> None:
    images = load_image_table(discovered.images)
    sizes_wh = [(400, 300), (300, 600), *images.sizes_wh[2:]]
    for image_id, size_wh in enumerate(sizes_wh[:2]):
        Image.new("RGB", size_wh).save(images.path(image_id))
    save_image_table(
        ImageTable(root=images.root, names=images.names, sizes_wh=tuple(sizes_wh), digests=images.digests),
        discovered.images,
    )
    correspondence_figure(discovered, CorrespondenceOptions(rows=1, cols=1), FigureFile(dpi=30))
    # At most 90 pixels high: 120x90 and 45x90, from 400x300 and 300x600.
    box, other = frames(sheets[0])
    np.testing.assert_allclose(box, np.array([8, 8, 40, 40]) * 0.3, rtol=1e-6)
    np.testing.assert_allclose(
        other, np.array([30, 10, 90, 60]) * 0.15 + np.array([1, 0, 1, 0]) * 120 * 1.04, rtol=1e-6
    )
    proposal_figure(discovered, ProposalOptions(image="image_1.png"), FigureFile(dpi=30))
    proposals = tables.load(discovered.table("proposals")).column("box")[NUM_PROPOSALS : 2 * NUM_PROPOSALS]
    np.testing.assert_allclose(sorted(frames(sheets[1])[:-2]), sorted((proposals * 0.15).tolist()), rtol=1e-6)
    np.testing.assert_allclose(
        sorted(frames(sheets[1])[-2:]),
        [np.array(box) * 0.15 + np.array([1, 0, 1, 0]) * 45 * 1.04 for box in ([8, 8, 40, 40], [30, 10, 90, 60])],
        rtol=1e-6,
    )


def test_each_figure_needs_its_own_tables_only(discovered: RunDir) -> None:
    shutil.rmtree(discovered.table("correspondences"))
    assert proposal_figure(discovered, ProposalOptions(), SMALL).exists()
    shutil.rmtree(discovered.table("proposals"))
    for (draw, options), name in zip(KINDS, ("correspondences", "proposals")):
        message = rf"no table of {name} yet; make it with 'orl discover --out .*found'"
        with pytest.raises(FileNotFoundError, match=message):
            draw(discovered, options, SMALL)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for draw, options in KINDS:
        with pytest.raises(FileNotFoundError, match=r"no run at .*: there is no config\.yaml in it"):
            draw(RunDir(tmp_path), options, SMALL)
    RunDir(tmp_path).config.write_text("{}")
    with pytest.raises(FileNotFoundError, match="no image table at"):
        proposal_figure(RunDir(tmp_path), ProposalOptions(), SMALL)


@pytest.mark.parametrize(("draw", "options"), KINDS)
def test_images_that_were_moved_or_changed_are_named(
    discovered: RunDir, draw: Callable[..., Path], options: SheetOptions
) -> None:
    images = load_image_table(discovered.images)
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(images.path(3))
    options = replace(options, image="image_3.png")
    with pytest.raises(ValueError, match=r"image_3\.png: has 97x64 px, and had 96x64 when the images were scanned"):
        draw(discovered, options, SMALL)
    images.root.rename(images.root.with_name("elsewhere"))
    with pytest.raises(ValueError, match=r"missing: .* at .*images\. If they have been moved, 'orl discover --images"):
        draw(discovered, options, SMALL)


def test_tables_of_other_images_are_refused(discovered: RunDir) -> None:
    images = load_image_table(discovered.images)
    fewer = {name: getattr(images, name)[:5] for name in ("names", "sizes_wh", "digests")}
    save_image_table(ImageTable(root=images.root, **fewer), discovered.images)
    for (draw, options), name in zip(KINDS, ("rois", "proposals")):
        with pytest.raises(ValueError, match=rf"row \d+ of .*/{name}: image_id is not one of the 5 images"):
            draw(discovered, options, SMALL)


def test_a_table_of_another_image_list_of_the_same_length_is_refused(discovered: RunDir) -> None:
    columns = {name: tables.load(discovered.table("rois")).column(name) for name in ("image_id", "box")}
    shutil.rmtree(discovered.table("rois"))
    tables.begin(discovered.table("rois"), {"images": "0123"}, num_shards=1)
    tables.write_shard(discovered.table("rois"), 0, columns)
    for draw, options in KINDS:
        with pytest.raises(ValueError, match="rois was made from another image list than the run has now; rebuild"):
            draw(discovered, options, SMALL)


def named(*names: str) -> ImageTable:
    return ImageTable(root=Path(), names=names, sizes_wh=((1, 1),) * len(names), digests=names)


def test_an_image_is_found_by_its_name_or_the_end_of_it() -> None:
    images = named("a/one.jpg", "b/c/two.jpg", "two.jpg", "b/d/three.jpg", "b/e/three.jpg")
    assert [find_image(images, name) for name in ("one.jpg", "c/two.jpg", "two.jpg", "d/three.jpg")] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"2 images of the run end in 'three\.jpg', such as b/d/three\.jpg, b/e/three"):
        find_image(images, "three.jpg")
    with pytest.raises(ValueError, match=r"no image 'ne\.jpg' among the 5 of the run; did you mean a/one\.jpg"):
        find_image(images, "ne.jpg")
    with pytest.raises(ValueError, match=r"no image 'xyz' among the 5 of the run; the first is a/one\.jpg"):
        find_image(images, "xyz")


def test_similar_names_are_found_among_many() -> None:
    images = named(*(f"train/{number:012d}.jpg" for number in range(20_000)))
    with pytest.raises(ValueError, match=r"did you mean train/000000015\d{3}\.jpg"):
        find_image(images, "00000001500.jpg")
