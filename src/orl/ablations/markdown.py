"""Tables of an ablation in Markdown: means over seeds, differences from the reference, and provenance."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orl.ablations.seed_statistics import SeedStatistics, by_seed, is_beyond_chance, paired_differences
from orl.evaluation.evaluations import OBJECT_EVALUATIONS, RUN_EVALUATIONS
from orl.evaluation.low_shot import LOW_SHOT
from orl.evaluation.markdown_table import markdown_rows
from orl.evaluation.pair_sizes import SIZE_GROUPS

AblationResult = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A number of each variant and seed."""

    title: str
    value: Callable[[Mapping[str, Any]], float | None]
    """Function from a record to the number; None where it is missing."""
    scale: float = 100.0
    decimals: int = 1
    varies: bool = True
    """Whether the number varies with the seed by chance; otherwise the config decides it, and no std is shown."""


def score_column(title: str, task: str, part: str | None = None, scale: float = 100.0) -> Column:
    """Return the column of the mean AP of an evaluation, or of a part: shots of low-shot, or a row of object scores."""

    def read(record: Mapping[str, Any]) -> float | None:
        scores = record["scores"].get(task)
        return scores if part is None or scores is None else scores.get(part)

    return Column(title=title, value=read, scale=scale)


def discovery_column(title: str, key: str, scale: float = 100.0, decimals: int = 1) -> Column:
    """Return the column of a part of the discovery score."""

    def read(record: Mapping[str, Any]) -> float | None:
        return None if record["discovery"] is None else record["discovery"].get(key)

    return Column(title=title, value=read, scale=scale, decimals=decimals)


def size_column(group: str) -> Column:
    """Return the column of the size-matched lift of the pairs of one group of sizes."""

    def read(record: Mapping[str, Any]) -> float | None:
        by_size = (record["discovery"] or {}).get("by_size") or {}
        return by_size.get(group, {}).get("size_matched_lift")

    return Column(title=f"size-matched lift, {group}", value=read, scale=1.0)


SCORE_COLUMNS = [
    score_column(f"{evaluation.label} mAP", evaluation.name)
    for evaluation in RUN_EVALUATIONS
    if evaluation.name != LOW_SHOT.name and evaluation not in OBJECT_EVALUATIONS
]
NUMBERS = {"rank"}
"""Object evaluations whose rows are numbers, not fractions."""
LIFT = discovery_column("lift over random pairs", "lift", scale=1.0)
SIZE_MATCHED_LIFT = discovery_column("size-matched lift", "size_matched_lift", scale=1.0)
DISCOVERY_COLUMNS = [
    discovery_column("RoIs on an object, %", "roi_object_fraction"),
    discovery_column("pairs on two objects, %", "object_fraction", decimals=2),
    discovery_column("of those, one class, %", "same_class_fraction"),
    discovery_column("random pairs: one class, %", "random_same_class_fraction"),
    LIFT,
    SIZE_MATCHED_LIFT,
    *(size_column(group) for group in SIZE_GROUPS),
    discovery_column("all kept pairs: on two objects, %", "kept_object_fraction", decimals=2),
    discovery_column("of those, one class, %", "kept_same_class_fraction"),
]


def variant_labels(result: AblationResult) -> list[str]:
    """Return the labels of the variants in their order."""
    return list(dict.fromkeys(record["variant"] for record in result["records"]))


def values_by_seed(result: AblationResult, label: str, column: Column) -> dict[int, float]:
    """Return a number of a variant by seed."""
    records = [record for record in result["records"] if record["variant"] == label]
    return by_seed([(record["seed"], column.value(record)) for record in records])


def ablation_tables(result: AblationResult) -> list[str]:
    """Return lines of Markdown: tables of scores, low-shot scores and discovery scores, if variants have them."""
    lines = []
    if is_evaluated(result):
        columns = [*SCORE_COLUMNS, *_cost_columns(result)]
        lines += _table(result, "Mean AP of the frozen backbones", columns, compared=SCORE_COLUMNS)
    objects = _object_columns(result)
    lines += _table(result, "Scores of objects", objects, compared=objects)
    low_shot = [score_column(f"k = {k}", LOW_SHOT.name, k) for k in _shots(result)]
    lines += _table(result, "Low-shot: mean AP of SVMs from k images of each class", low_shot)
    caption = "Discovery: the top-ranked pair of each image and neighbour, by the labels"
    if not differs_in_discovery(result):
        # Variants with the same stage 2, such as those of the loss, have one discovery score.
        scored = {record["variant"] for record in result["records"] if record["discovery"] is not None}
        first = next((label for label in variant_labels(result) if label in scored), None)
        name = "all variants" if len(scored) > 1 else first
        records = [{**record, "variant": name} for record in result["records"] if record["variant"] == first]
        result = {**result, "records": records}
    return lines + _table(result, caption, DISCOVERY_COLUMNS)


