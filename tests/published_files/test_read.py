import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.reference.published import pairs_by_name, xyxy

from orl import provenance, tables
from orl.datasets.image_table import ImageTable
from orl.pipeline.view_samplers import object_table
from orl.published_files import pair_matcher
from orl.published_files import read as reading
from orl.published_files.read import PublishedFiles, RunTables, read_published

Write = Callable[[str, object], Path]
SOURCE = Path("images")
P = "pseudo_annotations"


def read(
    run: Path, images: ImageTable, source: Path = SOURCE, shard_size: int = 4, overwrite: bool = False, **files: Path
) -> list[str]:
    target = RunTables(folder=run, shard_size=shard_size, overwrite=overwrite)
    return read_published(PublishedFiles(**files), images, source, target)


def boxes_by_name(folder: Path, images: ImageTable) -> dict[str, list]:
    table = tables.load(folder)
    starts = table.row_starts(len(images))
    return {name: table.column("box")[starts[row] : starts[row + 1]].tolist() for row, name in enumerate(images.names)}


@pytest.fixture
def files(documents: dict[str, dict], write: Write) -> dict[str, Path]:
    return {name: write(name, document) for name, document in documents.items()}


def test_tables_have_the_contents_of_the_files(
    images: ImageTable, documents: dict[str, dict], files: dict[str, Path], tmp_path: Path
) -> None:
    made = ["proposals", "neighbours", "rois", "correspondences"]
    assert read(tmp_path / "run", images, **files) == made
    document = documents["correspondences"]
    names, content = document["images"]["file_name"], document["pseudo_annotations"]
    assert boxes_by_name(tmp_path / "run/proposals", images) == {
        name: [xyxy(box) for box in boxes] for name, boxes in zip(names, documents["proposals"]["bbox"])
    }
    assert boxes_by_name(tmp_path / "run/rois", images) == {
        name: [xyxy(box) for box in boxes] for name, boxes in zip(names, content["bbox"])
    }
    neighbours = tables.load(tmp_path / "run/neighbours")
    for row, name in enumerate(images.names):
        expected = [names[position] for position in content["knn_image_id"][names.index(name)]]
        assert [images.names[other] for other in neighbours.column("neighbour_ids")[row]] == expected
    table, box = tables.load(tmp_path / "run/correspondences"), tables.load(tmp_path / "run/rois").column("box")
    found: dict[str, list] = {name: [] for name in images.names}
    columns = ("image_id", "neighbour_id", "roi", "neighbour_roi")
    for image_id, neighbour_id, roi, neighbour_roi in zip(*(table.column(name).tolist() for name in columns)):
        pair = (images.names[neighbour_id], box[roi].tolist(), box[neighbour_roi].tolist())
        found[images.names[image_id]].append(pair)
    assert found == pairs_by_name(document)


def test_rois_of_a_pair_belong_to_its_images(images: ImageTable, files: dict[str, Path], tmp_path: Path) -> None:
    read(tmp_path / "run", images, **files)
    table, rois = tables.load(tmp_path / "run/correspondences"), tables.load(tmp_path / "run/rois")
    owners = rois.column("image_id")
    np.testing.assert_array_equal(owners[table.column("roi")], table.column("image_id"))
    np.testing.assert_array_equal(owners[table.column("neighbour_roi")], table.column("neighbour_id"))


def test_similarities_are_nan(images: ImageTable, files: dict[str, Path], tmp_path: Path) -> None:
    read(tmp_path / "run", images, **files)
    for name, column in (("neighbours", "similarities"), ("correspondences", "similarity")):
        values = tables.load(tmp_path / "run" / name).column(column)
        assert values.dtype == np.float32
        assert np.isnan(values).all()


def test_stage_3_reads_the_tables(
    images: ImageTable, documents: dict[str, dict], files: dict[str, Path], tmp_path: Path
) -> None:
    assert read(tmp_path / "run", images, correspondences=files["correspondences"]) == [
        *("neighbours", "rois", "correspondences")
    ]
    rois, pairs = (tables.load(tmp_path / "run" / name) for name in ("rois", "correspondences"))
    objects = object_table(rois, pairs, len(images))
    assert [len(groups) for groups in objects.neighbour_slices] == [3] * len(images)
    sampled = [objects.correspondences[start:end] for groups in objects.neighbour_slices for start, end in groups]
    assert [len(part) for part in sampled] == [2] * 3 * len(images)
    document = documents["correspondences"]
    expected = pairs_by_name(document)[images.names[4]][2:4]
    found = objects.rois[sampled[4 * 3 + 1]].tolist()
    assert found == [[here, there] for _, here, there in expected]


