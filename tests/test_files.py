import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orl import files, load_backbone
from orl.datasets.class_lists import read_list
from orl.datasets.coco import read_coco_json
from orl.datasets.sources import find_images
from orl.networks.backbones import read_backbone_file
from orl.networks.mlp import load_projector
from orl.published_files.json_stream import elements
from orl.weights.opening import open_weights


@pytest.mark.parametrize(("content", "message"), [('{"a', "is not JSON"), ("[1]", "contains a list")])
def test_a_file_without_a_json_object_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "svm.json").write_text(content)
    with pytest.raises(ValueError, match=rf"svm\.json {message}"):
        files.read_json(tmp_path / "svm.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"mean_ap": 1, "mean_ap": 2}', "the key 'mean_ap' twice"),
        ('{"a": {"b": 1, "b": 1}}', "the key 'b' twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("{} {}", "Extra data: line 1 column 4"),
    ],
)
def test_json_with_two_meanings_or_too_deep_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        files.parse_json(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "the key 'seed' is in line 1 and again in line 2"),
        ("stage1: {epochs: 2, epochs: 800}\n", "the key 'epochs' is in line 1 and again in line 1"),
        ("scan:\n  workers: 1\n'scan': {}\n", "the key 'scan' is in line 1 and again in line 3"),
        ("[" * 5000, "nested too deeply"),
        ("a: [1,\n", "expected the node content"),
        ("a: \x00\n", "special characters are not allowed"),
    ],
)
def test_yaml_with_two_meanings_or_damaged_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"^.*mine\.yaml is not YAML: .*{message}.*$"):
        files.read_yaml(path)


def test_a_key_may_replace_one_of_a_merged_yaml_mapping(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: &short {epochs: 2, seed: 1}\nb: {<<: *short, epochs: 9}\n")
    assert files.read_yaml(tmp_path / "x.yaml")["b"] == {"epochs": 9, "seed": 1}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names need POSIX")
@pytest.mark.parametrize(
    "read",
    [
        files.read_json,
        files.read_yaml,
        files.file_digest,
        open_weights,
        load_backbone,
        read_backbone_file,
        load_projector,
        find_images,
        read_coco_json,
        read_list,
        lambda path: next(elements(path, "bbox", "images")),
    ],
)
def test_a_pipe_is_refused_by_every_reader_and_never_waited_for(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    path = tmp_path / "mine.txt"
    os.mkfifo(path)
    with pytest.raises((ValueError, FileNotFoundError), match=r"mine\.txt"):
        read(path)


def test_a_device_is_refused_and_a_folder_left_to_open(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^/dev/null is a device and not a file; write its content to a file"):
        files.regular_file(Path("/dev/null"))
    assert files.regular_file(tmp_path) == tmp_path
    with pytest.raises(FileNotFoundError):
        files.regular_file(tmp_path / "none")


def test_a_csv_without_a_column_is_refused_and_a_cut_off_row_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rejected.csv"
    path.write_text("name,reason\na.jpg,empty\nb.jp")
    assert files.read_csv(path, ("name", "reason")) == [{"name": "a.jpg", "reason": "empty"}]
    for content in (b"[]", b"", b"name\nreason\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"rejected.csv has no column '(name|reason)'; delete it"):
            files.read_csv(path, ("name", "reason"))
    path.write_bytes(b"name,reason\n\xff\xfe,\x00")
    with pytest.raises(ValueError, match="is not a CSV file"):
        files.read_csv(path, ("name", "reason"))
