"""`orl figures` as it is typed."""

from pathlib import Path

import pytest

from orl.cli import main
from orl.figures.correspondence_figure import CorrespondenceOptions, correspondence_figure
from orl.figures.figure_files import FigureFile
from orl.figures.proposal_figure import ProposalOptions, proposal_figure
from orl.rundir import RunDir


def test_the_command_line_draws_the_figure_and_prints_its_path(
    discovered: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "a.png"
    options = ["--rows", "1", "--cols", "2", "--dpi", "40", "--seed", "3", "--to", str(to)]
    for kind, more in (("correspondences", ["--order", "random", "--pairs", "1"]), ("proposals", ["--boxes", "9"])):
        assert main(["figures", kind, str(discovered.root), *options, *more]) == 0
        assert capsys.readouterr().out == f"figure: {to}\n"
        by_command = to.read_bytes()
        sheet, file = {"rows": 1, "cols": 2, "seed": 3}, FigureFile(dpi=40, to=to)
        if kind == "proposals":
            proposal_figure(discovered, ProposalOptions(**sheet, boxes=9), file)
        else:
            correspondence_figure(discovered, CorrespondenceOptions(**sheet, order="random", pairs=1), file)
        assert to.read_bytes() == by_command


@pytest.mark.parametrize(("suffix", "begins"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_flag_selects_the_format_of_the_file_in_the_run(discovered: RunDir, suffix: str, begins: bytes) -> None:
    flag = [] if suffix == "png" else [f"--{suffix}"]
    for kind in ("correspondences", "proposals"):
        assert main(["figures", kind, str(discovered.root), "--rows", "4", "--cols", "2", "--dpi", "40", *flag]) == 0
        assert (discovered.figures / f"{kind}.{suffix}").read_bytes().startswith(begins)
    assert len(list(discovered.figures.iterdir())) == 2


def test_help_shows_every_option_and_no_name_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    own = {"correspondences": ("--order", "--pairs", "(default: top)"), "proposals": ("--boxes", "(default: 150)")}
    assert main(["figures", "--help"]) == 0
    usage = capsys.readouterr().out
    for kind, options in own.items():
        assert kind in usage
        assert main(["figures", kind, "--help"]) == 0
        text = capsys.readouterr().out
        shared = ("--rows", "--cols", "--seed", "--image", "--to", "--pdf", "--svg", "--dpi", "pixels per inch")
        assert [option for option in (*shared, *options) if option not in text] == []
        assert "options options" not in text


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["figures"], "correspondences, proposals"),
        (["figures", "nothing", "{run}"], "nothing"),
        (["figures", "correspondences", "{run}", "--pdf", "--svg"], "--pdf and --svg are both given"),
        (["figures", "proposals", "{run}", "--pdf", "--to", "a.png"], "--pdf does not go with --to a.png"),
        (["figures", "proposals"], "RUN"),
        (["figures", "proposals", "{run}", "--rows", "0"], "rows must be at least 1, got 0"),
        (["figures", "proposals", "{run}", "--to", "a.jpeg"], "a.jpeg ends in .jpeg"),
        (["figures", "proposals", "{run}/no"], "no run at"),
        (["figures", "correspondences", "{run}", "--order", "best"], "best"),
        (["figures", "correspondences", "{run}", "--image", "image_33.png"], "did you mean image_3.png"),
    ],
)
def test_a_wrong_command_gets_a_message_and_a_non_zero_exit(
    discovered: RunDir, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(run=discovered.root) for argument in arguments]) in (1, 2)
    assert complaint in " ".join(capsys.readouterr().err.split())
    assert not (discovered.root / "figures").exists()
