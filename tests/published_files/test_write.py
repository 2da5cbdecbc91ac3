import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.reference.published import made_up, xyxy

from orl import files, tables
from orl.datasets.image_table import ImageTable
from orl.published_files import write as writing
from orl.published_files.read import PublishedFiles, RunTables, read_published
from orl.published_files.write import write_published

Write = Callable[[str, object], Path]
SOURCE = Path("images")
NAMES = {"proposals": "selective_search_proposal", "neighbours": "knn_instance", "correspondences": "correspondence"}


def read(run: Path, images: ImageTable, files: dict[str, Path], source: Path = SOURCE) -> None:
    read_published(PublishedFiles(**files), images, source, RunTables(folder=run, shard_size=4))


def written(to: Path, name: str = "coco") -> dict[str, Path]:
    return {kind: to / f"{name}_{ending}.json" for kind, ending in NAMES.items()}


def put_table(folder: Path, inputs: dict, columns: dict[str, np.ndarray], cuts: list[int]) -> None:
    """Write a table in shards that end before these rows."""
    edges = [0, *cuts, len(next(iter(columns.values())))]
    for index in tables.begin(folder, inputs, len(edges) - 1):
        part = slice(edges[index], edges[index + 1])
        tables.write_shard(folder, index, {name: values[part] for name, values in columns.items()})


def own_run(folder: Path, images: ImageTable, generator: np.random.Generator, round_to_pixels: bool = False) -> None:
    """Write the tables of our stage 2."""
    number, counts = len(images), generator.integers(1, 5, len(images))
    image_ids = np.repeat(np.arange(number, dtype=np.int32), counts)
    corners = np.sort(generator.uniform(0, 479, (2, len(image_ids), 2)), axis=0) + np.array([0, 1])[:, None, None]
    corners = np.round(corners) if round_to_pixels else corners
    boxes = np.concatenate(list(corners), axis=1).astype(np.float32)
    box_columns = {"image_id": image_ids, "box": boxes}
    put_table(folder / "proposals", {"images": images.fingerprint}, box_columns, [3, 3])
    inputs = {"min_side": 96.0, "max_aspect_ratio": 3.0, "max_iou": 0.5, "max_rois": 100}
    inputs |= {"proposals": tables.load(folder / "proposals").fingerprint}
    put_table(folder / "rois", inputs, box_columns, [4])
    neighbour_ids = np.stack([generator.permutation(np.delete(np.arange(number), i))[:3] for i in range(number)])
    columns = {"neighbour_ids": neighbour_ids.astype(np.int32), "similarities": np.ones((number, 3), np.float32)}
    put_table(folder / "neighbours", {"num_neighbours": 3}, columns, [2, 5])
    starts = np.concatenate([[0], counts.cumsum()])
    pairs = [
        (i, j, starts[i] + generator.integers(counts[i]), starts[j] + generator.integers(counts[j]))
        for i in range(number)
        for j in neighbour_ids[i]
        for _ in range(2)
    ]
    image_id, neighbour_id, roi, neighbour_roi = np.array(pairs).T
    columns = {"image_id": image_id.astype(np.int32), "neighbour_id": neighbour_id.astype(np.int32), "roi": roi}
    columns |= {"neighbour_roi": neighbour_roi, "similarity": np.linspace(1, 0, len(roi)).astype(np.float32)}
    inputs = {name: tables.load(folder / name).fingerprint for name in ("neighbours", "rois")}
    put_table(folder / "correspondences", inputs | {"top_fraction": 0.1}, columns, [7])


def contents(run: Path) -> dict[str, np.ndarray]:
    """Return all columns except the similarities, which the files lack."""
    found = {}
    for name in ("proposals", "neighbours", "rois", "correspondences"):
        table = tables.load(run / name)
        found |= {f"{name}.{column}": table.column(column) for column in table.column_names if "simil" not in column}
    return found


def assert_same(one: Path, other: Path) -> None:
    first, second = contents(one), contents(other)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)
        assert values.dtype == second[name].dtype, name


def test_files_survive_the_round_trip_byte_for_byte(
    images: ImageTable, documents: dict[str, dict], tmp_path: Path, write: Write
) -> None:
    files = {name: write(name, document) for name, document in documents.items()}
    read(tmp_path / "run", images, files)
    paths = write_published(tmp_path / "run", images, SOURCE, tmp_path / "to", "coco")
    assert paths == list(written(tmp_path / "to").values())
    for kind, path in written(tmp_path / "to").items():
        assert path.read_bytes() == files[kind].read_bytes()


