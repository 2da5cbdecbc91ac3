"""Pictures for a paper: `orl figures KIND`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from orl.cli.options import finish
from orl.config import load_config
from orl.rundir import RunDir

Kinds = dict[str, Callable[..., None]]


def command_figures(arguments: Sequence[str]) -> None:
    """Draw a figure for a paper: `orl figures correspondences RUN`, `orl figures attention RUN`, ..."""
    tyro.extras.subcommand_cli_from_dict(
        {**_discovery_kinds(), **_network_kinds(), **_chart_kinds()},
        args=list(arguments),
        prog="orl figures",
        description=command_figures.__doc__,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _discovery_kinds() -> Kinds:
    """What stage 2 found."""
    from orl.figures.jobs import Order, correspondence_sheet, proposal_sheet
    from orl.figures.neighbours import NeighbourOptions, neighbour_sheet
    from orl.figures.roi_map_job import RoiMapOptions, roi_map_figure
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

    def neighbours(
        run: Annotated[Path, tyro.conf.Positional], options: tyro.conf.OmitArgPrefixes[NeighbourOptions]
    ) -> None:
        """Photos drawn at random, each with the photos that stage 2 found nearest to it.

        Args:
            run: folder of a run whose stage 2 has looked for neighbours.
            options: whose neighbours.
        """
        finish("figure", neighbour_sheet(RunDir(run), options))

    def roi_map(run: Annotated[Path, tyro.conf.Positional], options: tyro.conf.OmitArgPrefixes[RoiMapOptions]) -> None:
        """A map of RoIs by t-SNE of their embeddings, coloured by class where the photos' source has labels.

        Args:
            run: folder of a run whose stage 2 has embedded the RoIs.
            options: which RoIs, by whose embeddings.
        """
        finish("figure", roi_map_figure(RunDir(run), options))

    return {
        "correspondences": correspondences,
        "proposals": proposals,
        "neighbours": neighbours,
        "roi-map": roi_map,
    }


def _network_kinds() -> Kinds:
    """What goes into a network, and where it looks."""
    from orl.figures.attention_job import AttentionOptions, attention_figure, format_scores
    from orl.figures.run_photos import load_run_photos
    from orl.figures.views import ViewOptions, view_sheet
    from orl.stages.placers import view_placer

    def attention(
        run: Annotated[Path, tyro.conf.Positional],
        options: tyro.conf.OmitArgPrefixes[AttentionOptions],
        backbones: tuple[str, ...] = (),
        labels: tuple[str, ...] = (),
    ) -> None:
        """Where backbones look, side by side on the same photos; with objects known, how well they are met.

        Args:
            run: folder of a run, whose photos are shown.
            options: what is reduced, drawn and scored.
            backbones: runs, exports or files of other projects, or 'random'; the run's stages 1 and 3 if not given.
            labels: a name for each of them.
        """
        path, scores = attention_figure(RunDir(run), options, backbones, labels)
        if scores is not None:
            print(format_scores(scores))
            finish("scores", path.with_suffix(".json"))
        finish("figure", path)

    def views(
        run: Annotated[Path, tyro.conf.Positional],
        options: tyro.conf.OmitArgPrefixes[ViewOptions],
        stage: Literal["stage1", "stage3"] = "stage3",
    ) -> None:
        """The views that a stage trains on, as the network sees them, beside the boxes that they were cut along.

        Args:
            run: folder of a run; for stage 3 its stage 2 must be done.
            options: which photos and which epoch.
            stage: stage1 has two views of a photo; stage3 also two of an object, and one object in two photos.
        """
        images, config = load_run_photos(RunDir(run)), replace(load_config(RunDir(run).config), out=run)
        finish("figure", view_sheet(RunDir(run), view_placer(config, stage, images), stage, options))

    return {"attention": attention, "views": views}


def _chart_kinds() -> Kinds:
    """Numbers of several runs or backbones."""
    from orl.figures.chart_jobs import CurveOptions, class_figure, curve_figure, low_shot_figure
    from orl.figures.files import FileOptions

    def curves(
        runs: tyro.conf.Positional[tuple[Path, ...]],
        options: tyro.conf.OmitArgPrefixes[CurveOptions],
        labels: tuple[str, ...] = (),
    ) -> None:
        """Training curves of several runs together, a panel for each series.

        Args:
            runs: folders of runs.
            options: which stage and series.
            labels: a name for each run; the name of its folder if not given.
        """
        finish("figure", curve_figure(runs, options, labels))

    def classes(
        results: tyro.conf.Positional[tuple[Path, ...]],
        options: tyro.conf.OmitArgPrefixes[FileOptions],
        task: Literal["svm", "knn"] = "svm",
        labels: tuple[str, ...] = (),
    ) -> None:
        """AP of each class, as bars of two or more backbones.

        Args:
            results: JSON files of 'orl transfer', or folders of runs, for all backbones that were judged in them.
            options: where it goes.
            task: whose results of a run are taken.
            labels: a name for each backbone, in their order.
        """
        finish("figure", class_figure(results, options, task, labels))

    def low_shot(
        results: tyro.conf.Positional[tuple[Path, ...]],
        options: tyro.conf.OmitArgPrefixes[FileOptions],
        best_cost_on_test: bool = False,
        labels: tuple[str, ...] = (),
    ) -> None:
        """mAP over the labelled photos of each class, with the spread over samples, a line for each backbone.

        Args:
            results: JSON files of 'orl transfer low-shot', or folders of runs.
            options: where it goes.
            best_cost_on_test: as published, at the cost that is best on the test photos.
            labels: a name for each backbone, in their order.
        """
        finish("figure", low_shot_figure(results, options, best_cost_on_test, labels))

    return {"curves": curves, "classes": classes, "low-shot": low_shot}
