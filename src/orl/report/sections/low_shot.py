"""The section of low-shot scores: mean average precision with few labelled images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orl.evaluation.low_shot import LOW_SHOT
from orl.evaluation.pooling import feature_kind
from orl.figures.curve_figure import chart_label
from orl.figures.score_figures import LowShotLine, draw_low_shot, low_shot_line
from orl.figures.sheets import count_text
from orl.report.content import Figure, Note, ScoreTable, Section, chart_figure
from orl.report.runs import ReportInputs
from orl.report.scores import BACKBONE_TITLES, read_scores


@dataclass(frozen=True, kw_only=True)
class LowShot(Section):
    """Mean average precision over the number of labelled images of each class, by data set."""

    template = "low_shot.html"
    datasets: Sequence[tuple[Figure, ScoreTable]]


def low_shot_section(inputs: ReportInputs) -> LowShot:
    """Gather the low-shot scores of all backbones of all runs."""
    datasets: dict[str, dict[str, LowShotLine]] = {}
    for run in inputs.runs:
        for score in read_scores(run.run):
            if score.evaluation is LOW_SHOT:
                lines = datasets.setdefault(f"{score.dataset}, {feature_kind(score.result)}", {})
                lines.setdefault(run.named(BACKBONE_TITLES[score.backbone]), low_shot_line(score.result))
    command = f"orl evaluate low-shot --backbone {inputs.runs[0].run.root} --data VOC2007"
    return LowShot(
        title="Few labelled images",
        notes=[] if datasets else [Note("No backbone has been scored with few labelled images. To do it:", command)],
        datasets=[_dataset_scores(name, lines) for name, lines in datasets.items()],
    )


def _dataset_scores(name: str, lines: Mapping[str, LowShotLine]) -> tuple[Figure, ScoreTable]:
    shots = sorted({k for line in lines.values() for k in line.shots})
    ends = "; ".join(
        f"{label} from {_score(line, line.shots[0])} to {_score(line, line.shots[-1])}" for label, line in lines.items()
    )
    caption = f"mAP on {name} over the labelled images of each class: {ends}."
    chart = draw_low_shot({chart_label(label): line for label, line in lines.items()})
    table = ScoreTable(
        caption=f"mAP on {name}, with the standard deviation over samples",
        columns=["Backbone", *(count_text(k, "image") for k in shots)],
        rows=[[label, *(_score(line, k) for k in shots)] for label, line in lines.items()],
    )
    return chart_figure(chart, caption), table


def _score(line: LowShotLine, k: int) -> str:
    if k not in line.shots:
        return "–"
    index = line.shots.index(k)
    return f"{100 * line.mean_ap[index]:.1f} ± {100 * line.std[index]:.1f}"
