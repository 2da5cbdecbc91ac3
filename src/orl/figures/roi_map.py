"""A 2-D map of RoI embeddings, with thumbnails of RoIs where there is room: RoIs that look alike lie near each other.

`map_points` places the embeddings, `spread_out` chooses the thumbnails, `draw_roi_map` draws both.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy import ndarray

from orl.datasets.labels import NO_OBJECT
from orl.figures.pictures import TITLE_COLOUR

NUM_COMPONENTS = 50
PERPLEXITY = 30
MIN_POINTS = 10
"""Fewer are no map."""
THUMBNAIL_SIDE = 0.062
"""Of the map's side."""
NO_OBJECT_COLOUR, OTHER_COLOUR, ONE_COLOUR = "#b9bcc2", "#4a4d55", "#2563c9"
COLOUR_ORDER = [*(0, 2, 4, 6, 8, 10, 12, 16, 18), *(1, 3, 5, 7, 9, 11, 13, 17, 19)]
"""Of Matplotlib's tab20, for the most frequent classes: dark ones, then light ones, without its grays."""
MAP_IN, LEGEND_IN, CAPTION_IN, MARGIN_IN = 7.2, 1.5, 0.22, 0.15


def map_points(embeddings: Float[ndarray, "n d"], seed: int = 0) -> Float[ndarray, "n 2"]:
    """Places in the plane by t-SNE of the first 50 principal components of the unit vectors.

    Near is alike; far, and the size of groups, tell nothing.

    Args:
        embeddings: one a row.
        seed: the same places each time, on one machine.

    Returns:
        In [0, 1], each axis stretched.

    Raises:
        ValueError: if there are too few, or all are the same.

    Source:
        t-SNE (van der Maaten and Hinton, JMLR 2008), by scikit-learn.
    """
    if len(embeddings) < MIN_POINTS:
        raise ValueError(f"{len(embeddings)} RoIs make no map; {MIN_POINTS} or more are needed")
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    vectors = embeddings.astype(np.float64)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    if np.ptp(unit, axis=0).max() < 1e-6:
        # Scikit-learn ends the process on these.
        raise ValueError(f"the embeddings of {len(unit)} RoIs are all the same: no map; has the network collapsed?")
    num_components = min(NUM_COMPONENTS, *unit.shape)
    components = PCA(num_components, svd_solver="full").fit_transform(unit)
    perplexity = min(PERPLEXITY, (len(unit) - 1) / 3)
    placed = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(components).astype(np.float64)
    low, high = placed.min(axis=0), placed.max(axis=0)
    return (placed - low) / np.maximum(high - low, 1e-12)


def spread_out(places: Float[ndarray, "n 2"], most: int, side: float = THUMBNAIL_SIDE) -> list[int]:
    """Points whose squares do not overlap, each taken in turn if it still has room.

    Args:
        places: middle of each square, in the order of preference.
        most: how many at most.
        side: of the squares.
    """
    chosen: list[int] = []
    for index, place in enumerate(places):
        if len(chosen) == most:
            break
        if not chosen or (np.abs(places[chosen] - place).max(axis=1) >= side).all():
            chosen.append(index)
    return chosen


def draw_roi_map(
    places: Float[ndarray, "n 2"],
    thumbnails: Mapping[int, UInt8[ndarray, "_ _ 3"]],
    classes: Int[ndarray, "n"] | None = None,
    class_names: Sequence[str] = (),
    caption: str = "",
    dpi: int = 110,
) -> Figure:
    """Every RoI as a dot, some as thumbnails; colours are the classes of the objects that they cover, where known.

    Args:
        places: of the RoIs, in [0, 1].
        thumbnails: RoI -> its pixels; as `spread_out` chooses them they do not overlap.
        classes: index into the names, or -1 for an RoI that covers no object; none where labels are not known.
        class_names: name of each class.
        caption: below the map.
        dpi: resolution of a PNG, pixels an inch.
    """
    legend_in = 0 if classes is None else LEGEND_IN
    size_in = MAP_IN + 2 * MARGIN_IN + legend_in, MAP_IN + 2 * MARGIN_IN + CAPTION_IN
    figure = Figure(figsize=size_in, dpi=dpi)
    corner = (MARGIN_IN / size_in[0], (MARGIN_IN + CAPTION_IN) / size_in[1])
    axes = figure.add_axes((*corner, MAP_IN / size_in[0], MAP_IN / size_in[1]))
    colours = {} if classes is None else _colours(classes)
    dots = [ONE_COLOUR] * len(places) if classes is None else [colours[label] for label in classes.tolist()]
    half = THUMBNAIL_SIDE / 2
    axes.scatter(places[:, 0], places[:, 1], s=9, c=dots, linewidths=0, zorder=1)
    for index, pixels in thumbnails.items():
        _place_thumbnail(axes, places[index], pixels, dots[index])
    axes.set(xlim=(-half - 0.01, 1 + half + 0.01), ylim=(-half - 0.01, 1 + half + 0.01), xticks=[], yticks=[])
    axes.spines[:].set_color("#00000030")
    if classes is not None:
        _add_legend(axes, colours, class_names)
    look: dict[str, Any] = {"fontsize": 8, "color": TITLE_COLOUR, "parse_math": False}
    figure.text(corner[0], 0.4 * (MARGIN_IN + CAPTION_IN) / size_in[1], caption, **look)
    return figure


def _place_thumbnail(axes: Axes, place: Float[ndarray, "2"], pixels: ndarray, colour: str) -> None:
    """The RoI in its own shape, its longer side the side of a square."""
    height, width = pixels.shape[:2]
    half_width, half_height = (THUMBNAIL_SIDE / 2 * side / max(height, width) for side in (width, height))
    x, y = place.tolist()
    extent = (x - half_width, x + half_width, y - half_height, y + half_height)
    axes.imshow(pixels, extent=extent, aspect="auto", zorder=2)
    frame = Rectangle(
        (extent[0], extent[2]), 2 * half_width, 2 * half_height, fill=False, edgecolor=colour, linewidth=1.8, zorder=3
    )
    axes.add_patch(frame)


def _colours(classes: Int[ndarray, "n"]) -> dict[int, str]:
    """Of each class: the most frequent ones have colours of their own, and what is left has one together."""
    labels, counts = np.unique(classes[classes != NO_OBJECT], return_counts=True)
    frequent = labels[np.argsort(-counts, kind="stable")].tolist()
    colours = {label: to_hex(colormaps["tab20"](index)) for label, index in zip(frequent, COLOUR_ORDER)}
    return {NO_OBJECT: NO_OBJECT_COLOUR, **dict.fromkeys(frequent, OTHER_COLOUR), **colours}


def _add_legend(axes: Axes, colours: Mapping[int, str], class_names: Sequence[str]) -> None:
    names = {label: class_names[label] for label in sorted(colours) if label != NO_OBJECT}
    told = {name: colours[label] for label, name in names.items() if colours[label] != OTHER_COLOUR}
    num_others = len(names) - len(told)
    others = {f"{num_others} other classes": OTHER_COLOUR} if num_others else {}
    for name, colour in {**told, **others, "no object": NO_OBJECT_COLOUR}.items():
        axes.scatter([], [], s=28, c=colour, label=name)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9, handletextpad=0.2)
