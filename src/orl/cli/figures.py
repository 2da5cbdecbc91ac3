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
    from orl.figures.discovery_figures import Order, correspondence_sheet, proposal_sheet
    from orl.figures.neighbour_figure import NeighbourOptions, neighbour_sheet
    from orl.figures.roi_map_figure import RoiMapOptions, roi_map_figure
    from orl.figures.sheets import SheetOptions

    def correspondences(
        run: Annotated[Path, tyro.conf.Positional],
        sheet: tyro.conf.OmitArgPrefixes[SheetOptions],
        order: Order = "top",
        pairs: int = 3,
    ) -> None:
        """Images beside a neighbour each, the best pairs of RoIs joined, with their similarity (a cosine).

        Args:
            run: folder of a run whose stage 2 is done.
            sheet: layout.
            order: which pairs of images: by their best RoIs (top, lowest), drawn at random, or image by image in turn.
            pairs: most pairs of RoIs in each, from 1 to 6.
        """
        finish("figure", correspondence_sheet(RunDir(run), sheet, order, pairs))

    def proposals(
        run: Annotated[Path, tyro.conf.Positional],
        sheet: tyro.conf.OmitArgPrefixes[SheetOptions],
        boxes: int = 150,
    ) -> None:
        """Images drawn at random, each with its proposals and beside them the RoIs that the filter kept.

        Args:
            run: folder of a run whose stage 2 has filtered the proposals.
            sheet: layout.
            boxes: most proposals drawn of an image; of more, a random choice.
        """
        finish("figure", proposal_sheet(RunDir(run), sheet, boxes))

    def neighbours(
        run: Annotated[Path, tyro.conf.Positional], options: tyro.conf.OmitArgPrefixes[NeighbourOptions]
    ) -> None:
        """Images drawn at random, each with the images that stage 2 found nearest to it.

        Args:
            run: folder of a run whose stage 2 has looked for neighbours.
            options: whose neighbours.
        """
        finish("figure", neighbour_sheet(RunDir(run), options))

    def roi_map(run: Annotated[Path, tyro.conf.Positional], options: tyro.conf.OmitArgPrefixes[RoiMapOptions]) -> None:
        """A map of RoIs by t-SNE of their embeddings, coloured by class where the images' source has labels.

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
    from orl.figures.attention_figure import AttentionOptions, attention_figure, format_scores
    from orl.figures.run_images import load_run_images
    from orl.figures.view_figure import ViewOptions, view_sheet
    from orl.pipeline.view_samplers import build_view_sampler

    def attention(
        run: Annotated[Path, tyro.conf.Positional],
        options: tyro.conf.OmitArgPrefixes[AttentionOptions],
        backbones: tuple[str, ...] = (),
        labels: tuple[str, ...] = (),
    ) -> None:
        """Where backbones look, side by side on the same images; with objects known, how well they are met.

        Args:
            run: folder of a run, whose images are shown.
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
            options: which images and which epoch.
            stage: stage1 has two views of an image; stage3 also two of an object, and one object in two images.
        """
        images, config = load_run_images(RunDir(run)), replace(load_config(RunDir(run).config), out=run)
        finish("figure", view_sheet(RunDir(run), build_view_sampler(config, stage, images), stage, options))

    return {"attention": attention, "views": views}


def _chart_kinds() -> Kinds:
    """Numbers of several runs or backbones."""
    from orl.figures.chart_figures import CurveOptions, class_figure, curve_figure, low_shot_figure
    from orl.figures.figure_files import FileOptions

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
            results: JSON files of 'orl evaluate', or folders of runs, for all backbones that were judged in them.
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
        """mAP over the labelled images of each class, with the spread over samples, a line for each backbone.

        Args:
            results: JSON files of 'orl evaluate low-shot', or folders of runs.
            options: where it goes.
            best_cost_on_test: as published, at the cost that is best on the test images.
            labels: a name for each backbone, in their order.
        """
        finish("figure", low_shot_figure(results, options, best_cost_on_test, labels))

    return {"curves": curves, "classes": classes, "low-shot": low_shot}
