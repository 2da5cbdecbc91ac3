"""Commands that look at what a run has left: the report, figures."""

import dataclasses
from collections.abc import Callable, Sequence
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


def command_figures(arguments: Sequence[str]) -> None:
    """Draw what discovery found: `orl figures proposals` or `orl figures correspondences`."""
    from orl.figures.jobs import Order, correspondence_sheet, proposal_sheet
    from orl.figures.sheets import SheetOptions

    def correspondences(
        run: Annotated[Path, tyro.conf.Positional],
        sheet: tyro.conf.OmitArgPrefixes[SheetOptions],
        order: Order = "top",
        pairs: int = 3,
    ) -> None:
        """Photos beside a neighbour each, the best pairs of RoIs joined, with their similarity (a cosine).

        Args:
            run: folder of a run whose stage 2 is done.
            sheet: layout.
            order: which pairs of photos: by their best RoIs (top, lowest), drawn at random, or photo by photo in turn.
            pairs: most pairs of RoIs in each, from 1 to 6.
        """
        finish("figure", correspondence_sheet(RunDir(run), sheet, order, pairs))

    def proposals(
        run: Annotated[Path, tyro.conf.Positional],
        sheet: tyro.conf.OmitArgPrefixes[SheetOptions],
        boxes: int = 150,
    ) -> None:
        """Photos drawn at random, each with its proposals and beside them the RoIs that the filter kept.

        Args:
            run: folder of a run whose stage 2 has filtered the proposals.
            sheet: layout.
            boxes: most proposals drawn of a photo; of more, a random choice.
        """
        finish("figure", proposal_sheet(RunDir(run), sheet, boxes))

    kinds: dict[str, Callable[..., None]] = {"correspondences": correspondences, "proposals": proposals}
    tyro.extras.subcommand_cli_from_dict(
        kinds, args=list(arguments), prog="orl figures", description=command_figures.__doc__
    )
