"""Commands that look at what a run has left: judges, the report, figures."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from orl.cli.options import finish
from orl.config import RunConfig, TransferConfig, load_config
from orl.rundir import RunDir


def command_transfer(arguments: Sequence[str]) -> None:
    """Judge a backbone on a labelled set: `orl transfer svm` or `orl transfer knn`."""

    def transfer(
        task: Annotated[Literal["svm", "knn"], tyro.conf.Positional],
        backbone: Path,
        data: Path,
        out: Path | None = None,
        architecture: str | None = None,
        train_split: str = "trainval",
        test_split: str = "test",
        size_px: int = 224,
        knn_neighbours: int = 20,
        knn_temperature: float = 0.07,
        seed: int = 0,
        workers: int = 2,
        device: Literal["auto", "cpu", "cuda"] = "auto",
    ) -> None:
        """Judge a frozen backbone by linear SVMs (the VOC07 protocol) or by its weighted nearest neighbours.

        Args:
            task: svm or knn.
            backbone: folder of a run, a backbone.safetensors, an export, or another project's weights.
            data: a VOC devkit, or a drawn set, which has the same layout.
            out: where to write the result as JSON; beside the file of weights if not given.
            architecture: what network the weights are of, where the file does not tell.
            train_split: split to learn from.
            test_split: split to score.
            size_px: side that a photo is squeezed to, pixels.
            knn_neighbours: neighbours that vote.
            knn_temperature: temperature of a vote's weight.
            seed: of LIBLINEAR.
            workers: processes that read photos and fit SVMs.
            device: where to compute.
        """
        settings = TransferConfig(
            train_split=train_split,
            test_split=test_split,
            size_px=size_px,
            knn_neighbours=knn_neighbours,
            knn_temperature=knn_temperature,
        )
        config = RunConfig(
            images=data, out=Path(), transfer_data=data, seed=seed, workers=workers, device=device, transfer=settings
        )
        from orl.run import judge_file
        from orl.weights.loading import weights_file

        path = out or weights_file(backbone).with_name(f"{task}_{data.resolve().name}.json")

        result = judge_file(task, backbone, path, config, architecture)
        finish("result", path)
        print(f"{task}: mean AP {100 * result['mean_ap']:.2f} over {len(result['per_class_ap'])} classes")

    tyro.cli(transfer, args=list(arguments), prog="orl transfer")


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
