import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from tests.finished_run import HEIGHT, NUM_IMAGES, WIDTH, write_images, write_table, write_tables

from orl import tables
from orl.cli import main
from orl.datasets.image_table import ImageTable, load_image_table, save_image_table
from orl.figures import sheets
from orl.figures.discovery_figures import correspondence_sheet, proposal_sheet
from orl.figures.run_images import find_image
from orl.figures.sheets import SheetOptions
from orl.rundir import RunDir

NUM_PROPOSALS = 40
SMALL = SheetOptions(rows=2, cols=2, dpi=40)


@pytest.fixture
def found(tmp_path: Path) -> RunDir:
    """A run with the tables of stage 2 and nothing else."""
    run = RunDir(tmp_path / "runs" / "found")
    write_images(run, tmp_path / "images")
    write_tables(run)
    write_proposals(run, NUM_PROPOSALS)
    return run


def write_proposals(run: RunDir, num_boxes: int) -> None:
    corners = np.random.default_rng(0).integers(0, 30, (NUM_IMAGES * num_boxes, 2))
    boxes = np.concatenate([corners, corners + 20], axis=1).astype(np.float32)
    shutil.rmtree(run.table("proposals"), ignore_errors=True)
    image_ids = np.arange(NUM_IMAGES, dtype=np.int32).repeat(num_boxes)
    write_table(run, "proposals", {"image_id": image_ids, "box": boxes})


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The sheets that were made, instead of files."""
    figures: list[Figure] = []
    monkeypatch.setattr(sheets, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def frames(figure: Figure, at: int = 0) -> list[list[float]]:
    return [patch.get_bbox().extents.tolist() for patch in figure.axes[at].patches]


def write_correspondences(run: RunDir, **columns: list) -> None:
    shutil.rmtree(run.table("correspondences"))
    kinds = {"roi": np.int64, "neighbour_roi": np.int64, "similarity": np.float32}
    write_table(
        run, "correspondences", {name: np.array(each, kinds.get(name, np.int32)) for name, each in columns.items()}
    )


@pytest.mark.parametrize(("make", "name"), [(correspondence_sheet, "correspondences"), (proposal_sheet, "proposals")])
def test_the_picture_lies_in_the_run_and_is_the_same_each_time(found: RunDir, make, name: str) -> None:
    path = make(found, SMALL)
    assert path == found.root / "figures" / f"{name}.png"
    before = path.read_bytes()
    with Image.open(path) as image:
        assert image.width == round(12.7 * 40)
    assert make(found, SMALL).read_bytes() == before


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_picture_goes_where_it_is_asked_for(found: RunDir, tmp_path: Path, suffix: str) -> None:
    to = tmp_path / "paper" / f"figure{suffix}"
    for make in (correspondence_sheet, proposal_sheet):
        assert make(found, SheetOptions(rows=1, cols=1, dpi=40, to=to)) == to
        assert to.stat().st_size > 1000
        to.unlink()
    assert not (found.root / "figures").exists()


def test_the_best_pairs_are_named_with_their_similarity(found: RunDir, drawn: list[Figure]) -> None:
    correspondence_sheet(found, SheetOptions(rows=1, cols=2))
    images = load_image_table(found.images)
    # Image 0 with its neighbours 1, 2, 3 has the rows 0 to 2 of 0.95 to 0.5 in 18 steps; image 1 begins at row 3,
    # with image 0, whose pair is shown already, then image 2.
    step = (0.95 - 0.5) / 17
    shown = [f"{0.95:.3f}", f"{0.95 - 4 * step:.3f}"]
    expected = ["The most similar correspondences", "found", images.names[0], images.names[1], "similarity", shown[0]]
    assert words(drawn[0]) == [*expected, images.names[1], images.names[2], "similarity", shown[1]]
    box, other = frames(drawn[0])
    assert box == [8, 8, 40, 40]
    np.testing.assert_allclose(other, np.array([30, 10, 90, 60]) + np.array([1, 0, 1, 0]) * WIDTH * 1.04, rtol=1e-6)


def test_boxes_shrink_with_their_images(found: RunDir, drawn: list[Figure]) -> None:
    images = load_image_table(found.images)
    sizes_wh = [(400, 300), (300, 600), *images.sizes_wh[2:]]
    for image_id, size_wh in enumerate(sizes_wh[:2]):
        Image.new("RGB", size_wh).save(images.path(image_id))
    save_image_table(
        ImageTable(root=images.root, names=images.names, sizes_wh=tuple(sizes_wh), digests=images.digests), found.images
    )
    correspondence_sheet(found, SheetOptions(rows=1, cols=1, dpi=30))
    # At most 90 pixels high: 120x90 and 45x90, from 400x300 and 300x600.
    box, other = frames(drawn[0])
    np.testing.assert_allclose(box, np.array([8, 8, 40, 40]) * 0.3, rtol=1e-6)
    np.testing.assert_allclose(
        other, np.array([30, 10, 90, 60]) * 0.15 + np.array([1, 0, 1, 0]) * 120 * 1.04, rtol=1e-6
    )
    proposal_sheet(found, SheetOptions(image="image_1.png", dpi=30))
    proposals = tables.load(found.table("proposals")).column("box")[NUM_PROPOSALS : 2 * NUM_PROPOSALS]
    np.testing.assert_allclose(sorted(frames(drawn[1])[:-2]), sorted((proposals * 0.15).tolist()), rtol=1e-6)
    np.testing.assert_allclose(
        sorted(frames(drawn[1])[-2:]),
        [np.array(box) * 0.15 + np.array([1, 0, 1, 0]) * 45 * 1.04 for box in ([8, 8, 40, 40], [30, 10, 90, 60])],
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("order", "neighbours"), [("top", [3, 0, 1]), ("lowest", [1, 0, 3]), ("image", [0, 1, 3]), ("random", [0, 1, 3])]
)
def test_the_neighbours_of_one_image_come_in_the_order_asked_for(
    found: RunDir, drawn: list[Figure], order: str, neighbours: list[int]
) -> None:
    # Two RoIs of an image: image 2 has rows 4 and 5 of rois.
    write_correspondences(
        found,
        image_id=[2] * 4,
        neighbour_id=[0, 1, 3, 3],
        roi=[4, 4, 5, 4],
        neighbour_roi=[0, 2, 6, 7],
        similarity=[0.5, 0.4, 0.3, 0.9],
    )
    options = SheetOptions(image="image_2.png")
    correspondence_sheet(found, options, order)
    names = load_image_table(found.images).names
    shown = [text for text in words(drawn[0])[2:] if text in names and text != "image_2.png"]
    assert words(drawn[0])[0].startswith("image_2.png, ")
    if order == "random":
        shown.sort(key=names.index)
    assert shown == [names[index] for index in neighbours]
    if order == "top":
        assert words(drawn[0])[4:7] == ["similarity", "0.900", "0.300"]
        assert [frame[:2] for frame in frames(drawn[0])[::2]] == [[8, 8], [30, 10]]
        correspondence_sheet(found, options, order, num_pairs=1)
        assert len(frames(drawn[1])) == 2


def test_orders_of_the_whole_run_differ_in_what_they_show(found: RunDir, drawn: list[Figure]) -> None:
    similarities = tables.load(found.table("correspondences")).column("similarity")
    for order in ("top", "lowest", "image", "random"):
        correspondence_sheet(found, SheetOptions(rows=6, cols=1), order)
    told = [[text for text in words(figure) if re.fullmatch(r"0\.\d{3}", text)] for figure in drawn]
    assert told[0][0] == f"{similarities.max():.3f}"
    assert told[1][0] == f"{similarities.min():.3f}"
    assert told[2] == [f"{value:.3f}" for value in similarities[::3]]
    assert sorted(told[3]) != sorted(told[2])
    assert len({words(figure)[0] for figure in drawn}) == 4
    seeds = [SheetOptions(rows=6, cols=1, seed=seed) for seed in (0, 0, 1)]
    for options in seeds:
        correspondence_sheet(found, options, "random")
    assert words(drawn[4]) == words(drawn[5]) != words(drawn[6])


def test_similarities_that_are_not_known_are_dashes_and_give_no_order(found: RunDir, drawn: list[Figure]) -> None:
    write_correspondences(found, image_id=[0], neighbour_id=[1], roi=[0], neighbour_roi=[2], similarity=[np.nan])
    for order in ("random", "image"):
        correspondence_sheet(found, SMALL, order)
    assert [words(figure)[-1] for figure in drawn] == ["–", "–"]
    for order in ("top", "lowest"):
        with pytest.raises(ValueError, match=f"holds no similarities .* no order '{order}'; take --order random"):
            correspondence_sheet(found, SMALL, order)


def test_proposals_and_rois_are_counted_and_drawn(found: RunDir, drawn: list[Figure]) -> None:
    proposal_sheet(found, SheetOptions(image="image_3.png"), num_boxes=15)
    heading = "Proposals of image_3.png and the RoIs kept of them"
    assert words(drawn[0]) == [heading, "found", "image_3.png", "15 of 40 proposals", "2 RoIs kept"]
    boxes = tables.load(found.table("proposals")).column("box")[3 * NUM_PROPOSALS : 4 * NUM_PROPOSALS].tolist()
    shown = frames(drawn[0])
    assert len(shown) == 15 + 2
    assert all(frame in boxes for frame in shown[:15])
    proposal_sheet(found, SheetOptions(image="image_3.png"), num_boxes=100)
    assert words(drawn[1])[3] == "40 of 40 proposals"
    assert sorted(frames(drawn[1])[:40]) == sorted(boxes)


def test_the_choice_of_proposals_follows_the_seed_and_the_image_only(found: RunDir, drawn: list[Figure]) -> None:
    for options in (
        SheetOptions(seed=1, rows=3),
        SheetOptions(seed=2, rows=3),
        SheetOptions(seed=1, image="image_3.png"),
    ):
        proposal_sheet(found, options, num_boxes=5)
    names = [[text for text in words(figure) if text in load_image_table(found.images).names] for figure in drawn[:2]]
    assert sorted(names[0]) == sorted(names[1]) != names[0]
    at = [each.index("image_3.png") for each in names]
    one, other, alone = frames(drawn[0], at[0]), frames(drawn[1], at[1]), frames(drawn[2])
    assert one == alone != other


def test_images_with_equal_proposals_have_choices_of_their_own(found: RunDir, drawn: list[Figure]) -> None:
    columns = {name: tables.load(found.table("proposals")).column(name) for name in ("image_id", "box")}
    shutil.rmtree(found.table("proposals"))
    write_table(found, "proposals", {**columns, "box": np.tile(columns["box"][:NUM_PROPOSALS], (NUM_IMAGES, 1))})
    proposal_sheet(found, SheetOptions(rows=1), num_boxes=5)
    assert frames(drawn[0], 0)[:5] != frames(drawn[0], 1)[:5]


def test_per_image_without_proposals_is_shown(found: RunDir, drawn: list[Figure]) -> None:
    shutil.rmtree(found.table("proposals"))
    write_table(found, "proposals", {"image_id": np.array([5], np.int32), "box": np.array([[0, 0, 9, 9]], np.float32)})
    proposal_sheet(found, SheetOptions(image="image_3.png"))
    proposal_sheet(found, SheetOptions(image="image_5.png"))
    assert [words(figure)[3] for figure in drawn] == ["0 of 0 proposals", "1 of 1 proposal"]


def test_each_figure_needs_its_own_tables_only(found: RunDir) -> None:
    shutil.rmtree(found.table("correspondences"))
    assert proposal_sheet(found, SMALL).exists()
    shutil.rmtree(found.table("proposals"))
    for make, name in ((correspondence_sheet, "correspondences"), (proposal_sheet, "proposals")):
        with pytest.raises(
            FileNotFoundError, match=rf"no table of {name} yet; make it with 'orl discover --out .*found'"
        ):
            make(found, SMALL)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for make in (correspondence_sheet, proposal_sheet):
        with pytest.raises(FileNotFoundError, match=r"no run at .*: there is no config\.yaml in it"):
            make(RunDir(tmp_path), SMALL)
    RunDir(tmp_path).config.write_text("{}")
    with pytest.raises(FileNotFoundError, match="no image table at"):
        proposal_sheet(RunDir(tmp_path), SMALL)


@pytest.mark.parametrize("make", [correspondence_sheet, proposal_sheet])
def test_images_that_were_moved_or_changed_are_named(found: RunDir, make) -> None:
    images = load_image_table(found.images)
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(images.path(3))
    options = SheetOptions(image="image_3.png")
    with pytest.raises(ValueError, match=r"image_3\.png has 97x64 pixels, but had 96x64 when it was scanned; rebuild"):
        make(found, options)
    images.root.rename(images.root.with_name("elsewhere"))
    with pytest.raises(ValueError, match=r"missing: .* at .*images\. If they have been moved, 'orl discover --images"):
        make(found, options)


def test_tables_of_other_images_are_refused(found: RunDir) -> None:
    images = load_image_table(found.images)
    fewer = {name: getattr(images, name)[:5] for name in ("names", "sizes_wh", "digests")}
    save_image_table(ImageTable(root=images.root, **fewer), found.images)
    for make, name in ((correspondence_sheet, "rois"), (proposal_sheet, "proposals")):
        with pytest.raises(ValueError, match=rf"{name} has rows of image 5, but there are 5 images; rebuild it with"):
            make(found, SMALL)


def test_a_table_of_another_image_list_of_the_same_length_is_refused(found: RunDir) -> None:
    columns = {name: tables.load(found.table("rois")).column(name) for name in ("image_id", "box")}
    shutil.rmtree(found.table("rois"))
    tables.begin(found.table("rois"), {"images": "0123"}, num_shards=1)
    tables.write_shard(found.table("rois"), 0, columns)
    for make in (correspondence_sheet, proposal_sheet):
        with pytest.raises(ValueError, match="rois was made from another image list than the run has now; rebuild"):
            make(found, SMALL)


@pytest.mark.parametrize(
    ("neighbour_id", "neighbour_roi", "message"),
    [(1, 1, "rows 1 to 1 .* for image 1, which has 2 rows from 2 on"), (1, 4, "rows 4 to 4"), (9, 2, "for image 9")],
)
def test_correspondences_of_other_rois_are_refused(
    found: RunDir, neighbour_id: int, neighbour_roi: int, message: str
) -> None:
    columns = {"image_id": [0], "roi": [0], "similarity": [0.5]}
    write_correspondences(found, **columns, neighbour_id=[neighbour_id], neighbour_roi=[neighbour_roi])
    with pytest.raises(ValueError, match=message):
        correspondence_sheet(found, SMALL)


def test_rois_of_other_proposals_are_refused(found: RunDir) -> None:
    columns = {name: tables.load(found.table("rois")).column(name) for name in ("image_id", "box")}
    for fingerprint, is_refused in ((tables.load(found.table("proposals")).fingerprint, False), ("0123", True)):
        shutil.rmtree(found.table("rois"))
        tables.begin(found.table("rois"), {"proposals": fingerprint}, num_shards=1)
        tables.write_shard(found.table("rois"), 0, columns)
        if is_refused:
            with pytest.raises(ValueError, match="rois was made from other proposals; rebuild it"):
                proposal_sheet(found, SMALL)
        else:
            assert proposal_sheet(found, SMALL).exists()


def test_nothing_to_draw_is_refused(found: RunDir) -> None:
    write_correspondences(found, image_id=[0], neighbour_id=[1], roi=[0], neighbour_roi=[2], similarity=[0.5])
    with pytest.raises(ValueError, match=r"holds no correspondences of image_3\.png; nothing can be drawn"):
        correspondence_sheet(found, SheetOptions(image="image_3.png"))
    write_correspondences(found, image_id=[], neighbour_id=[], roi=[], neighbour_roi=[], similarity=[])
    with pytest.raises(ValueError, match="holds no correspondences of this run; nothing can be drawn"):
        correspondence_sheet(found, SMALL)


def test_numbers_out_of_range_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    nowhere = RunDir(tmp_path / "nowhere")
    for num_pairs in (0, 7):
        with pytest.raises(ValueError, match=f"pairs must be from 1 to 6, one a colour, not {num_pairs}"):
            correspondence_sheet(nowhere, SMALL, "top", num_pairs)
    with pytest.raises(ValueError, match="boxes must be at least 1, not 0"):
        proposal_sheet(nowhere, SMALL, 0)
    for make in (correspondence_sheet, proposal_sheet):
        with pytest.raises(ValueError, match="rows must be at least 1, not 0"):
            make(nowhere, SheetOptions(rows=0))


def named(*names: str) -> ImageTable:
    return ImageTable(root=Path(), names=names, sizes_wh=((1, 1),) * len(names), digests=names)


def test_per_image_is_found_by_its_name_or_the_end_of_it() -> None:
    images = named("a/one.jpg", "b/c/two.jpg", "two.jpg", "b/d/three.jpg", "b/e/three.jpg")
    assert [find_image(images, name) for name in ("one.jpg", "c/two.jpg", "two.jpg", "d/three.jpg")] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"2 images of the run end in 'three\.jpg', such as b/d/three\.jpg, b/e/three"):
        find_image(images, "three.jpg")
    with pytest.raises(ValueError, match=r"no image 'ne\.jpg' among the 5 of the run; did you mean a/one\.jpg"):
        find_image(images, "ne.jpg")
    with pytest.raises(ValueError, match=r"no image 'xyz' among the 5 of the run; the first is a/one\.jpg"):
        find_image(images, "xyz")


def test_near_names_are_found_among_many_without_comparing_with_all() -> None:
    images = named(*(f"train/{number:012d}.jpg" for number in range(20_000)))
    with pytest.raises(ValueError, match=r"did you mean train/000000015\d{3}\.jpg"):
        find_image(images, "00000001500.jpg")


def test_the_command_line_draws_and_says_where(
    found: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "a.png"
    options = ["--rows", "1", "--cols", "2", "--dpi", "40", "--seed", "3", "--to", str(to)]
    for kind, more in (("correspondences", ["--order", "random", "--pairs", "1"]), ("proposals", ["--boxes", "9"])):
        assert main(["figures", kind, str(found.root), *options, *more]) == 0
        assert capsys.readouterr().out == f"figure: {to}\n"
        by_command = to.read_bytes()
        sheet = SheetOptions(rows=1, cols=2, dpi=40, seed=3, to=to)
        if kind == "proposals":
            proposal_sheet(found, sheet, 9)
        else:
            correspondence_sheet(found, sheet, "random", 1)
        assert to.read_bytes() == by_command


@pytest.mark.parametrize(("suffix", "begins"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_flag_takes_the_place_of_the_png_in_the_runs_folder(found: RunDir, suffix: str, begins: bytes) -> None:
    flag = [] if suffix == "png" else [f"--{suffix}"]
    for kind in ("correspondences", "proposals"):
        assert main(["figures", kind, str(found.root), "--rows", "4", "--cols", "2", "--dpi", "40", *flag]) == 0
        assert (found.figures / f"{kind}.{suffix}").read_bytes().startswith(begins)
    assert len(list(found.figures.iterdir())) == 2


def test_the_command_line_tells_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    own = {"correspondences": ("--order", "--pairs", "(default: top)"), "proposals": ("--boxes", "(default: 150)")}
    assert main(["figures", "--help"]) == 0
    usage = capsys.readouterr().out
    for kind, options in own.items():
        assert kind in usage
        assert main(["figures", kind, "--help"]) == 0
        told = capsys.readouterr().out
        shared = ("--rows", "--cols", "--seed", "--image", "--to", "--pdf", "--svg", "--dpi", "pixels an inch")
        assert [option for option in (*shared, *options) if option not in told] == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["figures"], "correspondences, proposals"),
        (["figures", "nothing", "{run}"], "nothing"),
        (["figures", "correspondences", "{run}", "--pdf", "--svg"], "--pdf and --svg are both given"),
        (["figures", "proposals", "{run}", "--pdf", "--to", "a.png"], "--pdf does not go with --to a.png"),
        (["figures", "proposals"], "PATH"),
        (["figures", "proposals", "{run}", "--rows", "0"], "rows must be at least 1, not 0"),
        (["figures", "proposals", "{run}", "--to", "a.jpeg"], "a.jpeg ends in .jpeg"),
        (["figures", "proposals", "{run}/no"], "no run at"),
        (["figures", "correspondences", "{run}", "--order", "best"], "best"),
        (["figures", "correspondences", "{run}", "--image", "image_33.png"], "did you mean image_3.png"),
    ],
)
def test_a_wrong_command_gets_a_message_and_a_non_zero_exit(
    found: RunDir, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(run=found.root) for argument in arguments]) in (1, 2)
    assert complaint in " ".join(capsys.readouterr().err.split())
    assert not (found.root / "figures").exists()