def contents(run: Path) -> dict[str, np.ndarray]:
    found = {}
    for name in ("proposals", "neighbours", "rois", "correspondences"):
        table = tables.load(run / name)
        found |= {f"{name}.{column}": table.column(column) for column in table.column_names}
    return found


def assert_same(one: Path, other: Path) -> None:
    first, second = contents(one), contents(other)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)
        assert values.dtype == second[name].dtype


@pytest.mark.parametrize("shard_size", [1, 3, 100])
def test_shards_of_any_size_give_the_same_tables(
    images: ImageTable, files: dict[str, Path], tmp_path: Path, shard_size: int
) -> None:
    read(tmp_path / "one", images, **files)
    read(tmp_path / "other", images, shard_size=shard_size, **files)
    assert_same(tmp_path / "one", tmp_path / "other")


@pytest.mark.parametrize("pairs_at_a_time", [1, 5])
def test_pairs_compared_a_few_at_a_time_are_found_as_well(
    images: ImageTable, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs_at_a_time: int
) -> None:
    read(tmp_path / "one", images, **files)
    monkeypatch.setattr(pair_matcher, "PAIRS_AT_A_TIME", pairs_at_a_time)
    read(tmp_path / "other", images, **files)
    assert_same(tmp_path / "one", tmp_path / "other")


def test_of_equal_rois_the_first_is_taken(
    images: ImageTable, documents: dict[str, dict], files: dict[str, Path], tmp_path: Path, write: Write
) -> None:
    read(tmp_path / "one", images, correspondences=files["correspondences"])
    for boxes in documents["correspondences"][P]["bbox"]:
        boxes.extend(boxes[:])
    read(tmp_path / "twice", images, correspondences=write("twice", documents["correspondences"]))
    first, second = (tables.load(tmp_path / run / "rois").row_starts(len(images)) for run in ("one", "twice"))
    one, other = (tables.load(tmp_path / run / "correspondences") for run in ("one", "twice"))
    for column, owner in (("roi", "image_id"), ("neighbour_roi", "neighbour_id")):
        owners = one.column(owner)
        np.testing.assert_array_equal(
            one.column(column) - first[owners], other.column(column) - second[owners], err_msg=column
        )


def reordered(value: object) -> object:
    return {key: reordered(value[key]) for key in reversed(value)} if isinstance(value, dict) else value


def test_keys_may_come_in_any_order(
    images: ImageTable, documents: dict[str, dict], files: dict[str, Path], tmp_path: Path, write: Write
) -> None:
    read(tmp_path / "one", images, **files)
    turned = {name: write(f"turned {name}", reordered(document)) for name, document in documents.items()}
    assert turned["correspondences"].read_text().startswith('{"pseudo_annotations": {"knn_bbox_pair"')
    read(tmp_path / "other", images, **turned)
    assert_same(tmp_path / "one", tmp_path / "other")


