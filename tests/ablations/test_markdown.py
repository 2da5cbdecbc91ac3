from typing import Any

import pytest

from orl.ablations.ablation_chart import draw_ablation
from orl.ablations.markdown import ablation_tables, markdown_table, provenance_line, variant_labels
from orl.evaluation.pair_sizes import SIZE_GROUPS


def rows(ablation: dict[str, Any], caption: str) -> list[list[str]]:
    """Return the cells of the table under a caption, its head first."""
    lines = ablation_tables(ablation)
    start = next(index for index, line in enumerate(lines) if line.startswith(caption))
    body = lines[start + 2 : lines.index("", start + 2)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (body[0], *body[2:])]


def test_scores_are_means_over_seeds_and_differences_are_taken_seed_by_seed(ablation: dict[str, Any]) -> None:
    head, byol, orl, random = rows(ablation, "Mean AP")
    assert head[1:] == [
        *("Linear SVM mAP", "Weighted kNN mAP", "images seen, thousands", "compute"),
        *("Linear SVM mAP less BYOL", "Weighted kNN mAP less BYOL"),
    ]
    assert byol == ["BYOL", "21.0 ± 1.0", "10.0 ± 0.0", "8.0", "1.0", "", ""]
    # Scores vary by a point over seeds, the difference not at all.
    assert orl == ["ORL", "24.0 ± 1.0", "10.0 ± 0.0", "8.0", "2.5", "+3.0 ± 0.0*", "+0.0 ± 0.0"]
    assert random[5] == "-4.0 ± 3.5", "three seeds that far apart are not beyond chance"


def test_low_shot_comes_in_the_order_of_the_shots(ablation: dict[str, Any]) -> None:
    head, *body = rows(ablation, "Low-shot")
    assert head[1:] == ["k = 1", "k = 16"]
    assert [row[0] for row in body] == variant_labels(ablation)


def test_discovery_has_a_line_where_it_was_scored(ablation: dict[str, Any]) -> None:
    head, *body = rows(ablation, "Discovery")
    assert [row[0] for row in body] == ["ORL"]
    assert dict(zip(head, body[0]))["lift over random pairs"] == "6.0 ± 1.0"
    assert dict(zip(head, body[0]))["pairs on two objects, %"] == "3.00 ± 0.00"


def test_a_lift_missing_at_a_seed_is_left_out_of_the_mean(ablation: dict[str, Any]) -> None:
    first = next(record for record in ablation["records"] if record["discovery"])
    first["discovery"]["lift"] = None
    head, *body = rows(ablation, "Discovery")
    assert dict(zip(head, body[0]))["lift over random pairs"] == "6.5 ± 0.7"


def test_size_matched_lifts_have_columns_where_they_were_scored(ablation: dict[str, Any]) -> None:
    head, _ = rows(ablation, "Discovery")
    assert not any("size-matched" in title for title in head)
    for record in ablation["records"]:
        if record["discovery"]:
            groups = {name: {"size_matched_lift": value} for name, value in zip(SIZE_GROUPS, (3.0, None, 1.5))}
            record["discovery"] |= {"size_matched_lift": 2.0, "by_size": groups}
    head, body = rows(ablation, "Discovery")
    shown = dict(zip(head, body))
    assert shown["size-matched lift"] == "2.0 ± 0.0"
    assert shown[f"size-matched lift, {SIZE_GROUPS[0]}"] == "3.0 ± 0.0"
    assert f"size-matched lift, {SIZE_GROUPS[1]}" not in shown


@pytest.mark.parametrize("title", ["lift over random pairs", "size-matched lift"])
def test_the_chart_has_the_size_matched_lift_where_it_was_scored(ablation: dict[str, Any], title: str) -> None:
    key = {"lift over random pairs": "lift", "size-matched lift": "size_matched_lift"}[title]
    for index, record in enumerate(ablation["records"]):
        record["discovery"] = {"lift": 5.0, key: float(index)}
    chart = draw_ablation(ablation)
    assert chart is not None
    assert [axes.get_xlabel() for axes in chart.axes if "lift" in axes.get_xlabel()] == [title]


def test_an_ablation_without_training_has_no_scores(ablation: dict[str, Any]) -> None:
    for record in ablation["records"]:
        record["scores"] = {}
    text = "\n".join(ablation_tables(ablation))
    assert "SVM" not in text
    assert "Mean AP" not in text
    assert "Low-shot" not in text
    assert "Discovery" in text


def test_provenance_names_commit_machine_seeds_and_date(ablation: dict[str, Any]) -> None:
    assert provenance_line(ablation) == (
        "commit abc123; on Linux, 2 CPUs, cpu; torch 2.6.0; seeds 0, 1, 2; measured on 2026-01-02; took 3.0 h of runs"
    )


def test_a_bar_in_a_cell_does_not_break_the_table() -> None:
    assert markdown_table("Words", ["a", "b"], [["x|y", "1"]])[4] == "| x/y | 1 |"


def test_variants_with_the_same_stage_2_have_one_line_of_discovery(ablation: dict[str, Any]) -> None:
    for record in ablation["records"]:
        record["discovery"] = next(
            each["discovery"] for each in ablation["records"] if each["seed"] == record["seed"] and each["discovery"]
        )
    _, *body = rows(ablation, "Discovery: the top-ranked pair of each image and neighbour, by the labels:")
    assert [line[0] for line in body] == ["all variants"]
    ablation["records"][0]["discovery"] = {**ablation["records"][0]["discovery"], "lift": 1.0}
    _, *body = rows(ablation, "Discovery")
    assert len(body) == 3
