"""The page of results, written out of result files so that it cannot drift from them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orl import files
from orl.ablations.charts import ablation_chart
from orl.ablations.markdown import (
    TASKS,
    ablation_tables,
    is_judged,
    provenance,
    score,
    seed_statistics_of,
    table,
    variant_names,
)
from orl.ablations.records import KIND, read_result
from orl.ablations.seed_statistics import SeedStatistics
from orl.figures.figure_files import save_figure

HEADLINE = "stages"
"""The study whose numbers the README shows."""
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
NOTICE = "<!-- Written by `orl results`; change the files that it was made from. -->"


def write_page(folder: Path, to: Path, *, benchmarks: Path | None = None, readme: Path | None = None) -> list[Path]:
    """Write the page, its charts and, where it is given, the part of the README that shows results.

    Args:
        folder: of the result files; they come in the order of their names. Words about one are in the file of the same
            name that ends in .md; index.md comes before all.
        to: the page; charts go into `figures/` beside it.
        benchmarks: folder of the results of benchmarks.
        readme: a page with a part between two marks.

    Returns:
        The pages that were written.

    Raises:
        FileNotFoundError: if there are no result files.
        ValueError: if one is damaged, or the README has no such part.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no result files; 'orl ablate' writes them")
    results = {path: read_result(path) for path in paths}
    parts = [NOTICE, "", *_words(folder / "index.md")]
    for path, result in results.items():
        parts += _section(path, result, to)
    if benchmarks is not None:
        parts += _benchmarks(benchmarks)
    files.write_atomically(to, "\n".join(parts).rstrip() + "\n")
    if readme is None:
        return [to]
    _write_readme(readme, [*results.items()], to)
    return [to, readme]


def _section(path: Path, result: Mapping[str, Any], to: Path) -> list[str]:
    if result["kind"] == KIND:
        lines = [f"## {result['question']}", "", *_studied(result), *ablation_tables(result), _HOW_TO_READ, ""]
        lines += _charted(path, result, to)
    else:
        lines = [f"## {result['title']}", ""]
        for each in result["tables"]:
            lines += table(each["caption"], each["columns"], each["rows"])
    lines += _words(path.with_suffix(".md"))
    return [*lines, *_commands(result), provenance(result) + ".", ""]


_HOW_TO_READ = (
    "Mean ± standard deviation over the seeds; differences are taken seed by seed, and marked * where the 95% interval "
    "of their mean (Student's t) leaves out 0; of twenty without an effect, one is marked by chance. Compute is what "
    "passes the network, over the reference's."
)


def _studied(result: Mapping[str, Any]) -> list[str]:
    """What was trained on what, in words."""
    settings, judged = result["settings"], result.get("judged_on")
    first, third, objects = settings["stage1"], settings["stage3"], settings["objects"]
    sizes = f"views of {first['views']['size_px']} px and RoIs of {objects['roi_size_px']} px"
    start = " from its weights" if objects.get("warm_start") else ""
    trained = f" and {third['epochs']} of stage 3{start}" if is_judged(result) else " and no stage 3"
    epochs = f"{first['epochs']} epochs of stage 1{trained}, batch {first['batch_size']}"
    words = [
        f"{result['num_images']:,} images of {result['images']} without labels, {settings['network']['backbone']}, "
        f"{sizes}, {epochs}, {settings['precision']}."
    ]
    if judged and is_judged(result):
        words.append(
            f"Judged on {judged['data']}, learnt from {judged['train_split']} and scored on {judged['test_split']}, at "
            f"{judged['size_px']} px."
        )
    return [" ".join(words), ""]


def _commands(result: Mapping[str, Any]) -> list[str]:
    given = result.get("command")
    commands = [given] if isinstance(given, str) else list(given or [])
    return ["```sh", *commands, "```", ""] if commands else []


def _words(path: Path) -> list[str]:
    return [path.read_text().strip(), ""] if path.exists() else []


def _chart_path(path: Path, to: Path) -> Path:
    return to.parent / "figures" / f"results_{path.stem}.svg"


def _charted(path: Path, result: Mapping[str, Any], to: Path) -> list[str]:
    """Write the chart of a study; lines that show it."""
    figure = ablation_chart(result)
    if figure is None:
        return []
    chart = _chart_path(path, to)
    save_figure(figure, chart)
    return [f"![{result['question']}]({chart.relative_to(to.parent).as_posix()})", ""]


def _benchmarks(folder: Path) -> list[str]:
    lines = ["## Speed", "", "Every comparison of times in `benchmarks/results/`; above 1 ours is faster.", ""]
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text())
        rows = [_benchmark_row(each) for each in found if isinstance(each, dict) and "ratio_median" in each]
        if rows:
            first = next(each for each in found if "ratio_median" in each)
            columns = ["claim", "against", "times", "10th to 90th percentile", "pairs"]
            lines += table(f"`benchmarks/{path.stem}.py`", columns, rows)
            lines += [_benchmark_provenance(first), ""]
    return lines


def _benchmark_row(found: Mapping[str, Any]) -> list[str]:
    ratio, low, high = (f"{found[f'ratio_{name}']:.2f}" for name in ("median", "p10", "p90"))
    return [found["claim"], found["alternative"], ratio, f"{low} to {high}", str(found["runs"])]


def _benchmark_provenance(found: Mapping[str, Any]) -> str:
    machine = found.get("machine", {})
    device = machine.get("gpu") or f"{machine.get('processor')}, {machine.get('processors')} processors"
    torch = found.get("versions", {}).get("torch")
    return f"commit {found.get('commit')}; on {device}, {machine.get('torch_threads')} threads; torch {torch}."


def _write_readme(readme: Path, results: Sequence[tuple[Path, Mapping[str, Any]]], to: Path) -> None:
    text = readme.read_text()
    before, begins, rest = text.partition(BEGIN)
    _, ends, after = rest.partition(END)
    if not begins or not ends:
        raise ValueError(f"{readme} has no part between {BEGIN} and {END} to write results into")
    shown = next(((path, result) for path, result in results if result.get("name") == HEADLINE), None)
    if shown is None:
        raise FileNotFoundError(f"there is no result of study {HEADLINE!r}, which {readme} shows")
    lines = _headline(*shown, to, readme.parent)
    files.write_atomically(readme, f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}")


def _headline(path: Path, result: Mapping[str, Any], to: Path, root: Path) -> list[str]:
    rows = []
    for variant in variant_names(result):
        spreads = [seed_statistics_of(result, variant, score(task)) for task in TASKS]
        rows.append([variant, *(SeedStatistics(tuple(each.values())).told(100) if each else "" for each in spreads)])
    titles = ["", *(f"{title} mAP" for title in TASKS.values())]
    chart = _chart_path(path, to)
    return [
        *_studied(result),
        *table(f"Mean ± standard deviation over {len(result['seeds'])} seeds", titles, rows),
        f"![{result['question']}]({chart.relative_to(root).as_posix()})",
    ]