def test_files_read_one_by_one_give_the_tables_of_one_call(
    images: ImageTable, files: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read(tmp_path / "one", images, **files)
    read(tmp_path / "other", images, correspondences=files["correspondences"])
    with caplog.at_level(logging.INFO):
        read(tmp_path / "other", images, proposals=files["proposals"])
    assert "read in the order of the files that were read before" in caplog.text
    assert_same(tmp_path / "one", tmp_path / "other")


def test_proposals_alone_are_in_the_order_of_the_coco_json(
    images: ImageTable, documents: dict[str, dict], files: dict[str, Path], tmp_path: Path, write: Write
) -> None:
    names = documents["correspondences"]["images"]["file_name"]
    rows = [{"id": position, "file_name": name} for position, name in enumerate(names)]
    source = write("instances_train2017", {"images": rows, "annotations": []})
    assert read(tmp_path / "run", images, source=source, proposals=files["proposals"]) == ["proposals"]
    read(tmp_path / "other", images, **files)
    one, other = (tables.load(tmp_path / run / "proposals").column("box") for run in ("run", "other"))
    np.testing.assert_array_equal(one, other)


def test_after_neighbours_alone_the_log_names_what_stage_3_needs(
    images: ImageTable, files: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert read(tmp_path / "run", images, neighbours=files["neighbours"]) == ["neighbours"]
    assert "stage 3 also needs rois and correspondences: read a file with --correspondences" in caplog.text


def test_neighbours_without_pairs_stay_neighbours(
    images: ImageTable, documents: dict[str, dict], tmp_path: Path, write: Write
) -> None:
    document = documents["correspondences"]
    content = document["pseudo_annotations"]
    content["knn_bbox_pair"] = [pairs[:2] for pairs in content["knn_bbox_pair"]]
    read(tmp_path / "run", images, correspondences=write("fewer", document))
    assert tables.load(tmp_path / "run/neighbours").column("neighbour_ids").shape == (len(images), 3)
    assert tables.load(tmp_path / "run/correspondences").num_rows == len(images) * 2 * 2


@pytest.mark.parametrize("name", ["proposals", "neighbours", "rois", "correspondences"])
def test_an_interrupted_import_resumes_to_the_same_tables(
    images: ImageTable, files: dict[str, Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard = tables.write_shard

    def write_until(folder: Path, index: int, columns: dict) -> None:
        if folder.name == name and index == 1:
            raise OSError("No space left on device")
        write_shard(folder, index, columns)

    monkeypatch.setattr(reading.tables, "write_shard", write_until)
    with pytest.raises(OSError, match="No space left"):
        read(tmp_path / "broken", images, **files)
    monkeypatch.undo()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "broken").rglob("*.arrow")}
    assert (tmp_path / "broken" / name / "00000.arrow") in kept
    read(tmp_path / "broken", images, **files)
    read(tmp_path / "whole", images, **files)
    assert_same(tmp_path / "whole", tmp_path / "broken")
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items()), "a finished shard was made again"


def test_a_second_import_does_nothing_and_another_file_is_stale(
    images: ImageTable, documents: dict[str, dict], files: dict[str, Path], tmp_path: Path, write: Write
) -> None:
    run = tmp_path / "run"
    read(run, images, **files)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.arrow")}
    read(run, images, **files)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.arrow")} == before
    documents["proposals"]["bbox"][0][0][0] += 1
    other = write("other", documents["proposals"])
    with pytest.raises(provenance.StaleResultError, match=r"proposals was made from other inputs \(file_digest: was"):
        read(run, images, proposals=other)
    read(run, images, proposals=other, overwrite=True)
    changed = [path.parent.name for path, time in before.items() if path.stat().st_mtime_ns != time]
    assert set(changed) == {"proposals"}


@pytest.mark.parametrize("name", ["proposals", "neighbours", "correspondences"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], r"is truncated: it ends at byte \d+ in '\w+' \(open brackets: [2-6]\)"),
        (lambda text: text.rstrip()[:-1], r"is truncated: it ends at byte \d+ in '\w+' \(open brackets: 1\)"),
        (lambda text: f"{text} and more", r"continues after the end of its JSON, at byte \d+ with b'and more'"),
        (lambda text: text + text, r"continues after the end of its JSON, at byte \d+ with b'\{"),
    ],
    ids=["truncated", "last brace", "more text", "two documents"],
)
def test_a_file_that_ends_too_early_or_too_late_is_refused_before_anything_is_written(
    images: ImageTable,
    files: dict[str, Path],
    tmp_path: Path,
    name: str,
    damage: Callable[[str], str],
    message: str,
) -> None:
    files[name].write_text(damage(files[name].read_text()))
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "run", images, **{name: files[name]})
    assert not (tmp_path / "run").exists()


def edited(documents: dict[str, dict], name: str, edit: Callable[[dict], object]) -> dict:
    document = copy.deepcopy(documents[name])
    edit(document)
    return document


def put(value: object, *keys: object) -> Callable[[dict], None]:
    """Return an edit that puts another value at a path of keys."""

    def edit(document: dict) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return edit


