"""Commands that look at what a run has left: the report."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from orl.cli.options import finish
from orl.config import load_config
from orl.rundir import RunDir


def command_report(arguments: Sequence[str]) -> None:
    """Write the HTML report of a run from whatever it has left so far."""

    def report(run: Annotated[Path, tyro.conf.Positional]) -> None:
        """Write report/index.html.

        Args:
            run: folder of the run.
        """
        if not RunDir(run).config.exists():
            raise FileNotFoundError(f"no run at {run}: there is no {RunDir(run).config.name} in it")
        from orl.run import report_run

        finish("report", report_run(dataclasses.replace(load_config(RunDir(run).config), out=run)))

    tyro.cli(report, args=list(arguments), prog="orl report")
