"""The bricks of an HTML page; every string that is not markup already is escaped."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from orl.figures.pictures import Picture
from orl.figures.style import STYLE_SHEET

# The page may use pictures and styles that lie inside it and nothing else: no script, no request.
SECURITY_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


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


def share_bar(value: float | None) -> Html:
    """A share in [0, 1] as points out of 100 and as a bar; a dash where there is none."""
    if value is None:
        return Html("–")
    width = min(100.0, max(0.0, 100 * value))
    return Html(f'{100 * value:.1f}<span class="bar" aria-hidden="true"><i style="width:{width:.1f}%"></i></span>')


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """A table whose first column names the row; cells that read as numbers are set right.

    Args:
        caption: what the table shows.
        columns: names of the columns.
        rows: cells of each row.
    """
    body_rows = [[markup(cell) for cell in row] for row in rows]
    numeric = [all(_is_number(row[index]) for row in body_rows) for index in range(len(columns))]
    kinds = [' class="number"' if each else "" for each in numeric]
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
    """A picture and its caption, on a white card, which charts need in the dark."""
    return Html(
        f'<figure><div class="white"><img src="{picture.uri}" alt="{markup(alt)}" width="{picture.width_px}"'
        f' height="{picture.height_px}"></div>'
        f"<figcaption>{join(*caption)}</figcaption></figure>"
    )


def gallery(figures: Iterable[Html], two_columns: bool = True) -> Html:
    """Figures below each other, or in two columns where there is room."""
    kind = "gallery two" if two_columns else "gallery"
    return Html(f'<div class="{kind}">{join(*figures)}</div>')


def section(title: str, *content: Html) -> tuple[str, Html]:
    """A part of the page: its title, for the table of contents, and its markup."""
    return title, Html(
        f'<section id="{_anchor(title)}" aria-labelledby="{_anchor(title)}-title">'
        f'<h2 id="{_anchor(title)}-title">{markup(title)}</h2>{join(*content)}</section>'
    )


def page(title: str, header: Html, sections: Sequence[tuple[str, Html]], footer: Html) -> str:
    """The whole document, which asks for nothing outside itself."""
    contents = "".join(f'<li><a href="#{_anchor(name)}">{markup(name)}</a></li>' for name, _ in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en-GB"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{SECURITY_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{markup(title)}</title><link rel="icon" href="data:,"><style>{STYLE_SHEET}</style></head>'
        f'<body><div class="page"><nav aria-label="Contents"><ol>{contents}</ol></nav>'
        f"<header>{header}</header><main>{join(*(body for _, body in sections))}</main>"
        f"<footer>{footer}</footer></div></body></html>\n"
    )


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _is_number(cell: Html) -> bool:
    return cell == "–" or re.fullmatch(r"[-+−]?[\d,.]+ ?%?", re.sub(r"<.*", "", cell)) is not None
