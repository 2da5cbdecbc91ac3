"""How the compared runs scored: backbones on labelled sets, with few labels, and discovery."""

from collections.abc import Mapping, Sequence
from typing import Any

from orl.figures import page
from orl.figures.charts import LowShotLine, draw_class_bars, draw_low_shot
from orl.figures.compared.runs import ComparedRun
from orl.figures.page import Html
from orl.figures.pictures import as_svg
from orl.figures.results import BACKBONES, TASKS, Scored, read_low_shot, read_results
from orl.figures.sections.low_shot import low_shot_line
from orl.rundir import read_discovery_score

SHARES = {
    "object_share": "Both on an object (%)",
    "same_class_share": "Of those, one class (%)",
    "both_share": "Both, one class (%)",
    "random_both_share": "The same at random (%)",
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
        "Each backbone is frozen and judged on labelled photos; mean average precision out of 100, the best of a "
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
        share: max((score.get(share) or 0.0 for score in known.values()), default=0.0)
        for share in SHARES
        if not share.startswith("random")
    }
    rows = [
        [
            label,
            f"{score['num_pairs']:,}",
            *(_share(score, share, best.get(share)) for share in SHARES),
            f"{score['lift']:.2f}" if score.get("lift") is not None else "–",
        ]
        for label, score in known.items()
    ]
    columns = ["Run", "Pairs", *SHARES.values(), "Times chance"]
    intro = page.paragraph(
        "The best pair of every two photos against the labelled boxes, with 95% intervals by a bootstrap over the "
        "query photos. Runs with other photos have other chances: compare them by the last column."
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
            *(page.share_bar(each.get(task), best=each.get(task) == best[task]) for task in tasks),
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
            chart = as_svg(draw_class_bars({page.chart_label(label): each for label, each in scored.items()}))
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
            as_svg(draw_low_shot({page.chart_label(label): line for label, line in lines.items()})),
            f"Chart: mAP on {name} over the labelled photos of each class, of {', '.join(lines)}",
            f"Few labelled photos of {name}",
        )
        for name, lines in sets.items()
    ]
    return page.gallery(figures) if figures else Html("")


def _share(score: Mapping[str, Any], share: str, best: float | None) -> Html:
    return page.share_bar(
        score.get(share), score.get(f"{share}_interval_95"), best=best is not None and score.get(share) == best
    )
