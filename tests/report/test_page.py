import base64
import hashlib
import re

from orl.report.content import Chip, Code, Figure, Fraction, Panel, ScoreTable
from orl.report.overlays import Overlay
from orl.report.page import render_page, templates
from orl.report.sections.neighbours import Neighbours


def render(macro: str, *values: object) -> str:
    """Lay out a value by a macro of the templates, on one line."""
    text = getattr(templates().get_template("macros.html").module, macro)(*values)
    return re.sub(r"\s*\n\s*", "", str(text))


def page(names: tuple[str, ...] = ("run",), title: str = "Neighbours") -> str:
    return render_page(
        kind="ORL report", names=names, lead="", tiles=[], thumbnails=[], sections=[Neighbours(title=title, queries=[])]
    )


def test_text_of_a_cell_is_escaped() -> None:
    assert render("cell", "a < b & \"c\" 'd'") == "a &lt; b &amp; &#34;c&#34; &#39;d&#39;"
    assert render("cell", Code("<b>")) == "<code>&lt;b&gt;</code>"


def test_the_title_is_escaped() -> None:
    text = page(names=("</title><script>alert(1)</script>",))
    assert text.count("<script") == 3
    assert "&lt;script&gt;alert(1)" in text


def test_a_table_aligns_numbers_right_and_names_its_rows() -> None:
    columns, rows = ["Name", "Score", "Text"], [["<x>", "1,234.5", "a"], ["y", "–", "b"]]
    text = render("table", ScoreTable(caption="Cap <1>", columns=columns, rows=rows))
    assert "<caption>Cap &lt;1&gt;</caption>" in text
    assert '<th scope="row">&lt;x&gt;</th><td class="number">1,234.5</td><td>a</td>' in text
    assert '<th scope="col" class="number">Score</th><th scope="col">Text</th>' in text


def test_a_column_of_long_text_has_a_minimum_width() -> None:
    assert ScoreTable(caption="", columns=["a", "b"], rows=[["x", "y" * 41]]).classes == ["", "words"]
    assert ScoreTable(caption="", columns=["a", "b"], rows=[["x", Code("y" * 41)]]).classes == ["", "words"]


def test_a_fraction_is_out_of_a_hundred_and_its_bar_as_long() -> None:
    assert render("cell", Fraction(0.2567)).startswith("25.7<")
    assert 'width="25.7"' in render("cell", Fraction(0.2567))
    assert 'width="100.0"' in render("cell", Fraction(1.3))
    assert render("cell", Fraction(None)) == "–"


def test_a_fraction_shows_its_interval_and_whether_it_is_the_best() -> None:
    text = render("cell", Fraction(0.25, (0.2, 0.31), is_best=True))
    assert text.startswith('<b class="best">25.0</b> <span class="range">20.0 to 31.0</span>')


def test_names_that_the_script_filters_by_are_escaped() -> None:
    panel = Panel(picture=Overlay(width=1.0, layers=[]), alt="a & b")
    evil = 'x"><script>alert(1)</script>.jpg'
    text = render("figure", Figure(panels=[panel], caption="a & b", data={"names": evil}, chips=[Chip(evil)]))
    assert 'data-names="x&#34;&gt;&lt;script&gt;alert(1)&lt;/script&gt;.jpg"' in text
    assert "<script" not in text


def test_the_table_of_contents_links_to_the_sections() -> None:
    text = page(title="Kept RoIs")
    assert '<a href="#kept-rois">Kept RoIs</a>' in text
    assert '<section id="kept-rois"' in text


def test_the_policy_names_every_script_and_style_of_the_page_and_no_other() -> None:
    text = page()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    kinds = {"script-src": re.findall(r"<script>(.*?)</script>", text, re.DOTALL)}
    kinds["style-src"] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert allowed["default-src"] == "'none'"
    for kind, parts in kinds.items():
        hashes = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts]
        assert allowed[kind].split() == [f"'sha256-{each}'" for each in hashes], kind
