"""The bricks of an HTML page; every string that is not markup already is escaped."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from orl.figures.pictures import Picture
from orl.report.style import SCRIPTS, SECURITY_POLICY, STYLE_SHEET

LONG_WORDS = 40
"""Letters of a cell from where on its column must not be narrow."""


class Html(str):
    """Text that is markup already."""


def markup(content: object) -> Html:
    """Content as markup: text is escaped, markup stays."""
    return content if isinstance(content, Html) else Html(escape(str(content)))


def join(*parts: object) -> Html:
    """Parts one after the other."""
    return Html("".join(markup(part) for part in parts))


def paragraph(*parts: object) -> Html:
    return Html(f"<p>{join(*parts)}</p>")


def missing(*parts: object) -> Html:
    """A sentence in place of something that is not there."""
    return Html(f'<p class="missing">{join(*parts)}</p>')


def code(text: object) -> Html:
    return Html(f"<code>{markup(text)}</code>")


def heading(text: object) -> Html:
    return Html(f"<h3>{markup(text)}</h3>")


def facts(pairs: Mapping[str, object]) -> Html:
    """A list of names and what they are; pairs without content are left out."""
    rows = "".join(f"<dt>{markup(name)}</dt><dd>{markup(value)}</dd>" for name, value in pairs.items() if value)
    return Html(f"<dl>{rows}</dl>")


def tiles(pairs: Iterable[tuple[str, str]]) -> Html:
    """Large numbers, each with what it is."""
    each = "".join(
        f'<div class="tile"><b>{markup(value)}</b><span>{markup(name)}</span></div>' for name, value in pairs
    )
    return Html(f'<div class="tiles">{each}</div>') if each else Html("")


def fraction_bar(value: float | None, interval: Sequence[float] | None = None, best: bool = False) -> Html:
    """A share in [0, 1] as points out of 100 and as a bar; a dash where there is none.

    Args:
        value: the share.
        interval: its lower and upper end, where they are known.
        best: whether it is marked as the best of its column.
    """
    if value is None:
        return Html("–")
    points = f"{100 * value:.1f}"
    told = Html(f'<b class="best">{points}</b>') if best else Html(points)
    ends = (
        "" if interval is None else f' <span class="range">{" to ".join(f"{100 * end:.1f}" for end in interval)}</span>'
    )
    width = min(100.0, max(0.0, 100 * value))
    return Html(
        f'{told}{ends}<svg class="bar" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{width:.1f}" height="1"/></svg>'
    )


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """A table whose first column names the row; cells that read as numbers are set right.

    Args:
        caption: what the table shows.
        columns: names of the columns.
        rows: cells of each row.
    """
    body_rows = [[markup(cell) for cell in row] for row in rows]
    kinds = [_column_class([row[index] for row in body_rows]) for index in range(len(columns))]
    head = "".join(f'<th scope="col"{kind}>{markup(name)}</th>' for name, kind in zip(columns, kinds))
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row[1:], kinds[1:]))
        + "</tr>"
        for row in body_rows
    )
    return Html(
        f'<div class="wide" role="region" tabindex="0" aria-label="{markup(caption)}"><table>'
        f"<caption>{markup(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def details(summary: str, *content: Html) -> Html:
    """Content that opens on demand."""
    return Html(f"<details><summary>{markup(summary)}</summary>{join(*content)}</details>")


def figure(picture: Picture, alt: str, *caption: object) -> Html:
    """A picture and its caption: a chart turns with the page's theme, an image lies on white."""
    kind = "chart paper" if picture.is_chart else "paper"
    return captioned(image(picture, alt), *caption, kind=kind)


def image(picture: Picture, alt: str) -> Html:
    """A picture by itself."""
    return Html(
        f'<img src="{picture.uri}" alt="{markup(alt)}" width="{picture.width_px}" height="{picture.height_px}">'
    )


def cell(picture: Html, below: object = "", kind: str = "") -> Html:
    """One of several pictures of a figure, with a word below it."""
    return Html(f'<span class="{f"cell {kind}".strip()}">{picture}{markup(below)}</span>')


def captioned(picture: Html, *caption: object, kind: str = "", **data: str) -> Html:
    """Any picture with its caption, which the script can enlarge.

    Args:
        picture: its markup.
        caption: what stands below it.
        kind: classes of what it lies on.
        data: what the script sorts and filters by.
    """
    told = "".join(f' data-{name}="{markup(value)}"' for name, value in data.items())
    classes = f"picture {kind}".strip()
    return Html(
        f'<figure{told}><div class="{classes}">{picture}</div><figcaption>{join(*caption)}</figcaption></figure>'
    )


def gallery(figures: Iterable[Html], columns: str = "two") -> Html:
    """Figures below each other, or side by side where there is room: 'two', 'pairs' (up to three) or ''."""
    kind = f"gallery {columns}".strip()
    return Html(f'<div class="{kind}">{join(*figures)}</div>')


def section(title: str, *content: Html) -> tuple[str, Html]:
    """A part of the page: its title, for the table of contents, and its markup."""
    return title, Html(
        f'<section id="{_anchor(title)}" aria-labelledby="{_anchor(title)}-title">'
        f'<h2 id="{_anchor(title)}-title">{markup(title)}</h2>{join(*content)}</section>'
    )


def page(title: str, header: Html, sections: Sequence[tuple[str, Html]], footer: Html, images: str = "") -> str:
    """The whole document, which asks for nothing outside itself.

    Args:
        title: of the window.
        header: what stands above the sections.
        sections: their titles and markup.
        footer: what stands below them.
        images: the images that sections show, each once.
    """
    contents = "".join(f'<li><a href="#{_anchor(name)}">{markup(name)}</a></li>' for name, _ in sections)
    scripts = "".join(f"<script>{script}</script>" for script in SCRIPTS)
    return (
        '<!DOCTYPE html>\n<html lang="en-GB"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{SECURITY_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{markup(title)}</title><link rel="icon" href="data:,"><style>{STYLE_SHEET}</style>{scripts}</head>'
        f'<body>{images}<div class="page"><div class="side"><div>{_THEMES}'
        f'<nav aria-label="Contents"><ol>{contents}</ol></nav></div></div>'
        f"<header>{header}</header><main>{join(*(body for _, body in sections))}</main>"
        f"<footer>{footer}</footer></div></body></html>\n"
    )


_THEMES = Html(
    '<fieldset class="theme" hidden><legend class="out">Colours</legend>'
    + "".join(
        f'<label><input type="radio" name="theme" value="{value}"><span>{value.capitalize()}</span></label>'
        for value in ("auto", "light", "dark")
    )
    + "</fieldset>"
)


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _column_class(cells: Sequence[Html]) -> str:
    """Of a column: numbers are set right, and long words have some room."""
    if all(_is_number(cell) for cell in cells):
        return ' class="number"'
    is_long = any(len(re.sub(r"<[^>]*>", "", cell)) > LONG_WORDS for cell in cells)
    return ' class="words"' if is_long else ""


def _is_number(cell: Html) -> bool:
    first = re.sub(r"<.*", "", re.sub(r"^<b[^>]*>|</b>", "", cell))
    return cell == "–" or re.fullmatch(r"[-+−]?[\d,.]+ ?%?", first) is not None
