"""The page of results, generated from result files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orl import files
from orl.ablations.ablation_chart import draw_ablation
from orl.ablations.markdown import (
    SCORE_COLUMNS,
    ablation_tables,
    is_evaluated,
    markdown_table,
    provenance_line,
    values_by_seed,
    variant_labels,
)
from orl.ablations.records import ABLATION, read_result
from orl.ablations.seed_statistics import SeedStatistics
from orl.evaluation.pooling import feature_kind
from orl.figures.figure_files import save_figure

HEADLINE = "stages"
"""Ablation whose numbers the README shows."""
LEGEND = (
    "Mean ± standard deviation over the seeds. Differences are taken seed by seed; * marks those whose 95% interval "
    "(Student's t) excludes 0: by chance, one of twenty without an effect is marked. Compute is the number of pixels "
    "that pass the network, over the reference's."
)
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
NOTICE = "<!-- Written by `orl results`; change the result files and write it again. -->"


def write_page(folder: Path, to: Path, *, benchmarks: Path | None = None, readme: Path | None = None) -> list[Path]:
    """Write the page, its charts and the part of the README that shows results.

    Args:
        folder: folder of the result files, which are sorted by name. The text on NAME.json is in NAME.md; the text of
            index.md comes first.
        to: the page; charts are written to `figures/` beside it.
        benchmarks: folder of benchmark results, which are listed too.
        readme: page with a part between two marks, which is replaced.

    Returns:
        Paths of the pages.

    Raises:
        FileNotFoundError: if there are no result files.
        ValueError: if one is damaged, or the README has no such part.
    """
    paths = sorted(folder.glob("[!.]*.json"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no result files; 'orl ablate' writes them")
    results = {path: read_result(path) for path in paths}
    parts = [NOTICE, "", *_text(folder / "index.md")]
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
    if result["kind"] == ABLATION:
        lines = [f"## {result['question']}", "", *_setup(result), *ablation_tables(result), LEGEND, ""]
        lines += _chart(path, result, to)
    else:
        lines = [f"## {result['title']}", ""]
        for each in result["tables"]:
            lines += markdown_table(each["caption"], each["columns"], each["rows"])
    lines += _text(path.with_suffix(".md"))
    return [*lines, *_commands(result), provenance_line(result) + ".", ""]


def _setup(result: Mapping[str, Any]) -> list[str]:
    """Return a paragraph on the images, the network and the training."""
    config, data = result["config"], result.get("evaluated_on")
    first, third, objects = config["stage1"], config["stage3"], config["objects"]
    sizes = f"views of {first['views']['size_px']} px and RoIs of {objects['roi_size_px']} px"
    start = " from its weights" if objects.get("warm_start") else ""
    trained = f" and {third['epochs']} of stage 3{start}" if is_evaluated(result) else " and no stage 3"
    epochs = f"{first['epochs']} epochs of stage 1{trained}, batch {first['batch_size']}"
    sentences = [
        f"{result['num_images']:,} images of {result['images']} without labels, {config['network']['backbone']}, "
        f"{sizes}, {epochs}, {config['precision']}."
    ]
    if data and is_evaluated(result):
        sentences.append(
            f"Evaluated on {data['data']} at {data['size_px']} px, SVMs on {feature_kind(data)} features: fitted on "
            f"{data['train_split']}, scored on {data['test_split']}."
        )
    return [" ".join(sentences), ""]


def _commands(result: Mapping[str, Any]) -> list[str]:
    given = result.get("command")
    commands = [given] if isinstance(given, str) else list(given or [])
    return ["```sh", *commands, "```", ""] if commands else []


def _text(path: Path) -> list[str]:
    return [path.read_text().strip(), ""] if path.exists() else []


def _chart_path(path: Path, to: Path) -> Path:
    return to.parent / "figures" / f"results_{path.stem}.svg"


def _chart(path: Path, result: Mapping[str, Any], to: Path) -> list[str]:
    """Write the chart of an ablation, and return the lines that show it."""
    figure = draw_ablation(result)
    if figure is None:
        return []
    chart = _chart_path(path, to)
    save_figure(figure, chart)
    return [f"![{result['question']}]({chart.relative_to(to.parent).as_posix()})", ""]


def _benchmarks(folder: Path) -> list[str]:
    lines = [
        "## Speed",
        "",
        "All comparisons of times in `benchmarks/results/`. A ratio above 1 means that `orl` is faster.",
        "",
    ]
    for path in sorted(folder.glob("[!.]*.json")):
        found = json.loads(path.read_text())
        rows = [_benchmark_row(each) for each in found if isinstance(each, dict) and "ratio_median" in each]
        if rows:
            first = next(each for each in found if "ratio_median" in each)
            columns = ["claim", "alternative", "ratio", "10th to 90th percentile", "pairs"]
            lines += markdown_table(f"`benchmarks/{path.stem}.py`", columns, rows)
            lines += [_benchmark_provenance(first), ""]
    return lines


def _benchmark_row(found: Mapping[str, Any]) -> list[str]:
    ratio, low, high = (f"{found[f'ratio_{name}']:.2f}" for name in ("median", "p10", "p90"))
    return [found["claim"], found["alternative"], ratio, f"{low} to {high}", str(found["runs"])]


def _benchmark_provenance(found: Mapping[str, Any]) -> str:
    machine = found.get("machine", {})
    device = machine.get("gpu") or f"{machine.get('processor')}, {machine.get('processors')} cores"
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
        raise FileNotFoundError(f"there is no result of ablation {HEADLINE!r}, which {readme} shows")
    lines = _headline(*shown, to, readme.parent)
    files.write_atomically(readme, f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}")


def _headline(path: Path, result: Mapping[str, Any], to: Path, root: Path) -> list[str]:
    rows = []
    for label in variant_labels(result):
        scores = [values_by_seed(result, label, column) for column in SCORE_COLUMNS]
        rows.append([label, *(SeedStatistics(tuple(each.values())).text(100) if each else "" for each in scores)])
    titles = ["", *(column.title for column in SCORE_COLUMNS)]
    chart = _chart_path(path, to)
    return [
        *_setup(result),
        *markdown_table(f"Mean ± standard deviation over {len(result['seeds'])} seeds", titles, rows),
        f"![{result['question']}]({chart.relative_to(root).as_posix()})",
    ]
