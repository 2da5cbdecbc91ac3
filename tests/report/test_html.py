import base64
import hashlib
import re

import pytest

from orl.report import html as page
from orl.report.html import Html


def test_text_is_escaped_and_markup_stays():
    assert page.join("a < b & \"c\" 'd'", Html("<b>e</b>")) == "a &lt; b &amp; &quot;c&quot; &#x27;d&#x27;<b>e</b>"


def test_a_table_sets_numbers_right_and_names_its_rows():
    table = page.table("Cap <1>", ["Name", "Score", "What"], [["<x>", "1,234.5", "a"], ["y", "–", "b"]])
    assert "<caption>Cap &lt;1&gt;</caption>" in table
    assert '<th scope="row">&lt;x&gt;</th><td class="number">1,234.5</td><td>a</td>' in table
    assert '<th scope="col" class="number">Score</th><th scope="col">What</th>' in table


def test_a_share_is_out_of_a_hundred_and_its_bar_as_long():
    assert page.fraction_bar(0.2567).startswith("25.7<")
    assert 'width="25.7"' in page.fraction_bar(0.2567)
    assert 'width="100.0"' in page.fraction_bar(1.3)
    assert page.fraction_bar(None) == "–"


def test_a_share_tells_its_interval_and_whether_it_is_the_best():
    told = page.fraction_bar(0.25, (0.2, 0.31), best=True)
    assert told.startswith('<b class="best">25.0</b> <span class="range">20.0 to 31.0</span>')


def test_what_the_script_sorts_by_is_escaped():
    figure = page.captioned(Html("<img>"), "a & b", names='x"><script>alert(1)</script>.jpg')
    assert 'data-names="x&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;.jpg"' in figure
    assert "<script" not in figure


@pytest.mark.parametrize("empty", [None, ""])
def test_facts_without_content_are_left_out(empty):
    assert page.facts({"Commit": empty, "Seed": "0"}) == "<dl><dt>Seed</dt><dd>0</dd></dl>"


def test_the_table_of_contents_leads_to_the_sections():
    whole = page.page("T", Html(""), [page.section("Kept RoIs", Html("<p>x</p>"))], Html(""))
    assert '<a href="#kept-rois">Kept RoIs</a>' in whole
    assert '<section id="kept-rois"' in whole


def test_the_policy_names_every_script_and_style_of_the_page_and_no_other():
    whole = page.page("T", Html(""), [page.section("A", Html(""))], Html(""))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', whole)[1]
    kinds = {"script-src": re.findall(r"<script>(.*?)</script>", whole, re.DOTALL)}
    kinds["style-src"] = re.findall(r"<style>(.*?)</style>", whole, re.DOTALL)
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert allowed["default-src"] == "'none'"
    for kind, parts in kinds.items():
        hashes = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts]
        assert allowed[kind].split() == [f"'sha256-{each}'" for each in hashes], kind
