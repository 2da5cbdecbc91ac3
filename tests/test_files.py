from pathlib import Path

import pytest

from orl import files


@pytest.mark.parametrize(("content", "message"), [('{"a', "is not JSON"), ("[1]", "contains a list")])
def test_a_file_without_a_json_object_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "svm.json").write_text(content)
    with pytest.raises(ValueError, match=rf"svm\.json {message}"):
        files.read_json(tmp_path / "svm.json")