def test_neighbours_without_pairs_survive_the_round_trip_byte_for_byte(
    images: ImageTable, documents: dict[str, dict], tmp_path: Path, write: Write
) -> None:
    content = documents["correspondences"]["pseudo_annotations"]
    content["knn_bbox_pair"] = [pairs[:2] for pairs in content["knn_bbox_pair"]]
    path = write("fewer", documents["correspondences"])
    read(tmp_path / "run", images, {"correspondences": path})
    write_published(tmp_path / "run", images, SOURCE, tmp_path, "coco")
    assert written(tmp_path)["correspondences"].read_bytes() == path.read_bytes()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.integers(4, 9), st.sampled_from(["", "train2017/"]))
def test_any_files_survive_the_round_trip_byte_for_byte(tmp_path_factory, seed: int, number: int, folder: str) -> None:
    tmp_path, generator = tmp_path_factory.mktemp("files"), np.random.default_rng(seed)
    names = tuple(f"{folder}{index}.jpg" for index in range(number))
    images = ImageTable(root=SOURCE, names=names, sizes_wh=((640, 480),) * number, digests=names)
    documents = made_up([f"{index}.jpg" for index in generator.permutation(number)], generator)
    files = {name: tmp_path / name for name in documents}
    for name, path in files.items():
        path.write_text(json.dumps(documents[name]))
    read(tmp_path / "run", images, files)
    write_published(tmp_path / "run", images, SOURCE, tmp_path, "coco")
    for kind, path in written(tmp_path).items():
        assert path.read_bytes() == files[kind].read_bytes()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_any_tables_survive_the_round_trip_bit_for_bit(
    tmp_path_factory, images: ImageTable, seed: int, round_to_pixels: bool
) -> None:
    tmp_path = tmp_path_factory.mktemp("tables")
    own_run(tmp_path / "run", images, np.random.default_rng(seed), round_to_pixels)
    write_published(tmp_path / "run", images, SOURCE, tmp_path, "coco")
    read(tmp_path / "again", images, written(tmp_path))
    assert_same(tmp_path / "run", tmp_path / "again")


def test_our_tables_are_written_with_options_under_published_names(images: ImageTable, tmp_path: Path) -> None:
    own_run(tmp_path / "run", images, np.random.default_rng(0), round_to_pixels=True)
    write_published(tmp_path / "run", images, SOURCE, tmp_path, "coco")
    proposals, neighbours, found = (json.loads(path.read_text()) for path in written(tmp_path).values())
    assert list(proposals) == ["bbox"]
    assert found["info"] == {
        **{"bbox_min_size": 96.0, "bbox_max_aspect_ratio": 3.0, "bbox_max_iou": 0.5, "intra_bbox_num": 100},
        **{"knn_image_num": 3, "knn_bbox_pair_ratio": 0.1},
    }
    assert neighbours["info"] == {"knn_image_num": 3}
    ids = list(range(len(images)))
    for document in (neighbours, found):
        assert document["images"] == {"file_name": list(images.names), "id": ids}
        assert document["pseudo_annotations"]["image_id"] == ids
    content, rois = found["pseudo_annotations"], tables.load(tmp_path / "run/rois")
    box, starts = rois.column("box"), rois.row_starts(len(images))
    assert [xyxy(each) for each in content["bbox"][5]] == box[starts[5] : starts[6]].tolist()
    pairs = tables.load(tmp_path / "run/correspondences")
    row = 5 * 3 * 2 + 2 * 2 + 1  # image 5, its third neighbour, second pair
    pair = content["knn_bbox_pair"][5][2][1]
    assert xyxy(pair[:4]) == box[pairs.column("roi")[row]].tolist()
    assert xyxy(pair[4:]) == box[pairs.column("neighbour_roi")[row]].tolist()
    assert content["knn_image_id"][5][2] == pairs.column("neighbour_id")[row]


def test_images_of_a_coco_json_are_written_in_its_order_with_its_ids(
    images: ImageTable, tmp_path: Path, write: Write
) -> None:
    own_run(tmp_path / "run", images, np.random.default_rng(0))
    order = np.random.default_rng(1).permutation(len(images)).tolist()
    rows = [{"id": 100 + row, "file_name": images.names[row]} for row in order]
    source = write("instances", {"images": rows, "annotations": []})
    write_published(tmp_path / "run", images, source, tmp_path, "coco")
    found = json.loads(written(tmp_path)["neighbours"].read_text())
    assert found["images"]["id"] == [100 + row for row in order]
    neighbour_ids = tables.load(tmp_path / "run/neighbours").column("neighbour_ids")
    for row, places in zip(order, found["pseudo_annotations"]["knn_image_id"]):
        assert [order[position] for position in places] == neighbour_ids[row].tolist()
    # The proposal file alone finds its images by the order of the same COCO JSON.
    read(tmp_path / "again", images, {"proposals": written(tmp_path)["proposals"]}, source)
    one, other = (tables.load(tmp_path / run / "proposals").column("box") for run in ("run", "again"))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("images_at_a_time", [1, 4])
