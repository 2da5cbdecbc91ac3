import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.finished_run import write_images, write_json, write_results, write_stages, write_tables
from tests.report.browsing import prefer, resize
from tests.report.test_report import Reader

from orl.cli import main
from orl.config import RunConfig, save_config
from orl.datasets.image_table import load_image_table, save_image_table
from orl.pipeline.view_samplers import build_view_sampler
from orl.recipes import demo
from orl.report.content import Code
from orl.report.options import Annotations, GalleryOptions
from orl.report.report import write_report
from orl.report.runs import ReportInputs, read_runs
from orl.report.sections.overview import overview_section
from orl.rundir import RunDir

SMALL = GalleryOptions(attention_side_px=64)
pytestmark = pytest.mark.usefixtures("small_galleries")


@pytest.fixture
def runs(tmp_path: Path) -> list[RunDir]:
    """Write two finished runs on the same images, which differ in epochs, seed and scores, and one just started."""
    found = [RunDir(tmp_path / "runs" / name) for name in ("first", "second $x$", "begun")]
    write_images(found[0], tmp_path / "images")
    save_image_table(load_image_table(found[0].images), found[1].images)
    for seed, run in enumerate(found[:2]):
        write_tables(run)
        write_stages(run)
        write_results(run)
        config = demo(tmp_path / "images", run.root)
        save_config(replace(config, seed=seed, stage3=replace(config.stage3, epochs=3 + seed)), run.config)
    for task, mean_ap in {"svm": 0.31, "knn": 0.1}.items():
        write_json(found[1].evaluation(task, "stage3"), {"mean_ap": mean_ap, "k": 20, "per_class_ap": {"cat": mean_ap}})
    score = json.loads(found[1].discovery_score.read_text())
    write_json(found[1].discovery_score, score | {"object_fraction": 0.5, "object_fraction_interval_95": [0.4, 0.6]})
    found[2].root.mkdir()
    write_json(found[2].record, {"recipe": "quick", "machine": "another", "stages": {}})
    return found


def comparison_of(runs: list[RunDir], tmp_path: Path) -> tuple[str, Reader]:
    path = write_report([run.root for run in runs], tmp_path / "compare.html", SMALL)
    text = path.read_text()
    return text, Reader(text)


def compared_pairs(reader: Reader) -> list[str]:
    """Return the description of the best pair of each query image and run."""
    words = [str(each.get("aria-label")) for tag, each in reader.tags if tag == "svg"]
    return [each for each in words if re.search(r"^(first|second \$x\$): .*, similarity", each)]


def row_of(reader: Reader, name: str) -> str:
    """Return the text after the name of a row, up to the next letter."""
    return re.search(re.escape(name) + r"([^A-Za-z]*)", reader.text)[1]


def test_only_options_that_differ_are_listed(runs, tmp_path):
    _, reader = comparison_of(runs, tmp_path)
    table = reader.text[reader.text.index("All other options are the same") : reader.text.index("Times")]
    assert "stage3.epochs34" in table
    assert "seed01" in table
    assert re.findall(r"stage1\.\w+|discover\.\w+|out\b", table) == []
    assert "begun: There is no readable config.yaml." in reader.text


def test_a_commit_with_local_changes_is_marked(runs):
    write_json(runs[2].record, {"git": "0123456789abcdef with local changes"})
    inputs = ReportInputs(runs=read_runs([run.root for run in runs]), options=SMALL)
    commit = next(row for row in overview_section(inputs).facts.rows if row[0] == "Commit")
    assert list(commit[1:]) == ["–", "–", Code("0123456789ab with local changes")]


def test_the_best_score_of_every_column_is_marked(runs, tmp_path):
    text, reader = comparison_of(runs, tmp_path)
    best = re.findall(r'<b class="best">([^<]*)</b>', text)
    assert best[:2] == ["20.7", "31.0"]  # kNN of the first run, SVM of the second
    assert "50.0" in best
    assert "40.0 to 60.0" in reader.text
    assert row_of(reader, "first: Stage 3, object level").startswith("25.720.7")
    assert row_of(reader, "second $x$: Stage 3, object level").startswith("31.010.0")


