import base64
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.finished_run import write_json, write_large_run, write_table

from orl import tables
from orl.config import save_config
from orl.datasets.image_table import ImageTable, load_image_table, save_image_table
from orl.datasets.object_regions import ObjectRegions
from orl.networks.backbones import build_backbone, save_backbone
from orl.pipeline.view_samplers import build_view_sampler
from orl.recipes import demo
from orl.report.options import Annotations, GalleryOptions
from orl.report.report import write_report
from orl.report.runs import sample_indices
from orl.report.sections import attention
from orl.report.sections.overview import duration
from orl.rundir import RunDir

SMALL = GalleryOptions(attention_side_px=64)
pytestmark = pytest.mark.usefixtures("small_galleries")
VOID_TAGS = {"meta", "link", "img", "br", "input"}


class Reader(HTMLParser):
    """Parser of a page: tags with their attributes, and the text; it checks that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def report_of(run: RunDir, annotations: Annotations | None = None) -> tuple[str, Reader]:
    if annotations is not None:
        save_config(demo(Path("images"), run.root), run.config)
    text = write_report([run.root], options=SMALL, annotate=lambda _: annotations or Annotations()).read_text()
    return text, Reader(text)


def pairs_of(reader: Reader) -> list[dict[str, str | None]]:
    return [attributes for tag, attributes in reader.tags if tag == "figure" and "data-kinds" in attributes]


def test_the_page_of_a_complete_run_is_well_formed_and_requests_nothing(run):
    text, reader = report_of(run)
    assert reader.open == []
    for tag, attributes in reader.tags:
        assert not attributes or tag != "script"
        assert not {name for name in attributes if name.startswith("on") or name == "style"}, attributes
        for name in ("src", "href", "srcset", "data", "action"):
            assert re.match(r"data:|#|$", attributes.get(name) or ""), attributes
    style = re.search(r"<style>(.*)</style>", text, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    scripts = re.findall(r"<script>.*?</script>", text, re.DOTALL)
    for script in scripts:
        text = text.replace(script, "")
        assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(|eval\(|innerHTML", script)
    assert "//" not in re.sub(r"data:[^\"]*", "", text)


def test_every_picture_has_a_description_a_size_and_pixels(run):
    _, reader = report_of(run)
    pictures = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert len(pictures) == 2 * 2 + 4 + 2  # maps of two backbones, charts of training, of classes
    for picture in pictures:
        assert picture["alt"].strip()
        kind, data = picture["src"].split(";base64,")
        content = base64.b64decode(data)
        if kind == "data:image/svg+xml":
            assert b"<svg" in content
        else:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                assert image.size == (int(picture["width"]), int(picture["height"]))


def test_each_image_is_in_the_page_once_and_each_overlay_has_a_description(run):
    _, reader = report_of(run)
    images = [attributes for tag, attributes in reader.tags if tag == "image"]
    assert sorted(pixels["id"] for pixels in images) == [f"images-0-{index}" for index in range(6)]
    for pixels in images:
        content = base64.b64decode(pixels["href"].removeprefix("data:image/jpeg;base64,"))
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            assert image.size == (int(pixels["width"]), int(pixels["height"])) == (96, 64)
    shown = [attributes["href"] for tag, attributes in reader.tags if tag == "use"]
    assert set(shown) == {f"#{pixels['id']}" for pixels in images}
    assert len(shown) > 2 * len(images)
    drawings = [attributes for tag, attributes in reader.tags if tag == "svg" and "aria-hidden" not in attributes]
    assert all(drawing["role"] == "img" and drawing["aria-label"].strip() for drawing in drawings)


def test_a_report_of_many_large_images_stays_below_20_megabytes(run, tmp_path, monkeypatch):
    monkeypatch.undo()  # of the small galleries
    monkeypatch.setattr(attention, "NUM_IMAGES", 2)
    write_large_run(run, tmp_path / "large", num_images=160)
    size = write_report([run.root], options=SMALL).stat().st_size
    assert 5e6 < size < 20e6


def test_numbers_of_the_results_are_in_the_page(run):
    _, reader = report_of(run)
    shown = ["12.3", "23.4", "25.7", "7.3", "18.4", "20.7"]  # SVM, then kNN: 0.05 less each
    expected = [
        *shown,
        "33.5",  # a class of the SVM by stage 1
        *("43.2", "34.6", "11.1", "7.9", "1,234", "40.1 to 47.2"),
        *("3 min 12 s", "1 h 2 min", "torch 2.9, numpy 2.1", "recipe demo", "6 images", "1 h 6 min"),
        "stage 3 is 2.3 points above stage 1",
        "orl run --images '<images>' --out runs/fake",
        "Loss of stage 3 from 6 to 3.1 over 3 epochs",
    ]
    assert [number for number in expected if number not in reader.text] == []


def test_reasons_of_rejection_are_counted_by_kind(run):
    _, reader = report_of(run)
    assert re.search(r"Images rejected\s*3", reader.text)
    assert re.search(r"too small\s*2", reader.text)
    assert re.search(r"not an image\s*1", reader.text)


def test_a_hostile_name_is_shown_as_text(run):
    text, reader = report_of(run)
    assert "alert(1)" in reader.text
    assert text.count("<script") == 3  # our own
    assert "onerror" not in {name for _, attributes in reader.tags for name in attributes}


def test_the_same_run_gives_the_same_page(run):
    assert report_of(run)[0] == report_of(run)[0]


def test_an_empty_run_names_the_command_for_every_part(tmp_path):
    run = RunDir(tmp_path / "empty")
    run.root.mkdir()
    _, reader = report_of(run)
    sentences = [
        "Nothing has run here yet",
        "No backbone has been scored",
        "Discovery has not been scored",
        "No correspondences have been found yet",
        "Stage 1 has written no backbone yet",
        "Stage 3 has written no backbone yet",
        "No neighbours have been found yet",
        "No RoIs have been kept yet",
        "No map of RoIs is available yet",
        "Views can be shown once the images are scanned",
        "Stage 1 has not been trained yet",
        "Stage 3 has not been trained yet",
    ]
    assert [sentence for sentence in sentences if sentence not in reader.text] == []
    assert reader.text.count(f"orl run --images DIR --out {run.root}") == len(sentences) - 1
    assert f"A labelled data set is needed: orl evaluate svm --backbone {run.root} --data VOC2007" in reader.text
    assert "img" not in {tag for tag, _ in reader.tags}


def test_a_run_without_stage_3_shows_stage_1_and_repeats_its_command(run):
    shutil.rmtree(run.stage("stage3"))
    run.evaluation("svm", "stage3").unlink()
    run.evaluation("knn", "stage3").unlink()
    _, reader = report_of(run)
    assert "Stage 3 has written no backbone yet. To resume, run the same command again: orl run" in reader.text
    assert "Stage 3, object level: not scored yet" in reader.text
    assert sum("with the heat map of stage" in (attributes.get("alt") or "") for _, attributes in reader.tags) == 2


def test_scores_beside_the_weights_are_shown_by_data_set(run):
    for label in ("random", "stage1", "stage3"):
        for task in ("svm", "knn"):
            run.evaluation(task, label).unlink()
    folder = run.stage("stage3") / "backbone_evaluation"
    splits = {"train_split": "trainval", "test_split": "test", "size_px": 224, "num_test": 4952}
    for name, num_train in (("svm_VOC2007.json", 5011), ("svm_part.json", 250)):
        result = {"mean_ap": num_train / 1e4, "data": "sets/VOC2007", "num_train": num_train, **splits}
        write_json(folder / name, {"task": "svm", "per_class_ap": {}, **result})
    _, reader = report_of(run)
    for num_train, mean_ap in (("5,011", "50.1"), ("250", "2.5")):
        table = f"Scores on VOC2007, trainval ({num_train} images) to test (4,952 images), 224 px"
        assert re.search(re.escape(table) + r".{0,80}Stage 3, object level" + re.escape(mean_ap), reader.text)
    assert "Stage 1, image level: not scored yet. A labelled data set is needed: orl evaluate svm" in reader.text


def test_results_of_every_evaluation_beside_the_weights_are_shown(run):
    result = {"task": "detect-voc", "data": "sets/VOC0712", "schedule": "24k", "box": {"ap": 0.5123, "ap50": 0.8}}
    write_json(run.stage("stage3") / "backbone_evaluation" / "detect-voc.json", result)
    _, reader = report_of(run)
    assert re.search(r"Scores on VOC0712.{0,80}24k, box ap.{0,80}Stage 3, object level\s*51.2\s*80.0", reader.text)


def test_a_result_of_another_format_is_refused(run):
    write_json(run.evaluation("knn", "stage1"), {"mean_ap": 0.5})
    with pytest.raises(ValueError, match=r"knn_stage1\.json is not a result of knn: it lacks 'k'"):
        write_report([run.root], options=SMALL)


def test_a_stage_with_weights_but_no_metrics_was_trained_elsewhere(run):
    run.metrics("stage1").unlink()
    _, reader = report_of(run)
    assert "Stage 1 was trained elsewhere: only its weights are here." in reader.text


def test_a_view_sampler_refuses_tables_of_other_images(run, tmp_path):
    config = demo(tmp_path / "images", run.root)
    images = load_image_table(run.images)
    fewer = ImageTable(
        root=images.root, **{name: getattr(images, name)[:4] for name in ("names", "sizes_wh", "digests")}
    )
    for name in ("rois", "correspondences"):
        columns = {
            each: tables.load(run.table(name)).column(each) for each in tables.load(run.table(name)).column_names
        }
        shutil.rmtree(run.table(name))
        tables.begin(run.table(name), {"images": images.fingerprint}, num_shards=1)
        tables.write_shard(run.table(name), 0, columns)
    assert build_view_sampler(config, "stage3", images)
    with pytest.raises(ValueError, match="rois was made from another image list than the run has now"):
        build_view_sampler(config, "stage3", fewer)


def test_low_shot_scores_of_the_run_and_beside_its_weights_are_shown(run):
    _, reader = report_of(run)
    assert f"To do it: orl evaluate low-shot --backbone {run.root} --data VOC2007" in reader.text
    result = {"task": "low-shot", "data": "sets/VOC2007", "shots": [1, 16], "mean_ap": {"1": 0.1234, "16": 0.5}}
    result |= {"std": {"1": 0.011, "16": 0.02}, "mean_ap_best_cost_on_test": {"1": 0.2, "16": 0.6}}
    write_json(run.evaluation("low-shot", "stage1"), result)
    other = {**result, "mean_ap": {"1": 0.2, "16": 0.6}}
    write_json(run.stage("stage3") / "backbone_evaluation" / "low-shot_VOC2007.json", other)
    _, reader = report_of(run)
    assert "mAP on VOC2007, pooled, with the standard deviation over samples" in reader.text
    for sentence in (
        "Stage 1, image level from 12.3 ± 1.1 to 50.0 ± 2.0",
        "Stage 3, object level from 20.0 ± 1.1 to 60.0 ± 2.0",
    ):
        assert sentence in reader.text


def test_views_are_those_of_training(run):
    config, images = demo(Path("images"), run.root), load_image_table(run.images)
    _, reader = report_of(run)
    assert "Views can be shown once the images are scanned" in reader.text
    known = Annotations(view_sampler=lambda stage: build_view_sampler(config, stage, images))
    _, reader = report_of(run, known)
    shown = [each["alt"] for tag, each in reader.tags if tag == "img" and re.search(r"view|intra|inter", each["alt"])]
    assert len(shown) == 2 * (2 + 6)
    shutil.rmtree(run.table("correspondences"))
    _, reader = report_of(run, known)
    assert "Views of stage 3 cannot be shown. To resume, run the same command again" in reader.text


def test_embedded_rois_are_shown_on_a_map(run):
    save_config(demo(Path("images"), run.root), run.config)
    generator = np.random.default_rng(0)
    write_table(run, "roi_embeddings", {"embedding": generator.normal(size=(12, 8)).astype(np.float16)})
    _, reader = report_of(run)
    assert "Scatter plot of RoI embeddings in two dimensions, some RoIs as thumbnails" in {
        attributes.get("alt") for _, attributes in reader.tags
    }


def test_attention_is_scored_where_objects_are_known(run):
    name = load_image_table(run.images).names[1]
    region = np.zeros((64, 96), dtype=np.uint8)
    region[:32] = 1
    regions = ObjectRegions(kind="masks", readers={name: lambda size_wh: region})
    _, reader = report_of(run, Annotations(regions=regions))
    assert "Maps against the masks of 1 images" in reader.text
    assert re.search(r"baseline: an even map\s*50\.0 50\.0 to 50\.0", reader.text)
    assert re.search(r"Stage 3 less stage 1, best overlap of the mean magnitude: [+-]\d", reader.text)
    texts = [f"stage {stage}, {way}" for stage in (1, 3) for way in ("magnitude", "component", "similarity")]
    assert [row for row in texts if row not in reader.text] == []


def test_a_run_with_another_feature_extractor_needs_no_stage_1(run):
    config = demo(Path("images"), run.root)
    save_config(replace(config, discover=replace(config.discover, feature_extractor=Path("extractor.pth"))), run.config)
    shutil.rmtree(run.stage("stage1"))
    _, reader = report_of(run)
    assert "Stage 1 has" not in reader.text
    assert "Loss of stage 3 from 6" in reader.text
    assert "The feature extractor of stage 2 cannot be loaded: " in reader.text, "nor drawn"
    save_backbone(build_backbone("resnet18"), run.root / "extractor.safetensors")
    discover = replace(config.discover, feature_extractor=run.root / "extractor.safetensors")
    save_config(replace(config, discover=discover), run.config)
    _, reader = report_of(run)
    assert "cannot be loaded" not in reader.text
    assert "image feature extractor stage 3" in reader.text
    save_config(config, run.config)
    _, reader = report_of(run)
    assert "Stage 1 has written no backbone yet" in reader.text


def test_pairs_without_similarities_are_shown_without_them(run):
    pairs = tables.load(run.table("correspondences"))
    columns = {name: pairs.column(name) for name in ("image_id", "neighbour_id", "roi", "neighbour_roi")}
    shutil.rmtree(run.table("correspondences"))
    write_table(run, "correspondences", columns | {"similarity": np.full(pairs.num_rows, np.nan, np.float32)})
    ids = np.array(tables.load(run.table("neighbours")).column("neighbour_ids"))
    shutil.rmtree(run.table("neighbours"))
    write_table(run, "neighbours", {"neighbour_ids": ids, "similarities": np.full(ids.shape, np.nan, dtype=np.float32)})
    _, reader = report_of(run)
    assert "nan" not in reader.words
    assert "has no similarities, so it is not known which are the best" in reader.text
    texts = [words for _, attributes in reader.tags if "its neighbour" in (words := attributes.get("aria-label") or "")]
    assert len(texts) == len(pairs_of(reader))
    assert {kind for pair in pairs_of(reader) for kind in pair["data-kinds"].split()} == {"random", "query"}
    assert all(text.endswith("similarity –") for text in texts)


def test_a_missing_image_is_named_and_the_others_are_shown(run):
    (load_image_table(run.images).path(1)).unlink()
    _, reader = report_of(run)
    assert "image_1.png: 2 RoIs cannot be shown; image" in reader.text
    assert "image_2.png: 2 proposals; 2 RoIs kept" in reader.words


def test_tables_of_other_images_are_named(run):
    table = load_image_table(run.images)
    fewer = ImageTable(root=table.root, names=table.names[:4], sizes_wh=table.sizes_wh[:4], digests=table.digests[:4])
    save_image_table(fewer, run.images)
    _, reader = report_of(run)
    assert "neighbours has 6 rows, but there are 4 images" in reader.text
    assert "image_id is not one of the 4 images" in reader.text


def test_a_damaged_backbone_is_named(run):
    run.backbone("stage3").write_bytes(b"torn")
    _, reader = report_of(run)
    assert "is not a complete safetensors file" in reader.text


def test_a_sentence_compares_stage_3_with_stage_1(run):
    for label, mean_ap in {"stage1": 0.5, "stage3": 0.4}.items():
        run.evaluation("svm", label).write_text(json.dumps({"mean_ap": mean_ap}))
        run.evaluation("knn", label).write_text(json.dumps({"mean_ap": 0.5, "k": 20}))
    _, reader = report_of(run)
    assert "Linear SVM (pooled) mAP: stage 3 is 10.0 points below stage 1." in reader.text
    assert "Weighted kNN (pooled) mAP: stage 3 is level with stage 1." in reader.text


def test_the_curve_of_a_probe_has_only_the_steps_with_a_value(run):
    path = run.metrics("stage1")
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    for row, value in zip(rows[1::2], (0.125, 0.25, 0.5)):
        row["probe_knn_map"] = value
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    last = min(len(rows[1::2]), 3) - 1
    _, reader = report_of(run)
    caption = f"Mean AP by kNN while training: stage 1 from 0.125 to {(0.125, 0.25, 0.5)[last]:.3g}."
    assert caption in reader.text


def test_a_sentence_names_discovery_that_is_no_better_than_chance(run):
    score = {"num_pairs": 9, "object_fraction": 0.1, "random_num_pairs": 9, "random_object_fraction": 0.1}
    run.discovery_score.write_text(json.dumps({**score, "same_class_fraction": None}))
    _, reader = report_of(run)
    assert "Discovery is no better than chance here" in reader.text


@pytest.mark.parametrize(
    ("lift", "interval", "verdict"),
    [
        (2.5, [1.5, 3.5], "The further above 1, the more stage 3 can learn"),
        (2.5, [0.5, 3.5], "The interval includes 1"),
        (2.5, None, "Too few pairs are of one class for an interval"),
        (0.9, [0.5, 1.5], "Discovery is no better than chance here"),
    ],
)
def test_the_size_matched_lift_is_the_headline_of_discovery_and_stands_by_size(run, lift, interval, verdict):
    pairs = {"num_pairs": 9, "object_fraction": 0.4, "same_class_fraction": 0.5, "both_fraction": 0.2}
    group = {"num_pairs": 7, "both_fraction": 0.3, "size_matched_both_fraction": 0.1}
    score = {
        **{f"{kind}{key}": value for kind in ("", "random_", "kept_", "size_matched_") for key, value in pairs.items()},
        **{"size_matched_both_fraction": 0.08, "size_matched_lift": lift, "size_matched_lift_interval_95": interval},
        "lift": 7.25,
        "by_size": {
            "boxes below 10%": {**group, "size_matched_lift": 3.0, "size_matched_lift_interval_95": [2.0, 4.25]},
            "boxes above 30%": {
                **{"num_pairs": 0, "both_fraction": None, "size_matched_both_fraction": None},
                **{"size_matched_lift": None, "size_matched_lift_interval_95": None},
            },
        },
    }
    run.discovery_score.write_text(json.dumps(score))
    _, reader = report_of(run)
    shown = f" ({interval[0]:.2f}–{interval[1]:.2f})" if interval else ""
    assert f"Size-matched lift {lift:.2f}{shown}: 20.00% of the best pairs join two objects of one class" in reader.text
    assert "8.00% of random pairs of RoIs of the same images and sizes" in reader.text
    assert verdict in reader.text
    assert "boxes below 10%730.010.03.00 (2.00–4.25)" in "".join(reader.text.split("\n"))
    assert "boxes above 30%0" in "".join(reader.text.split("\n"))


def test_a_missing_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run at .*nowhere"):
        write_report([tmp_path / "nowhere"])


def test_a_smaller_sample_of_images_begins_a_larger_one():
    assert sample_indices(50, 3, seed=4) == sample_indices(50, 10, seed=4)[:3]
    assert len(np.unique(sample_indices(50, 10, seed=4))) == 10
    assert sorted(sample_indices(3, 10, seed=4)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (59.99, "1 min 0 s"), (192, "3 min 12 s"), (3600 * 30 + 150, "30 h 2 min")]
)
def test_a_duration_is_in_hours_minutes_and_seconds(seconds, text):
    assert duration(seconds) == text
