"""The page of a comparison: verdicts, intervals drawn to scale, escaped labels, and no outside resource."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.report.browsing import prefer, resize

from orl.evaluation.bootstrap import Estimate
from orl.evaluation.objects import compare
from orl.evaluation.objects.compare import BackboneComparison, compare_results
from orl.evaluation.objects.image_sums import ImageSums
from orl.evaluation.objects.object_result import Row, object_result, row_of
from orl.report.compare_page import write_compare_page

EVIL = "runs/</h1><script>alert(1)</script>/a&b"
NUM_IMAGES = 60


def sums(correct: float) -> ImageSums:
    """Return the sums of images with four objects of which a fraction is right, give or take one."""
    generator = np.random.default_rng(int(100 * correct))
    values = np.clip(np.full((1, NUM_IMAGES, 1), 4 * correct) + generator.integers(-1, 2, (1, NUM_IMAGES, 1)), 0, 4)
    names = tuple(map(str, range(NUM_IMAGES)))
    return ImageSums(images=names, numerators=values, denominators=np.full_like(values, 4))


def results(label: str, *, good: float, bad: float) -> list[dict[str, Any]]:
    rank = Row(name="rank", estimate=Estimate(value=12.5, low=11.0, high=14.25), unit="number")
    rows = [
        row_of("crop, <top-1>", sums(good), seed=0, chance=0.25),
        row_of("map, top-1", sums(bad), seed=0, chance=0.25),
        row_of("same", sums(0.5), seed=0),
    ]
    about: dict[str, Any] = {
        "train_split": "trainval",
        "test_split": "test",
        "num_train": 500,
        "num_test": NUM_IMAGES,
        "k": 20,
    }
    about |= {"sizes": [32, 64], "flip": True, "left_out": [], "fitted": {"l2": 0.125}}
    common: dict[str, Any] = {"backbone": label, "data": "sets/labelled", "elapsed_s": 61.0}
    lift = [row_of("lift", sums(good), seed=0, unit="number", chance=1.0)]
    return [
        object_result("roi-knn", rows, protocol_deviations=["resnet18, not resnet50"], about=about, **common),
        object_result("pairs", lift, protocol_deviations=[], **common),
        object_result("rank", [rank], protocol_deviations=["resnet18, not resnet50"], **common),
    ]


@pytest.fixture(scope="module")
def comparison() -> BackboneComparison:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "NUM_BLOCKS", 1)
        return compare_results([*results("random", good=0.25, bad=0.75), *results(EVIL, good=0.75, bad=0.25)])


@pytest.fixture(scope="module")
def page(comparison: BackboneComparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_compare_page(
        comparison,
        tmp_path_factory.mktemp("page") / "comparison.html",
        left_out={"corloc": "no <boxes>"},
        failures=["corloc of x: <no>"],
    )


@pytest.fixture(scope="module")
def text(page: Path) -> str:
    return page.read_text()


def drawn_rows(text: str) -> list[str]:
    return re.findall(r'<tr class="(?:ahead|behind|undecided)">.*?</tr>', text, re.DOTALL)


def test_every_verdict_is_on_the_page(text: str) -> None:
    verdicts = [re.search(r"<b>(.*?)</b>", row)[1] for row in drawn_rows(text)]
    assert verdicts == ["ahead", "behind", "cannot be told apart", "ahead"]
    assert "is ahead of random in 2 of 4 rows, behind in 1." in text
    assert "<b>2 of 4</b>" in text


def test_labels_and_names_are_escaped(text: str) -> None:
    assert "alert(1)&lt;/script&gt;/a&amp;b" in text
    assert "crop, &lt;top-1&gt;" in text
    assert "corloc of x: &lt;no&gt;" in text
    assert "no &lt;boxes&gt;" in text
    assert text.count("<script") == 3


def test_an_interval_is_drawn_to_scale(text: str, comparison: BackboneComparison) -> None:
    row, paired = comparison.pairs[0].ranked[0]
    ticks = re.findall(r'<text class="\w+" x="([\d.]+)%" y="12">(.*?)</text>', text.split("</thead>")[1])
    (first, low), (last, high) = ((float(at), float(label.replace("−", "-"))) for at, label in (ticks[0], ticks[-1]))
    assert (first, last) == (0.0, 100.0)
    drawn = drawn_rows(text)[0]
    ends = [float(each) for each in re.search(r'"corrected" x1="([-\d.]+)%" x2="([-\d.]+)%"', drawn).groups()]
    inner = [float(each) for each in re.search(r'"plain-interval" x1="([-\d.]+)%" x2="([-\d.]+)%"', drawn).groups()]
    for found, expected in ((ends, paired.corrected_interval), (inner, paired.interval)):
        values = [low + each / 100 * (high - low) for each in found]
        assert values == pytest.approx([100 * each for each in expected], abs=0.02)
    assert f"+{100 * row.paired.value:.1f}<" in drawn
    assert low <= 100 * paired.corrected_interval[0]
    assert 100 * paired.corrected_interval[1] <= high


def test_few_differing_images_are_stated(text: str) -> None:
    assert "differ on 0 of 60 images" in drawn_rows(text)[2]
    assert "differ on" not in drawn_rows(text)[0]


def test_scores_without_a_verdict_are_marked(text: str) -> None:
    assert "rank: rank *" in text
    assert "12.50 (11.00 to 14.25)" in text


def test_the_level_and_the_number_of_verdicts_are_stated(text: str) -> None:
    assert "There are 4 verdicts on this page" in text
    assert "has the level 98.75%" in text
    assert "The seed of the training is not in these intervals" in text
    assert "2,000 times" in text or "20,000 times" in text


def test_data_options_times_and_deviations_are_stated(text: str) -> None:
    assert "labelled, trainval (500 images) to test (60 images)" in text
    assert "<td>k 20, sizes 32 64, flip yes</td>" in text
    assert "1 min 1 s" in text
    assert re.search(r"resnet18, not resnet50</th><td[^>]*>roi-knn, rank</td><td[^>]*>all</td>", text)


def test_missing_scores_are_named(tmp_path: Path) -> None:
    found = compare_results([*results("a", good=0.5, bad=0.5), results("b", good=0.5, bad=0.5)[0]])
    text = write_compare_page(found, tmp_path / "page.html").read_text()
    assert "Only one of the two has these scores: pairs: lift, rank: rank" in text


@pytest.mark.parametrize("width", [375, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_every_screen(session, page: Path, width: int, scheme: str) -> None:
    resize(session, width, 900)
    prefer(session, scheme)
    session.get_log("browser")
    session.get(page.as_uri())
    assert session.execute_script("return document.documentElement.scrollWidth") <= width
    assert session.get_log("browser") == []
    side = session.execute_script("return document.querySelector('.ahead svg').getBoundingClientRect().width")
    assert side > 90
    fill = "return getComputedStyle(document.querySelector(arguments[0] + ' circle')).fill"
    assert len({session.execute_script(fill, kind) for kind in (".ahead", ".behind", ".undecided")}) == 3
