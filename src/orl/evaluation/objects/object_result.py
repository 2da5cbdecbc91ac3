"""Results of the object evaluations: rows of the scoreboard, each with an interval, in one form for all of them."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from orl.evaluation.bootstrap import Estimate
from orl.evaluation.objects import image_sums
from orl.evaluation.objects.image_sums import ImageSums
from orl.evaluation.objects.object_dataset import ObjectDataset
from orl.evaluation.protocol import Config, Datasets, Result, SuiteEntry, Tables

logger = logging.getLogger(__name__)

Unit = Literal["fraction", "number"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One score of one backbone: a row of the scoreboard."""

    name: str
    """Name within its evaluation, such as 'crop, top-1'."""
    estimate: Estimate
    """Score with its 95% interval."""
    unit: Unit = "fraction"
    """'fraction' of 1, shown in per cent; 'number' for a rank or a lift."""
    chance: float | None = None
    """Score of random labels, random boxes or random pairs; None where there is none."""
    sums: ImageSums | None = None
    """Sums by image, for paired comparisons; None for scores that are no ratio of sums."""
    higher_is_better: bool = True
    """False for numbers that describe features and do not rank them, such as uniformity."""


def row_of(name: str, sums: ImageSums, *, seed: int, unit: Unit = "fraction", chance: float | None = None) -> Row:
    """Return the row of a ratio of sums, with its bootstrap interval."""
    return Row(name=name, estimate=image_sums.estimate(sums, seed), unit=unit, chance=chance, sums=sums)


def object_result(
    task: str,
    rows: Sequence[Row],
    *,
    backbone: str,
    data: str,
    protocol_deviations: Sequence[str],
    elapsed_s: float,
    about: Mapping[str, Any] | None = None,
) -> Result:
    """Return the result of an object evaluation as its JSON file holds it.

    Args:
        task: name of the evaluation.
        rows: its scores.
        backbone: label of the backbone.
        data: path of the labelled data.
        protocol_deviations: deviations from the published protocol.
        elapsed_s: time of the evaluation, seconds.
        about: further JSON values, such as splits, numbers of images and boxes, and batch-norm statistics.
    """
    return {
        "task": task,
        "backbone": backbone,
        "data": data,
        **(about or {}),
        "rows": [_row_to_json(row) for row in rows],
        "protocol_deviations": list(protocol_deviations),
        "elapsed_s": elapsed_s,
    }


def read_rows(result: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a result.

    Raises:
        KeyError, TypeError, ValueError: if it is no result of an object evaluation.
    """
    return [
        Row(
            **{
                **row,
                "estimate": Estimate(**row["estimate"]),
                "sums": image_sums.sums_from_json(row["sums"]) if row["sums"] else None,
            }
        )
        for row in result["rows"]
    ]


def object_tables(result: Result) -> Tables:
    """Return the fractions of a result, as every evaluation does; numbers are in the scoreboard only."""
    title = f"Objects: {result['task']}"
    return {title: {row["name"]: row["estimate"]["value"] for row in result["rows"] if row["unit"] == "fraction"}}


def object_entries(
    name: str, check: Callable[[ObjectDataset, Config], object], datasets: Datasets, config: Config
) -> list[SuiteEntry[ObjectDataset, Config]]:
    """Return the entry of an evaluation of objects in the suite, if the data set is given and allows it.

    Args:
        name: name of the evaluation.
        check: its check of the labels.
        datasets: the given data sets.
        config: its config.
    """
    if datasets.objects is None:
        return []
    data = _shared_dataset(datasets.objects)
    try:
        check(data, config)
    except ValueError as error:
        logger.warning("%s is left out: %s", name, error)
        return []
    return [SuiteEntry(name=name, data=data, config=config)]


@lru_cache(maxsize=1)
def _shared_dataset(data: Path) -> ObjectDataset:
    """Return one data set for all evaluations of a suite, whose labels are read once."""
    return ObjectDataset(data=data)


def _row_to_json(row: Row) -> dict[str, Any]:
    content = {**asdict(row), "sums": None if row.sums is None else image_sums.sums_to_json(row.sums)}
    return json.loads(json.dumps(content))
