"""Figures for a paper: `orl figures KIND`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from orl.cli.options import finish
from orl.config import load_config
from orl.rundir import RunDir

Options = TypeVar("Options")
Run = Annotated[Path, tyro.conf.arg(metavar="RUN"), tyro.conf.Positional]
Runs = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN ..."), tyro.conf.Positional]
Results = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RESULT ..."), tyro.conf.Positional]
Figure = Annotated[Options, tyro.conf.arg(name="")]
"""Options of a figure, in the first group of --help."""


def command_figures(arguments: Sequence[str]) -> None:
    """Draw a figure for a paper: `orl figures correspondences RUN`, `orl figures attention RUN`, ..."""
    from orl.figures.attention_figure import AttentionOptions, attention_figure, format_scores
    from orl.figures.correspondence_figure import CorrespondenceOptions, correspondence_figure
    from orl.figures.curve_figure import CurveOptions, curve_figure
    from orl.figures.figure_files import FigureFile
    from orl.figures.neighbour_figure import NeighbourOptions, neighbour_figure
    from orl.figures.proposal_figure import ProposalOptions, proposal_figure
    from orl.figures.roi_map_figure import RoiMapOptions, roi_map_figure
    from orl.figures.run_images import load_run_images
    from orl.figures.score_figures import ClassOptions, LowShotOptions, class_figure, low_shot_figure
    from orl.figures.view_figure import ViewOptions, view_figure
    from orl.pipeline.view_samplers import build_view_sampler

    File = tyro.conf.OmitArgPrefixes[FigureFile]

    def correspondences(run: Run, options: Figure[CorrespondenceOptions], file: File) -> Path:
        """Draw images, each beside a neighbour, with the most similar RoIs joined and their cosines.

        Args:
            run: Folder of a run whose stage 2 is done.
        """
        return correspondence_figure(RunDir(run), options, file)

    def proposals(run: Run, options: Figure[ProposalOptions], file: File) -> Path:
        """Draw images sampled at random with their proposals, and beside them the RoIs that the filter kept.

        Args:
            run: Folder of a run whose stage 2 has filtered the proposals.
        """
        return proposal_figure(RunDir(run), options, file)

    def neighbours(run: Run, options: Figure[NeighbourOptions], file: File) -> Path:
        """Draw images sampled at random, each with the images that stage 2 found nearest to it.

        Args:
            run: Folder of a run whose stage 2 has searched for neighbours.
        """
        return neighbour_figure(RunDir(run), options, file)

    def roi_map(run: Run, options: Figure[RoiMapOptions], file: File) -> Path:
        """Draw a map of RoIs by t-SNE of their embeddings, coloured by class if the images have labels.

        Args:
            run: Folder of a run whose stage 2 has embedded the RoIs.
        """
        return roi_map_figure(RunDir(run), options, file)

    def attention(run: Run, options: Figure[AttentionOptions], file: File) -> Path:
        """Draw attention maps of several backbones on the same images, and score them against annotated objects.

        Args:
            run: Folder of the run whose images are shown.
        """
        path, scores = attention_figure(RunDir(run), options, file)
        if scores is not None:
            print(format_scores(scores))
            finish("scores", path.with_suffix(".json"))
        return path

    def views(
        run: Run, options: Figure[ViewOptions], file: File, stage: Literal["stage1", "stage3"] = "stage3"
    ) -> Path:
        """Draw the views that a stage trains on, as the network sees them, beside the boxes of their crops.

        Args:
            run: Folder of a run; for stage 3 its stage 2 must be done.
            stage: In stage 1, two views of an image; in stage 3 also views of one object in one and in two images.
        """
        images, config = load_run_images(RunDir(run)), replace(load_config(RunDir(run).config), out=run)
        return view_figure(RunDir(run), build_view_sampler(config, stage, images), stage, options, file)

    def curves(runs: Runs, options: Figure[CurveOptions], file: File) -> Path:
        """Draw training curves of several runs, a panel for each series.

        Args:
            runs: Folders of runs.
        """
        return curve_figure(runs, options, file)

    def classes(results: Results, options: Figure[ClassOptions], file: File) -> Path:
        """Draw the AP of each class, as bars of two or more backbones.

        Args:
            results: JSON files of 'orl evaluate', or folders of runs, for all backbones evaluated in them.
        """
        return class_figure(results, options, file)

    def low_shot(results: Results, options: Figure[LowShotOptions], file: File) -> Path:
        """Draw mAP over the labelled images per class, a line for each backbone, with its std over samples.

        Args:
            results: JSON files of 'orl evaluate low-shot', or folders of runs.
        """
        return low_shot_figure(results, options, file)

    kinds: dict[str, Any] = {
        **{"correspondences": correspondences, "proposals": proposals, "neighbours": neighbours, "roi-map": roi_map},
        **{"attention": attention, "views": views},
        **{"curves": curves, "classes": classes, "low-shot": low_shot},
    }
    path = tyro.extras.subcommand_cli_from_dict(
        kinds,
        args=list(arguments),
        prog="orl figures",
        description=command_figures.__doc__,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    finish("figure", path)
