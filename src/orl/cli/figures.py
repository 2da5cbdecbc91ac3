"""Pictures for a paper: `orl figures KIND`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from orl.cli.options import finish
from orl.rundir import RunDir


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
        kinds,
        args=list(arguments),
        prog="orl figures",
        description=command_figures.__doc__,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
