"""The section of results: how well each backbone tells classes apart."""

from collections.abc import Sequence

from orl.figures.pictures import as_svg
from orl.figures.score_figures import draw_class_bars
from orl.report import html as page
from orl.report.html import Html
from orl.report.results import BACKBONES, TASKS, Scored, how_to_go_on, read_results
from orl.report.sections.frames import readable_config
from orl.rundir import RunDir


def results_section(run: RunDir) -> tuple[str, Html]:
    """Mean average precision of each backbone by each judge, and of each class on demand; by labelled set."""
    title, sets = "Results", read_results(run)
    if not sets:
        return page.section(title, page.missing("No backbone has been scored. ", _how_to_score(run)))
    intro = page.paragraph(
        "Each backbone is frozen and its features of labelled images are judged: how well do they tell "
        "the classes apart? Mean average precision (mAP) over the classes, out of 100; higher is "
        "better."
    )
    return page.section(title, intro, *(_of_set(run, name, results) for name, results in sets.items()))


def _of_set(run: RunDir, name: str, results: Scored) -> Html:
    tasks = [task for task in TASKS if any(key[0] == task for key in results)]
    rows = [
        [title, *(page.fraction_bar(_mean_ap(results, task, label)) for task in tasks)]
        for label, title in BACKBONES.items()
        if any(key[1] == label for key in results)
    ]
    unscored = [title for label, title in BACKBONES.items() if not any(key[1] == label for key in results)]
    return page.join(
        page.table(f"mAP on {name}", ["Backbone", *(f"{TASKS[task]} mAP" for task in tasks)], rows),
        *(page.paragraph(sentence) for sentence in _comparisons(results)),
        *(page.missing(f"{title}: not scored yet. ", _how_to_score(run)) for title in unscored),
        _class_charts(results, tasks),
        *(_per_class_table(results, task) for task in tasks),
    )


def _how_to_score(run: RunDir) -> Html:
    """The command of the run where it has a labelled set, else one that takes some."""
    config = readable_config(run)
    if config is not None and config.eval_data is not None:
        return how_to_go_on(run)
    return page.join("That needs a labelled set: ", page.code(f"orl evaluate svm --backbone {run.root} --data VOC2007"))


def _mean_ap(results: Scored, task: str, label: str) -> float | None:
    return results[task, label]["mean_ap"] if (task, label) in results else None


def _comparisons(results: Scored) -> list[str]:
    sentences = []
    for task, name in TASKS.items():
        before, after = _mean_ap(results, task, "stage1"), _mean_ap(results, task, "stage3")
        if before is not None and after is not None:
            points = round(100 * after, 1) - round(100 * before, 1)
            side = "above" if points > 0 else "below"
            how = f"{abs(points):.1f} points {side}" if abs(points) >= 0.05 else "level with"
            sentences.append(f"By the {name[0].lower() + name[1:]}, stage 3 is {how} stage 1.")
    return sentences


def _class_charts(results: Scored, tasks: Sequence[str]) -> Html:
    figures = []
    for task in tasks:
        scored = {
            BACKBONES[label]: each.get("per_class_ap") or {} for (of, label), each in results.items() if of == task
        }
        if scored and all(scored.values()):
            alt = f"Bar chart: AP of each class by {TASKS[task]}; the table below has its numbers"
            figures.append(page.figure(as_svg(draw_class_bars(scored)), alt, f"AP of each class, {TASKS[task]}"))
    return page.gallery(figures) if figures else Html("")


def _per_class_table(results: Scored, task: str) -> Html:
    scored = {label: results[task, label].get("per_class_ap", {}) for label in BACKBONES if (task, label) in results}
    classes = list(dict.fromkeys(name for per_class in scored.values() for name in per_class))
    rows = [
        [
            name,
            *(f"{100 * per_class[name]:.1f}" if name in per_class else "–" for per_class in scored.values()),
        ]
        for name in classes
    ]
    table = page.table(f"AP of each class, {TASKS[task]}", ["Class", *(BACKBONES[label] for label in scored)], rows)
    return page.details(f"{TASKS[task]}: AP of each of {len(classes)} classes", table) if classes else Html("")