def is_evaluated(result: AblationResult) -> bool:
    """Return whether any backbone has a score; with `--discovery-only` none has."""
    return any(record["scores"] for record in result["records"])


def differs_in_discovery(result: AblationResult, columns: Sequence[Column] = DISCOVERY_COLUMNS) -> bool:
    """Return whether two variants have different pairs at one seed, by any of these numbers."""
    scored = [record for record in result["records"] if record["discovery"] is not None]
    found = {(record["seed"], *(column.value(record) for column in columns)) for record in scored}
    return len(found) > len({record["seed"] for record in scored})


def provenance_line(result: AblationResult) -> str:
    """Return one line on the commit, machine, seeds and date of a result."""
    seeds = ", ".join(map(str, result.get("seeds", []))) or None
    elapsed_s = result.get("elapsed_s")
    parts = {
        "commit": result.get("commit"),
        "on": ", ".join(str(result[key]) for key in ("machine", "device") if result.get(key)),
        "torch": (result.get("versions") or {}).get("torch"),
        "seeds" if "," in (seeds or "") else "seed": seeds,
        "measured on": result.get("date"),
        "took": None if elapsed_s is None else f"{elapsed_s / 3600:.1f} h of runs",
    }
    return "; ".join(f"{name} {value}" for name, value in parts.items() if value)


def markdown_table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table in Markdown, with its caption above and an empty line below."""
    return [f"{caption}:", "", *markdown_rows([columns, *rows]), ""]


def _table(
    result: AblationResult, caption: str, columns: Sequence[Column], compared: Sequence[Column] = ()
) -> list[str]:
    """Return a row per variant: its numbers, and the differences of the compared columns from the reference."""
    labels = variant_labels(result)
    columns = [column for column in columns if any(values_by_seed(result, label, column) for label in labels)]
    if not columns:
        return []
    compared = [column for column in compared if column in columns]
    rows = []
    for label in labels:
        cells = [_cell(column, values_by_seed(result, label, column)) for column in columns]
        differences = [_difference(result, column, label) for column in compared]
        if any(cells):
            rows.append([label, *cells, *differences])
    titles = [column.title for column in columns] + [
        f"{column.title} less {result['reference']}" for column in compared
    ]
    return markdown_table(caption, ["", *titles], rows)


def _cell(column: Column, values: Mapping[int, float]) -> str:
    if not values:
        return ""
    seeds = SeedStatistics(tuple(values.values()))
    return seeds.text(column.scale, column.decimals) if column.varies else f"{column.scale * seeds.mean:.1f}"


def _difference(result: AblationResult, column: Column, label: str) -> str:
    if label == result["reference"]:
        return ""
    own, reference = (values_by_seed(result, each, column) for each in (label, result["reference"]))
    differences = paired_differences(own, reference)
    if differences is None:
        return ""
    mark = "*" if is_beyond_chance(differences) else ""
    return differences.text(column.scale, column.decimals, signed=True) + mark


def _cost_columns(result: AblationResult) -> list[Column]:
    """Return the columns of images seen, and of compute over the reference's."""
    seen = Column(title="images seen, thousands", value=lambda record: record["images_seen"], scale=1e-3, varies=False)
    gigapixels = Column(title="compute", value=lambda record: record["gigapixels"], varies=False)
    reference = values_by_seed(result, result["reference"], gigapixels)
    unit = SeedStatistics(tuple(reference.values())).mean if reference else 0.0
    if unit == 0:
        return [seen]
    return [seen, Column(title="compute", value=lambda record: record["gigapixels"] / unit, scale=1.0, varies=False)]


def _object_columns(result: AblationResult) -> list[Column]:
    """Return a column for each row of the object scores; numbers such as ranks are not scaled."""
    rows = {
        (task.name, row)
        for task in OBJECT_EVALUATIONS
        for record in result["records"]
        for row in record["scores"].get(task.name, {})
    }
    order = [task.name for task in OBJECT_EVALUATIONS]
    return [
        score_column(f"{task}: {row}", task, row, 1.0 if task in NUMBERS else 100.0)
        for task, row in sorted(rows, key=lambda each: (order.index(each[0]), each[1]))
    ]


def _shots(result: AblationResult) -> list[str]:
    shots = {k for record in result["records"] for k in record["scores"].get(LOW_SHOT.name, {})}
    return sorted(shots, key=int)
