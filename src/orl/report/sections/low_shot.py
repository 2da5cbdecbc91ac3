"""The section of few labelled images: how well a backbone does where little is labelled."""

from collections.abc import Mapping
from typing import Any

from orl.figures.pictures import as_svg
from orl.figures.score_figures import LowShotLine, draw_low_shot
from orl.report import html as page
from orl.report.html import Html
from orl.report.results import BACKBONES, read_low_shot
from orl.rundir import RunDir


def low_shot_section(run: RunDir) -> tuple[str, Html]:
    """Mean average precision over the number of labelled images of each class."""
    title, sets = "Few labelled images", read_low_shot(run)
    if not sets:
        command = page.code(f"orl evaluate low-shot --backbone {run.root} --data VOC2007")
        return page.section(title, page.missing("No backbone has been judged on few images. To do it: ", command))
    intro = page.paragraph(
        "Linear SVMs on frozen features that saw few images of each class; mean and standard deviation over samples of "
        "the images, at costs that test labels had no part in."
    )
    return page.section(title, intro, *(_of_set(name, results) for name, results in sets.items()))


def low_shot_line(result: Mapping[str, Any]) -> LowShotLine:
    """The line of one result, as a chart takes it."""
    shots = [str(k) for k in result["shots"]]
    return LowShotLine(
        shots=tuple(result["shots"]),
        mean_ap=tuple(result["mean_ap"][k] for k in shots),
        std=tuple(result["std"][k] for k in shots),
    )


def _of_set(name: str, results: Mapping[str, Mapping[str, Any]]) -> Html:
    lines = {BACKBONES[label]: low_shot_line(result) for label, result in results.items()}
    shots = sorted({k for line in lines.values() for k in line.shots})
    rows = [[label, *(_cell(line, k) for k in shots)] for label, line in lines.items()]
    ends = "; ".join(
        f"{label} from {_cell(line, shots[0])} to {_cell(line, shots[-1])}" for label, line in lines.items()
    )
    caption = f"mAP on {name} over the labelled images of each class: {ends}."
    chart = page.figure(as_svg(draw_low_shot(lines)), f"Chart: {caption}", caption)
    columns = ["Backbone", *(f"{k} image{'' if k == 1 else 's'}" for k in shots)]
    return page.join(page.gallery([chart]), page.table(f"mAP on {name}, with the standard deviation", columns, rows))


def _cell(line: LowShotLine, k: int) -> str:
    if k not in line.shots:
        return "–"
    index = line.shots.index(k)
    return f"{100 * line.mean_ap[index]:.1f} ± {100 * line.std[index]:.1f}"
