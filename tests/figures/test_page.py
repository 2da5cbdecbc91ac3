import pytest

from orl.figures import page
from orl.figures.page import Html


def test_text_is_escaped_and_markup_stays():
    assert page.join("a < b & \"c\" 'd'", Html("<b>e</b>")) == "a &lt; b &amp; &quot;c&quot; &#x27;d&#x27;<b>e</b>"


def test_a_table_sets_numbers_right_and_names_its_rows():
    table = page.table("Cap <1>", ["Name", "Score", "What"], [["<x>", "1,234.5", "a"], ["y", "–", "b"]])
    assert "<caption>Cap &lt;1&gt;</caption>" in table
    assert '<th scope="row">&lt;x&gt;</th><td class="number">1,234.5</td><td>a</td>' in table
    assert '<th scope="col" class="number">Score</th><th scope="col">What</th>' in table


def test_a_share_is_out_of_a_hundred_and_its_bar_as_long():
    assert page.share_bar(0.2567).startswith("25.7<")
    assert "width:25.7%" in page.share_bar(0.2567)
    assert page.share_bar(None) == "–"


@pytest.mark.parametrize("empty", [None, ""])
def test_facts_without_content_are_left_out(empty):
    assert page.facts({"Commit": empty, "Seed": "0"}) == "<dl><dt>Seed</dt><dd>0</dd></dl>"


def test_the_table_of_contents_leads_to_the_sections():
    whole = page.page("T", Html(""), [page.section("Kept RoIs", Html("<p>x</p>"))], Html(""))
    assert '<a href="#kept-rois">Kept RoIs</a>' in whole
    assert '<section id="kept-rois"' in whole
