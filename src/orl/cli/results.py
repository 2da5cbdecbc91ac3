"""Command for the report of one run or of several runs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from orl.cli.options import finish
from orl.config import load_config
from orl.rundir import RunDir


def command_report(arguments: Sequence[str]) -> None:
    """Write the HTML report of a run from the files that it has so far, or compare several runs on one page."""

    def report(
        runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN [RUN ...]")]],
        out: Path | None = None,
    ) -> None:
        """Write report/index.html for one run, or report/compare.html in the first of several runs.

        Args:
            runs: Folder of a run; two or more are compared.
            out: HTML file of a comparison; report/compare.html in the first run if not given.
        """
        if not runs:
            raise ValueError("no run is given; give the folder of one, or of several to compare them")
        if len(runs) > 1:
            from orl.pipeline.run_report import compare_reports

            finish("comparison", compare_reports(runs, out))
            return
        if out is not None:
            raise ValueError(f"--out {out} names the file of a comparison, but one run is given; leave --out out")
        if not RunDir(runs[0]).config.exists():
            raise FileNotFoundError(f"no run at {runs[0]}: there is no {RunDir(runs[0]).config.name} in it")
        from orl.pipeline.run_report import report_run

        finish("report", report_run(dataclasses.replace(load_config(RunDir(runs[0]).config), out=runs[0])))

    tyro.cli(report, args=list(arguments), prog="orl report")