def test_results_on_different_data_sets_have_different_tables(runs, tmp_path):
    path = runs[1].evaluation("svm", "stage3")
    write_json(path, {"mean_ap": 0.9, "per_class_ap": {"cat": 0.9}, "data": "sets/other", "size_px": 96})
    text, reader = comparison_of(runs, tmp_path)
    assert "Scores on other, 96 px" in reader.text
    best = re.findall(r'<b class="best">([^<]*)</b>', text)
    assert best[:3] == ["25.7", "20.7", "90.0"]


def test_results_on_different_splits_have_different_tables(runs, tmp_path):
    splits = {"train_split": "train", "test_split": "val"}
    for task in ("svm", "low-shot"):
        path = runs[1].evaluation(task, "stage3")
        found = (
            json.loads(path.read_text())
            if path.exists()
            else {
                "shots": [1],
                "mean_ap": {"1": 0.3},
                "mean_ap_best_cost_on_test": {"1": 0.3},
                "std": {"1": 0.1},
            }
        )
        write_json(path, {**found, "data": "sets/VOC2007", **splits})
    _, reader = comparison_of(runs, tmp_path)
    assert "VOC2007, train to val" in reader.text


def test_runs_with_the_same_images_are_shown_on_the_same_images(runs, tmp_path):
    _, reader = comparison_of(runs, tmp_path)
    assert "All runs have the same 6 images." in reader.text
    maps = [each["alt"] for tag, each in reader.tags if tag == "img" and "heat map" in each["alt"]]
    assert len(maps) == 2 * 2
    assert sum("heat map of second $x$: stage 3" in alt for alt in maps) == 2
    assert len(compared_pairs(reader)) == 2 * 2
    ids = [each["id"] for tag, each in reader.tags if tag == "image"]
    assert len(set(ids)) == len(ids)
    assert {each["href"].removeprefix("#") for tag, each in reader.tags if tag == "use"} <= set(ids)


def test_galleries_show_the_same_images_of_each_run(runs, tmp_path):
    _, reader = comparison_of(runs, tmp_path)
    for caption in (" and the 2 images nearest to it", ": 2 proposals; 2 RoIs kept"):
        first, second = (
            re.findall(rf"{re.escape(label)}: (\S*image_\d\.png){caption}", reader.text)
            for label in ("first", "second $x$")
        )
        assert first == second
        assert len(first) > 0


def test_damaged_tables_of_one_run_are_named_once(runs, tmp_path):
    shutil.rmtree(runs[1].table("correspondences"))
    _, reader = comparison_of(runs, tmp_path)
    assert reader.text.count("second $x$: No correspondences have been found yet") == 1
    pairs = compared_pairs(reader)
    assert len(pairs) == 2
    assert all(words.startswith("first: ") for words in pairs)


def test_runs_with_different_images_are_compared_by_their_scores(runs, tmp_path):
    images = load_image_table(runs[1].images)
    other = replace(images, digests=tuple(f"other {digest}" for digest in images.digests[:5]) + images.digests[5:])
    save_image_table(other, runs[1].images)
    _, reader = comparison_of(runs, tmp_path)
    assert "The runs share 1 images, and each has others" in reader.text
    assert ReportInputs(runs=read_runs([run.root for run in runs]), options=SMALL).shared_images() == [(5, 5)]
    save_image_table(replace(images, digests=tuple(f"other {digest}" for digest in images.digests)), runs[1].images)
    _, reader = comparison_of(runs, tmp_path)
    assert "The runs share no images" in reader.text
    assert not any("heat map" in each["alt"] for tag, each in reader.tags if tag == "img")
    assert "Loss of stage 1: first from 2 to 1.03; second $x$ from 2 to 1.03." in reader.text


def test_missing_parts_of_a_run_are_named_and_the_rest_is_shown(runs, tmp_path):
    text, reader = comparison_of(runs, tmp_path)
    for text in (
        "begun: No backbone has been scored.",
        "begun: Discovery has not been scored",
        "begun: Stage 3 has written no backbone yet.",
        "begun: Stage 1 has not been trained yet.",
        "begun: Stage 3 has not been trained yet.",
        "The runs used different machines: their times cannot be compared.",
    ):
        assert text in reader.text
    assert reader.open == []
    assert "1 h 6 min" in reader.text
    assert len(text) < 20e6


