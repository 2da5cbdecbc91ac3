"""What sections share: the stages that a run trains, a chart, a sentence where there is nothing to show."""

from jaxtyping import UInt8
from numpy import ndarray

from orl.config import RunConfig, load_config
from orl.figures.curve_figure import draw_curves
from orl.figures.pictures import as_svg
from orl.figures.score_figures import chart_label
from orl.report import html as page
from orl.report.html import Html
from orl.report.results import how_to_go_on
from orl.rundir import TRAINED_STAGES, RunDir

Image = UInt8[ndarray, "h w 3"]


def trained_stages(run: RunDir) -> dict[str, str]:
    """The stages that a run trains, with their names: stage 1 may be left out."""
    config = readable_config(run)
    left_out = config is not None and not config.needs_stage1
    return {stage: label for stage, label in TRAINED_STAGES.items() if not (left_out and stage == "stage1")}


def readable_config(run: RunDir) -> RunConfig | None:
    """The settings of a run; none where they are missing or damaged."""
    try:
        return load_config(run.config)
    except (FileNotFoundError, ValueError):
        return None


def chart(curves: dict[str, tuple[ndarray, ndarray]], value_name: str, caption: str) -> Html:
    """Series over the epochs as a chart that is sharp at any size; its caption is its words too."""
    return page.figure(
        as_svg(draw_curves({chart_label(label): curve for label, curve in curves.items()}, value_name)),
        f"Chart: {caption}",
        caption,
    )


def not_there(run: RunDir, sentence: str, error: Exception) -> Html:
    """A sentence in place of a part that the run has not left, or that cannot be read, and how to go on."""
    if isinstance(error, FileNotFoundError):
        return page.missing(f"{sentence}. ", how_to_go_on(run))
    return page.missing(f"{sentence}: {error}. ", how_to_go_on(run))
