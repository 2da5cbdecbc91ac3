from pathlib import Path

import pytest
from matplotlib.figure import Figure

from orl.figures.figure_files import FigureFile, check_suffix, save_figure


@pytest.mark.parametrize(
    ("name", "message"), [("a.jpg", r"a\.jpg ends in \.jpg; .*\.png, \.svg, \.pdf"), ("a", "a has no suffix")]
)
def test_an_unknown_suffix_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_suffix(Path(name))
    with pytest.raises(ValueError, match=message):
        save_figure(Figure(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dpi": 29}, "dpi must be from 30 to 600, got 29"),
        ({"dpi": 601}, "dpi must be from 30 to 600, got 601"),
        ({"pdf": True, "svg": True}, "--pdf and --svg are both given"),
        ({"pdf": True, "to": Path("a.svg")}, r"--pdf does not go with --to a\.svg; leave one out"),
        ({"svg": True, "to": Path("a.png")}, r"--svg does not go with --to a\.png; leave one out"),
        ({"to": Path("x.gif")}, r"x\.gif ends in \.gif"),
    ],
)
def test_options_that_contradict_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FigureFile(**options).path(Path("run"), "pairs")


def test_the_path_is_the_file_asked_for_or_a_file_in_the_folder() -> None:
    folder = Path("run/figures")
    assert FigureFile().path(folder, "pairs") == folder / "pairs.png"
    assert FigureFile(pdf=True).path(folder, "pairs") == folder / "pairs.pdf"
    assert FigureFile(svg=True).path(folder, "pairs") == folder / "pairs.svg"
    for file in (FigureFile(to=Path("b.PDF"), pdf=True), FigureFile(to=Path("b.PDF"))):
        assert file.path(folder, "pairs") == Path("b.PDF")