def test_runs_of_one_name_are_labelled_by_their_folders(tmp_path):
    for name in ("a/run", "b/run", "b/other"):
        (tmp_path / name).mkdir(parents=True)
    found = read_runs([tmp_path / name for name in ("a/run", "b/run", "b/other")])
    assert [each.label for each in found] == ["a/run", "b/run", "b/other"]
    assert [each.label for each in read_runs([tmp_path / "a/run", tmp_path / "b/other"])] == ["run", "other"]


def test_a_single_or_repeated_or_missing_run_is_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="first is given twice"):
        read_runs([runs[0].root, runs[0].root / ".." / "first"])
    with pytest.raises(ValueError, match="no run is given"):
        read_runs([])
    with pytest.raises(FileNotFoundError, match=r"no run at .*nowhere"):
        read_runs([runs[0].root, tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"page\.pdf is not the name of a page"):
        write_report([run.root for run in runs], tmp_path / "page.pdf", SMALL)


def test_the_command_compares_several_runs_and_reports_on_one(runs, tmp_path, capsys, caplog):
    roots = [str(run.root) for run in runs[:2]]
    assert main(["report", *roots]) == 0
    assert capsys.readouterr().out == f"comparison: {runs[0].report.with_name('compare.html')}\n"
    assert main(["report", *roots, "--out", str(tmp_path / "c.html")]) == 0
    assert (tmp_path / "c.html").read_text() == runs[0].report.with_name("compare.html").read_text()
    capsys.readouterr()
    assert main(["report", roots[0]]) == 0
    assert capsys.readouterr().out == f"report: {runs[0].report}\n"
    assert main(["report", roots[0], "--out", str(tmp_path / "d.html")]) == 0
    assert (tmp_path / "d.html").read_text() == runs[0].report.read_text()
    assert main(["report"]) == 1
    assert main(["report", str(tmp_path)]) == 1
    text = capsys.readouterr().err
    assert "no run is given" in text
    assert f"no run at {tmp_path}: there is no config.yaml in it" in text


def test_pairs_and_views_of_every_run_are_shown_and_images_once(runs, tmp_path):
    def annotate(config: RunConfig) -> Annotations:
        images = load_image_table(RunDir(config.out).images)
        return Annotations(view_sampler=lambda stage: build_view_sampler(config, stage, images))

    path = write_report([run.root for run in runs], tmp_path / "compare.html", SMALL, annotate)
    reader = Reader(path.read_text())
    forms = [each for tag, each in reader.tags if tag == "form"]
    assert len(forms) == 2
    for name in ("first", "second $x$"):
        assert f"{name}: stage 3" in reader.text
        assert f"{name} Sort by" in reader.text
    views = [each["alt"] for tag, each in reader.tags if tag == "img" and re.search(r"view|intra|inter", each["alt"])]
    assert len(views) == 2 * 2 * (2 + 6)
    images = [each["href"] for tag, each in reader.tags if tag == "image"]
    assert len(images) == len(set(images)) == 6


def test_the_comparison_requests_nothing_else_in_a_browser(runs, tmp_path, session):
    path = write_report([run.root for run in runs], tmp_path / "compare.html", SMALL)
    resize(session, 360, 740)
    prefer(session, "light")
    for kind in ("browser", "performance"):
        session.get_log(kind)
    session.get(path.as_uri())
    assert session.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in session.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    assert [url[:60] for url in asked if not url.startswith("data:")] == [path.as_uri()[:60]]
    assert session.execute_script("return document.documentElement.scrollWidth") <= 360
    session.execute_script("document.querySelector('.zoom').click()")
    assert session.execute_script("return document.querySelector('dialog').open")


def test_a_lift_of_zero_is_shown_as_a_number(runs, tmp_path):
    score = json.loads(runs[0].discovery_score.read_text())
    write_json(runs[0].discovery_score, score | {"lift": 0.0})
    _, reader = comparison_of(runs, tmp_path)
    assert re.search(r"first: Best pair of two images\s*[\d,]+–0\.00", reader.text)
    # The score of the second run has no lift: the row has dashes.
    assert re.search(r"second \$x\$: Best pair of two images\s*[\d,]+––", reader.text)
