"""Command for the report of one run or of several runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from orl.cli.options import finish


def command_report(arguments: Sequence[str]) -> None:
    """Write the HTML report of a run from the files that it has so far, or compare several runs on one page."""

    def report(
        runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN [RUN ...]")]],
        out: Path | None = None,
    ) -> None:
        """Write report/index.html for one run, or report/compare.html in the first of several runs.

        Args:
            runs: Folder of a run; two or more are compared.
            out: HTML file to write instead.
        """
        from orl.pipeline.run_report import report_runs

        finish("report" if len(runs) == 1 else "comparison", report_runs(runs, out))

    tyro.cli(report, args=list(arguments), prog="orl report")
