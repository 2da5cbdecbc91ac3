import itertools
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from orl.published_files import json_stream as stream
from orl.published_files.json_stream import elements, keys_in, value

Write = Callable[[str, object], Path]
DOCUMENT = {
    "info": {"n": 3},
    "images": {"file_name": ["a", 'b"x":[', "]"], "id": [7, 8, 9]},
    "x": {"bbox": [[1], [], 2.5]},
}


@pytest.mark.parametrize("order", list(itertools.permutations(DOCUMENT)))
def test_a_list_is_found_in_any_order_of_keys(write: Write, order: tuple[str, ...]) -> None:
    path = write("any", {key: DOCUMENT[key] for key in order})
    assert list(elements(path, "x.bbox")) == [[1], [], 2.5]
    assert list(elements(path, "images.file_name")) == ["a", 'b"x":[', "]"]
    assert value(path, "images.id") == [7, 8, 9]
    assert value(path, "info") == {"n": 3}
    assert set(keys_in(path)) == {"info", "n", "images", "file_name", "id", "x", "bbox"}


def test_integers_stay_integers_and_others_are_doubles(write: Write) -> None:
    found = list(elements(write("any", '{"a": [1, 1.0, -2.5e1, 0.1, 9007199254740993]}'), "a"))
    assert found == [1, 1.0, -25.0, 0.1, 9007199254740993]
    assert [type(each) for each in found] == [int, float, float, float, int]


def test_a_missing_key_gives_nothing(write: Write) -> None:
    path = write("any", DOCUMENT)
    assert list(elements(path, "bbox")) == []
    assert value(path, "images.size") is None


@pytest.mark.parametrize("length", [1, 3, 7, 64, 1000])
def test_a_key_across_two_parts_of_a_scan_is_found(write: Write, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.setattr(stream, "SCAN_BYTES", length)
    assert keys_in(write("any", '{"images" : 1, "pseudo_annotations"\n: {"knn_bbox_pair": "no\\"key\\": 3"}}')) == [
        *("images", "pseudo_annotations", "knn_bbox_pair")
    ]


END = '{"a": ["]}", "\\\\", "\\\\\\"}]}[", {"b": []}]} \n'


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 1000])
def test_brackets_in_strings_are_not_counted_whatever_the_parts(
    write: Write, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr(stream, "SCAN_BYTES", length)
    assert json.loads(END) == {"a": ["]}", "\\", '\\"}]}[', {"b": []}]}
    assert keys_in(write("complete", END)) == ["a", "b"]
    for cut in range(2, len(END.rstrip())):
        with pytest.raises(ValueError, match=rf"cut\.json is truncated: it ends at byte {cut} in '\w?'"):
            keys_in(write("cut", END[:cut]))
    for more in ("x", '"x"', "{}", "]"):
        with pytest.raises(ValueError, match=rf"continues after the end of its JSON, at byte {len(END)} with b'"):
            keys_in(write("more", f"{END}{more}"))


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_json_nested_too_deeply_is_refused_before_it_fills_memory(write: Write, opening: str) -> None:
    assert keys_in(write("deep", '{"b":' + "[" * 99 + "]" * 99 + "}")) == ["b"]
    with pytest.raises(ValueError, match="has more than 100 lists and objects inside each other"):
        keys_in(write("deeper", opening * 100_000))
    with pytest.raises(ValueError, match="has more than 100 lists and objects inside each other"):
        keys_in(write("closed", "[" * 101 + "]" * 101))


@pytest.mark.parametrize("cut", range(11, 40, 3))
def test_a_truncated_file_is_refused_with_the_number_of_images(write: Write, cut: int) -> None:
    complete = '{"bbox": [[[1, 2, 3, 4]], [[5, 6, 7, 8]], [[9, 1, 2, 3]]]}'
    num_before = complete[:cut].count("]]")
    read: list = []
    with pytest.raises(
        ValueError, match=rf"cut\.json is truncated after {num_before} complete images of 'bbox'.*complete file"
    ):
        read.extend(elements(write("cut", complete[:cut]), "bbox"))
    assert read == json.loads(complete)["bbox"][:num_before]


def test_a_file_truncated_inside_a_value_is_refused(write: Write) -> None:
    with pytest.raises(ValueError, match=r"truncated before the end of 'images\.id'"):
        value(write("cut", '{"images": {"id": [1, 2'), "images.id")


@pytest.mark.parametrize(
    "wrong", ["NaN", "Infinity", "-Infinity", "1e999", "0x1", "1,,2", "True", "123456789012345678901"]
)
def test_invalid_json_is_refused_with_the_number_of_images(write: Write, wrong: str) -> None:
    path = write("wrong", f'{{"bbox": [[[1, 2]], [[3, {wrong}]]]}}')
    with pytest.raises(ValueError, match=rf"is not JSON after 1 complete images of 'bbox'.*{wrong[:4]}.*NaN"):
        list(elements(path, "bbox"))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file at .*none\.json"):
        keys_in(tmp_path / "none.json")


def test_without_ijson_the_error_says_how_to_install_it(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ijson", None)
    with pytest.raises(ImportError, match="pip install 'ijson"):
        list(elements(write("any", DOCUMENT), "x.bbox"))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path, image = tmp_path / "large.json", json.dumps([[100, 200, 300, 400]] * 200)
    path.write_text('{"bbox": [' + ", ".join([image] * 1000) + "]}")
    assert path.stat().st_size > 4e6
    tracemalloc.start()
    try:
        assert sum(len(element) for element in elements(path, "bbox")) == 200_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1e6