BAD = {
    "other format": ("proposals", lambda d: d.update(bboxes=d.pop("bbox")), r"no known format.*nearest is 'selective"),
    "a letter": ("proposals", put("x", "bbox", 3, 1, 2), r'image 3 \(.*\.jpg\): \[.*"x".*\] is not a list of 4'),
    "below 0": ("proposals", put(-2, "bbox", 3, 1, 2), r"image 3 \(.*jpg\): box .*-2.* has a width or height below 0"),
    "not a number": ("proposals", put(float("nan"), "bbox", 3, 1, 2), "not JSON after 3 complete images.*NaN"),
    "five numbers": ("proposals", put([1, 2, 3, 4, 5], "bbox", 3, 1), r"image 3 .*\[1, 2, 3, 4, 5\] is not a list"),
    "outside": (
        "proposals",
        put([600, 0, 50, 9], "bbox", 3, 1),
        r"image 3 .*640x480 px, but has the box \[600, 0, 50, 9\]",
    ),
    "outside above": ("proposals", put([0, -3, 50, 9], "bbox", 3, 1), r"\[0, -3, 50, 9\]: the file is of other images"),
    "too few": ("proposals", lambda d: d["bbox"].pop(), "lists 10 images and the run has 11"),
    "too many": ("proposals", lambda d: d["bbox"].extend([[], []]), "lists 13 images and the run has 11"),
    "no list": ("proposals", put(3, "bbox"), "lists 0 images and the run has 11"),
    "no names": ("neighbours", put([], "images", "file_name"), "no list of image names"),
    "other names": (
        "neighbours",
        put("z.jpg", "images", "file_name", 2),
        r"1 \(z\.jpg\) of the file are not in the run",
    ),
    "a place too high": ("neighbours", put(11, P, "knn_image_id", 3, 0), "image 3 .*neighbour 11 is none of the 11"),
    "a place as text": ("neighbours", put("1", P, "knn_image_id", 3, 0), r'image 3 .*integers, not \["1"'),
    "fewer places": ("neighbours", put([1, 2], P, "knn_image_id", 3), "image 3 .*has 2 neighbours.*before it have 3"),
    "a part only": ("correspondences", lambda d: d[P]["bbox"].pop(), "lists 10 images and the run has 11"),
    "no RoI": ("correspondences", put([], P, "bbox", 3), "image 3 .*has no box; stage 3 needs one"),
    "empty RoI": (
        "correspondences",
        put([5, 6, 0, 7], P, "bbox", 3, 0),
        r"image 3 .*has the empty box \[5, 6, 0, 7\]; a box needs at least one pixel",
    ),
    "no pair": ("correspondences", put([[], [], []], P, "knn_bbox_pair", 3), "image 3 .*has no pair; stage 3 needs"),
    "seven numbers": ("correspondences", put([[[1] * 7]], P, "knn_bbox_pair", 3), "neighbour 0: .* not a list of 8"),
    "four neighbours": (
        "correspondences",
        lambda d: d[P]["knn_bbox_pair"][3].append(d[P]["knn_bbox_pair"][3][0]),
        "has pairs with 4 neighbours and only 3 neighbours",
    ),
    "no RoI of the image": (
        "correspondences",
        put([0, 0, 640, 480, 0, 0, 640, 480], P, "knn_bbox_pair", 3, 1, 1),
        r"a pair has the box \[0, 0, 640, 480\], which is none of the \d RoIs of .*jpg; .*different runs",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_the_value(
    images: ImageTable, documents: dict[str, dict], tmp_path: Path, write: Write, case: str
) -> None:
    name, edit, message = BAD[case]
    path = write("bad", edited(documents, name, edit))
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "run", images, **{name: path})


def test_the_roi_of_a_neighbour_must_exist_too(
    images: ImageTable, documents: dict[str, dict], tmp_path: Path, write: Write
) -> None:
    pair = documents["correspondences"][P]["knn_bbox_pair"][3][1][1]
    pair[4] += 0.5
    with pytest.raises(ValueError, match=rf"a pair has the box \[{pair[4]}, .*which is none of"):
        read(tmp_path / "run", images, correspondences=write("bad", documents["correspondences"]))


def test_files_of_different_runs_are_refused(
    images: ImageTable, documents: dict[str, dict], files: dict[str, Path], tmp_path: Path, write: Write
) -> None:
    other = edited(documents, "neighbours", lambda d: d[P]["knn_image_id"][4].reverse())
    with pytest.raises(ValueError, match=r"image 4 has the neighbours \[.*\] in .*leave the neighbour file out"):
        read(tmp_path / "run", images, correspondences=files["correspondences"], neighbours=write("other", other))
    other = edited(documents, "neighbours", lambda d: d["images"]["id"].reverse())
    with pytest.raises(ValueError, match="list different images; read them into two runs"):
        read(tmp_path / "run", images, correspondences=files["correspondences"], neighbours=write("other", other))


def test_each_name_needs_its_own_image(images: ImageTable, files: dict[str, Path], tmp_path: Path) -> None:
    fewer = replace(images, names=images.names[:-1], sizes_wh=images.sizes_wh[:-1], digests=images.digests[:-1])
    with pytest.raises(ValueError, match=r"lists 11 images and the run has 10: 1 \(010\.jpg\) of the file"):
        read(tmp_path / "run", fewer, **files)


def test_without_a_file_the_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give --proposals, --neighbours or --correspondences"):
        PublishedFiles().check()
    with pytest.raises(FileNotFoundError, match=r"no file at .*none\.json"):
        PublishedFiles(proposals=tmp_path / "none.json").check()
