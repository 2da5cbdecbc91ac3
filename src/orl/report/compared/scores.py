"""How the compared runs scored: backbones on labelled sets, with few labels, and discovery."""

from collections.abc import Mapping, Sequence
from typing import Any

from orl.figures.pictures import as_svg
from orl.figures.score_figures import LowShotLine, chart_label, draw_class_bars, draw_low_shot
from orl.report import html as page
from orl.report.compared.runs import ComparedRun
from orl.report.html import Html
from orl.report.results import BACKBONES, TASKS, Scored, read_low_shot, read_results
from orl.report.sections.low_shot import low_shot_line
from orl.rundir import read_discovery_score

FRACTIONS = {
    "object_fraction": "Both on an object (%)",
    "same_class_fraction": "Of those, one class (%)",
    "both_fraction": "Both, one class (%)",
    "random_both_fraction": "The same at random (%)",
}


def results_section(runs: Sequence[ComparedRun]) -> tuple[str, Html]:
    """Mean average precision of all backbones of all runs, a table for each labelled set."""
    found = {each.label: read_results(each.run) for each in runs}
    notes = [
        page.missing(f"No backbone of {label} has been scored.") for label, results in found.items() if not results
    ]
    sets = dict.fromkeys(name for results in found.values() for name in results)
    parts = [_of_set(name, found) for name in sets]
    intro = page.paragraph(
        "Each backbone is frozen and judged on labelled images; mean average precision out of 100, the best of a "
        "column in bold. One run has one seed: small differences can be chance."
    )
    return page.section("Results", intro, *notes, *parts, _class_bars(runs, found), _low_shot(runs))


def discovery_section(runs: Sequence[ComparedRun]) -> tuple[str, Html]:
    """The discovery score of every run: are the matched boxes objects, and of one class?"""
    scores = {each.label: read_discovery_score(each.run) for each in runs}
    known = {label: score for label, score in scores.items() if score is not None}
    notes = [page.missing(f"Discovery of {label} has not been scored.") for label in scores if label not in known]
    if not known:
        return page.section("Discovery score", *notes)
    best = {
        fraction: max((score.get(fraction) or 0.0 for score in known.values()), default=0.0)
        for fraction in FRACTIONS
        if not fraction.startswith("random")
    }
    rows = [
        [
            label,
            f"{score['num_pairs']:,}",
            *(_share(score, fraction, best.get(fraction)) for fraction in FRACTIONS),
            f"{score['lift']:.2f}" if score.get("lift") is not None else "–",
        ]
        for label, score in known.items()
    ]
    columns = ["Run", "Pairs", *FRACTIONS.values(), "Times chance"]
    intro = page.paragraph(
        "The best pair of every two images against the labelled boxes, with 95% intervals by a bootstrap over the "
        "query images. Runs with other images have other chances: compare them by the last column."
    )
    return page.section("Discovery score", intro, *notes, page.table("Pairs that stage 2 matched", columns, rows))


def _of_set(name: str, found: Mapping[str, Mapping[str, Scored]]) -> Html:
    scores = {
        (run, label): {
            task: float(sets[name][task, label]["mean_ap"]) for task in TASKS if (task, label) in sets.get(name, {})
        }
        for run, sets in found.items()
        for label in BACKBONES
    }
    scores = {key: each for key, each in scores.items() if each}
    tasks = [task for task in TASKS if any(task in each for each in scores.values())]
    best = {task: max(each[task] for each in scores.values() if task in each) for task in tasks}
    rows = [
        [
            f"{run}: {BACKBONES[label]}",
            *(page.fraction_bar(each.get(task), best=each.get(task) == best[task]) for task in tasks),
        ]
        for (run, label), each in scores.items()
    ]
    return page.table(f"mAP on {name}", ["Backbone", *(f"{TASKS[task]} mAP" for task in tasks)], rows)


def _class_bars(runs: Sequence[ComparedRun], found: Mapping[str, Mapping[str, Scored]]) -> Html:
    """AP of each class by the linear SVM, of the last backbones that were scored on one set."""
    last: dict[str, dict[str, dict[str, float]]] = {}
    for each in runs:
        for name, results in found[each.label].items():
            if each.last_stage and ("svm", each.last_stage) in results:
                result = results["svm", each.last_stage]
                last.setdefault(name, {})[each.last_label] = result.get("per_class_ap") or {}
    figures = []
    for name, scored in last.items():
        if len(scored) > 1 and all(scored.values()):
            chart = as_svg(draw_class_bars({chart_label(label): each for label, each in scored.items()}))
            figures.append(
                page.figure(chart, f"Bar chart: AP of each class on {name}", f"AP of each class on {name}, linear SVM")
            )
    return page.gallery(figures) if figures else Html("")


def _low_shot(runs: Sequence[ComparedRun]) -> Html:
    sets: dict[str, dict[str, LowShotLine]] = {}
    for each in runs:
        for name, results in read_low_shot(each.run).items():
            for label, result in results.items():
                line = f"{each.label}, {BACKBONES[label].split(',')[0].lower()}"
                sets.setdefault(name, {})[line] = low_shot_line(result)
    figures = [
        page.figure(
            as_svg(draw_low_shot({chart_label(label): line for label, line in lines.items()})),
            f"Chart: mAP on {name} over the labelled images of each class, of {', '.join(lines)}",
            f"Few labelled images of {name}",
        )
        for name, lines in sets.items()
    ]
    return page.gallery(figures) if figures else Html("")


def _share(score: Mapping[str, Any], fraction: str, best: float | None) -> Html:
    return page.fraction_bar(
        score.get(fraction), score.get(f"{fraction}_interval_95"), best=best is not None and score.get(fraction) == best
    )
