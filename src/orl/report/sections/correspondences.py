"""The section of correspondences: pairs of images with the boxes that stage 2 matched, to be sorted and filtered."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil, floor

import numpy as np

from orl.datasets.decode import ImageError
from orl.datasets.labels import LabelledSplit
from orl.figures.correspondence_figure import similarity_text
from orl.report import html as page
from orl.report.html import Html
from orl.report.options import GalleryOptions
from orl.report.overlays import pair_svg
from orl.report.results import how_to_go_on
from orl.report.sections.frames import not_there
from orl.report.sections.pairs import KINDS, ShownPair, choose_pairs
from orl.report.style import colour_class
from orl.report.thumbnails import Album
from orl.rundir import RunDir

ORDERS = {
    "highest": "Similarity, highest first",
    "lowest": "Similarity, lowest first",
    "name": "Name of the query image",
    "random": "Random order",
}
COVERS = {
    "same": "Both on objects of one class",
    "both": "Both on an object",
    "none": "Not both on an object",
}


def correspondence_section(
    run: RunDir, album: Album | None, options: GalleryOptions, labels: LabelledSplit | None
) -> tuple[str, Html]:
    """Pairs of RoIs that stage 2 matched: the most similar, the least, some at random, and those of a few images."""
    title = "Correspondences"
    intro = page.paragraph(
        "An image beside one of its neighbours, and the boxes in both that stage 2 takes for the same kind of thing. In "
        "stage 3 each such pair is pulled together. The numbers are cosines of the two boxes' embeddings."
    )
    try:
        if album is None:
            raise FileNotFoundError("no images")
        pairs = choose_pairs(run, album.images, options, labels)
    except (FileNotFoundError, ValueError) as error:
        return page.section(title, intro, not_there(run, "No correspondences have been found yet", error))
    if not pairs:
        return page.section(title, intro, page.missing("No correspondence was kept. ", how_to_go_on(run)))
    known = all(np.isfinite(pair.similarities[0]) for pair in pairs)
    if known:
        pairs = sorted(pairs, key=lambda pair: -float(pair.similarities[0]))
    notes, figures = [], []
    for pair in pairs:
        try:
            figures.append(_pair_figure(album, pair))
        except ImageError as error:
            names = [album.images.names[each] for each in pair.image_ids]
            notes.append(page.missing(f"{' and '.join(names)} cannot be shown; {error}"))
    explorer = page.join(_controls(pairs, known), page.gallery(figures, "two pairs"), _MORE)
    return page.section(
        title, intro, _kinds_told(pairs, known), *notes, Html(f'<div class="explorer">{explorer}</div>')
    )


_MORE = Html('<p><button type="button" class="plain more" hidden></button></p>')


def _kinds_told(pairs: Sequence[ShownPair], known: bool) -> Html:
    if not known:
        return page.paragraph(
            "The table of correspondences holds no similarities, so it is not known which are the best: all that are "
            "shown are drawn by the report's seed."
        )
    return page.paragraph(
        "The most similar and the least similar are the extremes of the run: one pair a query image, one for two "
        "images that are each other's neighbours. What stage 3 mostly sees are those drawn at random. All here were "
        "kept; what looks wrong among them is a failure of discovery."
    )


def _pair_figure(album: Album, pair: ShownPair) -> Html:
    names = [album.images.names[each] for each in pair.image_ids]
    told = [similarity_text(float(value), 3) for value in pair.similarities]
    joined = "a box in each, joined" if len(told) == 1 else f"{len(told)} pairs of boxes, each joined"
    alt = f"{names[0]} and its neighbour {names[1]}, {joined}; similarity {', '.join(told)}"
    image, neighbour = album.thumbnails(pair.image_ids)
    chips = [
        *(f'<span class="chip {colour_class(index)}"><i></i>{text}</span>' for index, text in enumerate(told)),
        *([] if pair.covered is None else [_chip(_covered_told(pair.covered))]),
        *(_chip(KINDS[kind]) for kind in pair.kinds),
    ]
    return page.captioned(
        pair_svg(image, neighbour, pair.boxes, pair.neighbour_boxes, alt),
        f"{names[0]} and {names[1]}",
        Html(f'<div class="chips">{"".join(chips)}</div>'),
        query=names[0],
        names=" ".join(names),
        kinds=" ".join(pair.kinds),
        covers=" ".join(pair.covers),
        similarity=f"{pair.similarities[0]:.5f}",
    )


def _covered_told(covered: tuple[str, str]) -> str:
    if not any(covered):
        return "neither on an object"
    if covered[0] == covered[1]:
        return f"both on {covered[0]}"
    return f"on {' and '.join(each or 'no object' for each in covered)}"


def _chip(text: str) -> str:
    return f'<span class="chip kind">{page.markup(text)}</span>'


def _controls(pairs: Sequence[ShownPair], known: bool) -> Html:
    """What sorts and filters the pairs; the script shows it, which does the work."""
    kinds = Counter(kind for pair in pairs for kind in pair.kinds)
    covers = Counter(word for pair in pairs for word in pair.covers)
    orders = ORDERS if known else {"listed": "As listed"} | {name: ORDERS[name] for name in ("name", "random")}
    offered = {"": f"All kinds ({len(pairs)})"}
    offered |= {kind: f"{KINDS[kind].capitalize()} ({kinds[kind]})" for kind in KINDS if kinds[kind]}
    fields = [
        _select("Sort by", "sort", orders),
        _select("Which pairs", "kind", offered),
        Html(
            '<label>File name contains <input type="search" name="text" autocomplete="off" spellcheck="false"></label>'
        ),
    ]
    if known:
        values = [float(pair.similarities[0]) for pair in pairs]
        low, high = (f"{whole / 100:.2f}" for whole in (floor(100 * min(values)), ceil(100 * max(values))))
        slider = f'<input type="range" name="least" min="{low}" max="{high}" step="0.01" value="{low}">'
        told = '<span>Least similarity: <output class="least">any</output></span>'
        fields.append(Html(f"<label>{told}{slider}</label>"))
    if covers:
        offered = {"": "Whatever they cover"}
        offered |= {word: f"{text} ({covers[word]})" for word, text in COVERS.items()}
        fields.append(_select("The best boxes are", "covers", offered))
    told = '<div class="told"><button type="reset" class="plain">Reset</button><output class="count"></output></div>'
    return Html(
        f'<form class="controls" hidden aria-label="Sort and filter the pairs">{page.join(*fields)}{told}</form>'
    )


def _select(label: str, name: str, options: Mapping[str, str]) -> Html:
    each = "".join(f'<option value="{value}">{page.markup(text)}</option>' for value, text in options.items())
    return Html(f'<label>{page.markup(label)} <select name="{name}">{each}</select></label>')
