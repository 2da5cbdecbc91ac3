import json
from pathlib import Path
from typing import Any

import pytest

from orl.ablations.results_page import write_page

RECORDED = {
    "kind": "recorded",
    "title": "An older number",
    "command": ["orl evaluate svm"],
    "commit": "def456",
    "tables": [{"caption": "By hand", "columns": ["", "mAP"], "rows": [["random", "12.3"]]}],
}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(ablation: dict[str, Any], tmp_path: Path) -> Path:
    folder = tmp_path / "docs" / "results"
    folder.mkdir(parents=True)
    (folder / "1-stages.json").write_text(json.dumps(ablation))
    (folder / "2-older.json").write_text(json.dumps(RECORDED))
    (folder / "2-older.md").write_text("It says little.\n")
    (folder / "index.md").write_text("# Results\n")
    return folder


def test_the_page_has_every_result_in_order_with_its_text_and_provenance(folder: Path) -> None:
    write_page(folder, folder.parent / "results.md")
    text = (folder.parent / "results.md").read_text()
    expected = (
        *("# Results", "## Does it help?", "24.0 ± 1.0", "results_1-stages.svg", "orl ablate stages", "commit abc123"),
        *("## An older number", "| random | 12.3 |", "It says little.", "orl evaluate svm", "commit def456"),
    )
    positions = [text.index(each) for each in expected]
    assert positions == sorted(positions)
    assert "<svg" in (folder.parent / "figures" / "results_1-stages.svg").read_text()


def test_the_same_files_give_the_same_page_and_chart(folder: Path) -> None:
    page, chart = folder.parent / "results.md", folder.parent / "figures" / "results_1-stages.svg"
    write_page(folder, page)
    before = page.read_bytes(), chart.read_bytes()
    write_page(folder, page)
    assert (page.read_bytes(), chart.read_bytes()) == before


def test_the_readme_gets_the_headline_between_its_marks_and_keeps_the_rest(folder: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results -->\nold\n<!-- end of results -->\nafter\n")
    write_page(folder, folder.parent / "results.md", readme=readme)
    text = readme.read_text()
    assert text.startswith("before\n<!-- results -->\n")
    assert text.endswith("<!-- end of results -->\nafter\n")
    assert "old" not in text
    assert "| ORL | 24.0 ± 1.0 | 10.0 ± 0.0 |" in text
    assert "(docs/figures/results_1-stages.svg)" in text


def test_benchmarks_are_listed_with_their_ratios(folder: Path, tmp_path: Path) -> None:
    benchmark = {
        **{"claim": "a step", "alternative": "theirs", "ratio_median": 1.5, "ratio_p10": 1.25, "ratio_p90": 2.0},
        **{"runs": 7, "commit": "fff", "versions": {"torch": "2.6"}},
        "machine": {"processor": "CPU", "processors": 2, "torch_threads": 1, "gpu": None},
    }
    (tmp_path / "train.json").write_text(json.dumps([benchmark]))
    (tmp_path / "other.json").write_text(json.dumps({"no": "ratio"}))
    write_page(folder, folder.parent / "results.md", benchmarks=tmp_path)
    text = (folder.parent / "results.md").read_text()
    assert "| a step | theirs | 1.50 | 1.25 to 2.00 | 7 |" in text
    assert "other.py" not in text


def test_hidden_files_of_macos_are_no_results(folder: Path) -> None:
    (folder / "._bad.json").write_bytes(b"\x00\x05\x16\x07")
    write_page(folder, folder.parent / "results.md")
    assert (folder.parent / "results.md").exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", r"bad\.json is not JSON"),
        ('{"kind": "diary"}', r"its kind is 'diary', and known kinds are 'ablation' and 'recorded'"),
        ('{"kind": "recorded", "tables": []}', r"bad\.json lacks title"),
        ("{}", r"its kind is None"),
        ("[]", r"bad\.json contains a list, not an object"),
    ],
)
def test_a_file_that_is_no_result_is_refused(folder: Path, content: str, complaint: str) -> None:
    (folder / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=complaint):
        write_page(folder, folder.parent / "results.md")
    assert not (folder.parent / "results.md").exists()


def test_an_empty_folder_and_a_readme_without_marks_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no result files; 'orl ablate' writes them"):
        write_page(tmp_path / "empty", tmp_path / "results.md")
    (tmp_path / "README.md").write_text("nothing here")
    with pytest.raises(ValueError, match=r"README\.md has no part between <!-- results -->"):
        write_page(folder, folder.parent / "results.md", readme=tmp_path / "README.md")


def test_the_pages_of_this_project_are_what_their_files_give(tmp_path: Path) -> None:
    page = ROOT / "docs" / "results.md"
    readme = tmp_path / "README.md"
    readme.write_text((ROOT / "README.md").read_text())
    # Beside the same folders, so that links are the same.
    written = tmp_path / "docs" / "results.md"
    write_page(ROOT / "docs" / "results", written, benchmarks=ROOT / "benchmarks" / "results", readme=readme)
    assert written.read_text() == page.read_text(), "run 'orl results' again"
    assert readme.read_text() == (ROOT / "README.md").read_text(), "run 'orl results' again"
