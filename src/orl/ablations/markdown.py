"""A study as tables in Markdown: means over seeds, differences from the reference, what the numbers were made with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orl.ablations.seed_statistics import SeedStatistics, by_seed, is_beyond_chance, paired_differences

Result = Mapping[str, Any]
TASKS = {"svm": "SVM", "knn": "kNN"}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A number that every arm may have."""

    title: str
    value: Callable[[Mapping[str, Any]], float | None]
    """Of a record."""
    scale: float = 100.0
    decimals: int = 1
    is_set: bool = False
    """Whether settings decide it, so that seeds do not differ by more than their boxes do."""


def variant_names(result: Result) -> list[str]:
    """The arms in their order."""
    return list(dict.fromkeys(record["variant"] for record in result["records"]))


def score(task: str, shots: str | None = None) -> Callable[[Mapping[str, Any]], float | None]:
    """What reads a mean AP out of a record."""

    def read(record: Mapping[str, Any]) -> float | None:
        found = record["scores"].get(task)
        return found if shots is None or found is None else found.get(shots)

    return read


def discovery(name: str) -> Callable[[Mapping[str, Any]], float | None]:
    """What reads a part of the discovery score out of a record."""
    return lambda record: None if record["discovery"] is None else record["discovery"].get(name)


SCORES = [Column(title=f"{title} mAP", value=score(task)) for task, title in TASKS.items()]
LIFT = Column(title="lift over random pairs", value=discovery("lift"), scale=1.0)
DISCOVERY = [
    Column(title="RoIs on an object, %", value=discovery("roi_object_fraction")),
    Column(title="pairs on two objects, %", value=discovery("object_fraction"), decimals=2),
    Column(title="of those, one class, %", value=discovery("same_class_fraction")),
    Column(title="random pairs: one class, %", value=discovery("random_same_class_fraction")),
    LIFT,
    Column(title="all kept pairs: on two objects, %", value=discovery("kept_object_fraction"), decimals=2),
    Column(title="of those, one class, %", value=discovery("kept_same_class_fraction")),
]


def seed_statistics_of(
    result: Result, variant: str, value: Callable[[Mapping[str, Any]], float | None]
) -> dict[int, float]:
    """A number of an arm by seed."""
    return by_seed([(record["seed"], value(record)) for record in result["records"] if record["variant"] == variant])


def ablation_tables(result: Result) -> list[str]:
    """Lines of Markdown: scores, low-shot and discovery, each where the arms have them."""
    lines = []
    if is_judged(result):
        lines += _table(result, "Mean AP of the frozen backbones", [*SCORES, *_costs(result)], compared=SCORES)
    shots = _shots(result)
    low_shot = [Column(title=f"k = {k}", value=score("low-shot", k)) for k in shots]
    lines += _table(result, "Low-shot: mean AP of SVMs from k images of each class", low_shot)
    caption = "Discovery: the top-ranked pair of each image and neighbour, by the labels"
    if not differs_in_discovery(result):
        # Arms that share stage 2, as those of the terms of the loss do, have one discovery score.
        variants = {record["variant"] for record in result["records"] if record["discovery"] is not None}
        first = next((variant for variant in variant_names(result) if variant in variants), None)
        name = "all arms" if len(variants) > 1 else first
        kept = [{**record, "variant": name} for record in result["records"] if record["variant"] == first]
        result = {**result, "records": kept}
    return lines + _table(result, caption, DISCOVERY)


def is_judged(result: Result) -> bool:
    """Whether any backbone of a study has a score; with `--discovery-only` none has."""
    return any(record["scores"] for record in result["records"])


def differs_in_discovery(result: Result, columns: Sequence[Column] = DISCOVERY) -> bool:
    """Whether two arms have other pairs at one seed, by any of these numbers."""
    scored = [record for record in result["records"] if record["discovery"] is not None]
    found = {(record["seed"], *(column.value(record) for column in columns)) for record in scored}
    return len(found) > len({record["seed"] for record in scored})


def provenance(result: Result) -> str:
    """One line: what made the numbers, where and when."""
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


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown, with its caption above and an empty line after."""
    head = [f"| {' | '.join(columns)} |", "| --- |" + " ---: |" * (len(columns) - 1)]
    body = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return [f"{caption}:", "", *head, *body, ""]


def _table(result: Result, caption: str, columns: Sequence[Column], compared: Sequence[Column] = ()) -> list[str]:
    variants = variant_names(result)
    known = [
        column for column in columns if any(seed_statistics_of(result, variant, column.value) for variant in variants)
    ]
    if not known:
        return []
    compared = [column for column in compared if column in known]
    rows = []
    for variant in variants:
        cells = [_cell(column, seed_statistics_of(result, variant, column.value)) for column in known]
        differences = [_difference(result, column, variant) for column in compared]
        if any(cells):
            rows.append([variant, *cells, *differences])
    titles = [column.title for column in known] + [f"{column.title} less {result['reference']}" for column in compared]
    return table(caption, ["", *titles], rows)


def _cell(column: Column, values: Mapping[int, float]) -> str:
    if not values:
        return ""
    spread = SeedStatistics(tuple(values.values()))
    return f"{column.scale * spread.mean:.1f}" if column.is_set else spread.told(column.scale, column.decimals)


def _difference(result: Result, column: Column, variant: str) -> str:
    if variant == result["reference"]:
        return ""
    own, reference = (seed_statistics_of(result, each, column.value) for each in (variant, result["reference"]))
    found = paired_differences(own, reference)
    if found is None:
        return ""
    mark = "*" if is_beyond_chance(found) else ""
    return found.told(column.scale, column.decimals, signed=True) + mark


def _costs(result: Result) -> list[Column]:
    """Epochs, and compute over the reference's."""
    reference = seed_statistics_of(result, result["reference"], lambda record: record["gigapixels"])
    unit = SeedStatistics(tuple(reference.values())).mean if reference else 0.0
    seen = Column(title="images seen, thousands", value=lambda record: record["images_seen"], scale=1e-3, is_set=True)
    if unit == 0:
        return [seen]
    compute = Column(title="compute", value=lambda record: record["gigapixels"] / unit, scale=1.0, is_set=True)
    return [seen, compute]


def _shots(result: Result) -> list[str]:
    found = {k for record in result["records"] for k in record["scores"].get("low-shot", {})}
    return sorted(found, key=int)