def test_blocks_of_any_size_give_the_same_files(
    images: ImageTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images_at_a_time: int
) -> None:
    own_run(tmp_path / "run", images, np.random.default_rng(0))
    write_published(tmp_path / "run", images, SOURCE, tmp_path / "one", "coco")
    monkeypatch.setattr(writing, "IMAGES_AT_A_TIME", images_at_a_time)
    write_published(tmp_path / "run", images, SOURCE, tmp_path / "other", "coco")
    for one, other in zip(written(tmp_path / "one").values(), written(tmp_path / "other").values()):
        assert one.read_bytes() == other.read_bytes()


def test_pairs_with_an_image_that_is_no_neighbour_are_refused(images: ImageTable, tmp_path: Path) -> None:
    own_run(tmp_path / "run", images, np.random.default_rng(0))
    table = tables.load(tmp_path / "run/correspondences")
    columns = {name: table.column(name).copy() for name in table.column_names}
    columns["neighbour_id"][7] = columns["image_id"][7]
    tables.begin(table.folder, {"made": "elsewhere"}, 1, overwrite=True)
    tables.write_shard(table.folder, 0, columns)
    with pytest.raises(ValueError, match=r"row 7 .*/correspondences: neighbour_roi is not an RoI of the image"):
        write_published(tmp_path / "run", images, SOURCE, tmp_path, "coco")


def test_a_missing_table_gives_no_file(
    images: ImageTable, documents: dict[str, dict], tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    read(tmp_path / "run", images, {"neighbours": write("neighbours", documents["neighbours"])})
    paths = write_published(tmp_path / "run", images, SOURCE, tmp_path, "coco")
    assert paths == [written(tmp_path)["neighbours"]]
    assert "no file of format correspondence is written" in caplog.text
    assert "no file of format selective_search_proposal is written" in caplog.text


def test_a_run_without_tables_is_refused(images: ImageTable, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no finished stage 2; make it with 'orl discover'"):
        write_published(tmp_path, images, SOURCE, tmp_path, "coco")


def test_existing_files_are_kept_without_overwrite(images: ImageTable, tmp_path: Path) -> None:
    own_run(tmp_path / "run", images, np.random.default_rng(0))
    write_published(tmp_path / "run", images, SOURCE, tmp_path, "coco")
    with pytest.raises(FileExistsError, match=r"coco_selective_search_proposal\.json exists already.*--overwrite"):
        write_published(tmp_path / "run", images, SOURCE, tmp_path, "coco")
    write_published(tmp_path / "run", images, SOURCE, tmp_path, "coco", overwrite=True)


def test_files_are_written_atomically(images: ImageTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_run(tmp_path / "run", images, np.random.default_rng(0))
    monkeypatch.setattr(files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_published(tmp_path / "run", images, SOURCE, tmp_path / "to", "coco")
    assert os.listdir(tmp_path / "to") == []


def test_tables_that_do_not_belong_together_are_refused(images: ImageTable, tmp_path: Path) -> None:
    own_run(tmp_path / "run", images, np.random.default_rng(0))
    other = replace(images, digests=tuple(reversed(images.digests)))
    with pytest.raises(ValueError, match="proposals was made from another image list than the run has now"):
        write_published(tmp_path / "run", other, SOURCE, tmp_path, "coco")
    rois = tables.load(tmp_path / "run/rois")
    columns = {name: rois.column(name).copy() for name in rois.column_names}
    tables.begin(tmp_path / "run/rois", {"min_side": 50.0}, 1, overwrite=True)
    tables.write_shard(tmp_path / "run/rois", 0, columns)
    with pytest.raises(ValueError, match=r"correspondences was made from other rois than are in .*'orl discover'"):
        write_published(tmp_path / "run", images, SOURCE, tmp_path, "coco")


def test_neighbours_of_fewer_images_are_refused(images: ImageTable, tmp_path: Path) -> None:
    columns = {"neighbour_ids": np.ones((4, 3), np.int32), "similarities": np.ones((4, 3), np.float32)}
    put_table(tmp_path / "run/neighbours", {}, columns, [])
    with pytest.raises(ValueError, match="neighbours has 4 rows, but there are 11 images"):
        write_published(tmp_path / "run", images, SOURCE, tmp_path, "coco")
