"""Appearance of the object classes in synthetic scenes: a shape made of polygons, and a texture."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

Polygon = tuple[tuple[float, float], ...]
Texture = Callable[[ndarray, ndarray], ndarray]


@dataclass(frozen=True)
class Appearance:
    """Appearance of a class, in coordinates from -1 to 1, x to the right, y down."""

    body: tuple[Polygon, ...]
    """Parts with the texture."""
    texture: Texture
    """Function of x and y in texture units of about 4 px; returns the blend of two colours in [0, 1]."""
    accents: tuple[Polygon, ...] = ()
    """Plain parts of another colour over the body."""
    holes: tuple[Polygon, ...] = ()
    """Parts where the background is visible."""


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> Polygon:
    """Return an ellipse of 40 corners."""
    angles = [2 * math.pi * corner / 40 for corner in range(40)]
    return tuple((x + radius_x * math.cos(angle), y + radius_y * math.sin(angle)) for angle in angles)


def right_of(x: float, polygon: Polygon) -> Polygon:
    """Clip a convex polygon to the half plane from this x on."""
    return tuple((max(x, corner_x), corner_y) for corner_x, corner_y in polygon)


def rectangle(left: float, top: float, right: float, bottom: float) -> Polygon:
    """Return an upright rectangle."""
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def star(num_points: int, inner_radius: float) -> Polygon:
    """Return a star whose points touch the unit circle, one of them at the top."""
    corners = range(2 * num_points)
    radii = [1.0 if corner % 2 == 0 else inner_radius for corner in corners]
    angles = [math.pi * corner / num_points for corner in corners]
    return tuple((radius * math.sin(angle), -radius * math.cos(angle)) for radius, angle in zip(radii, angles))


def stripes(x: Float32[ndarray, "h w"], y: Float32[ndarray, "h w"]) -> Float32[ndarray, "h w"]:
    """Blend in slanting stripes."""
    return _step(np.sin(1.3 * (x + 0.6 * y)))


def checks(x: Float32[ndarray, "h w"], y: Float32[ndarray, "h w"]) -> Float32[ndarray, "h w"]:
    """Blend in a chessboard."""
    return _step(np.sin(1.5 * x) * np.sin(1.5 * y))


def dots(x: Float32[ndarray, "h w"], y: Float32[ndarray, "h w"]) -> Float32[ndarray, "h w"]:
    """Blend in round dots on a grid."""
    return _step(np.cos(2.4 * x) + np.cos(2.4 * y) - 0.6)


def bricks(x: Float32[ndarray, "h w"], y: Float32[ndarray, "h w"]) -> Float32[ndarray, "h w"]:
    """Blend in rows of bricks, every other row shifted by half a brick."""
    row = np.floor(y / 1.5)
    mortar = np.maximum(np.cos(2 * np.pi * y / 1.5), np.cos(2 * np.pi * (x + 1.5 * (row % 2)) / 3) - 0.15)
    return _step(mortar - 0.6)


def scales(x: Float32[ndarray, "h w"], y: Float32[ndarray, "h w"]) -> Float32[ndarray, "h w"]:
    """Blend in overlapping arcs, as on a fish."""
    column = np.floor(x / 1.6)
    inside_x = x / 1.6 - column - 0.5
    inside_y = (y / 1.8 + 0.5 * (column % 2)) % 1 - 0.5
    return np.clip(1.5 * (inside_x + 2 * inside_y**2) + 0.4, 0, 1)


def zigzag(x: Float32[ndarray, "h w"], y: Float32[ndarray, "h w"]) -> Float32[ndarray, "h w"]:
    """Blend in horizontal zigzag bands."""
    return _step(np.sin(1.7 * (y + 0.8 * np.abs(x % 2.4 - 1.2))))


def leaves(x: Float32[ndarray, "h w"], y: Float32[ndarray, "h w"]) -> Float32[ndarray, "h w"]:
    """Blend in irregular specks."""
    waves = np.sin(2.1 * x + 1.7 * np.sin(1.3 * y)) + np.sin(2.6 * y + 1.9 * np.sin(1.1 * x + 2))
    return _step(waves - 0.4)


def glow(x: Float32[ndarray, "h w"], y: Float32[ndarray, "h w"]) -> Float32[ndarray, "h w"]:
    """Blend in a bright centre that fades outwards."""
    return np.exp(-(x**2 + y**2) / 40)


def _step(values: ndarray) -> ndarray:
    """Return a smooth step at 0, about a pixel wide."""
    return np.clip(0.5 + 1.6 * values, 0, 1)


APPEARANCES = {
    "ball": Appearance(body=(ellipse(0, 0, 1, 1),), texture=stripes),
    "cross": Appearance(body=(rectangle(-0.36, -1, 0.36, 1), rectangle(-1, -0.36, 1, 0.36)), texture=checks),
    "fish": Appearance(
        body=(ellipse(-0.22, 0, 0.78, 0.5),),
        texture=scales,
        accents=(
            ((0.42, 0), (1, -0.55), (0.86, 0), (1, 0.55)),
            ((-0.35, -0.42), (0.2, -0.78), (0.25, -0.38)),
            ellipse(-0.66, -0.1, 0.09, 0.09),
        ),
    ),
    "house": Appearance(
        body=(rectangle(-0.72, -0.15, 0.72, 1),),
        texture=bricks,
        accents=(
            ((-1, -0.12), (0, -1), (1, -0.12)),
            rectangle(-0.18, 0.42, 0.2, 1),
            rectangle(-0.56, 0.05, -0.26, 0.35),
            rectangle(0.28, 0.05, 0.58, 0.35),
        ),
    ),
    "mug": Appearance(
        body=(rectangle(-0.85, -0.8, 0.45, 0.9),),
        texture=zigzag,
        accents=(right_of(0.42, ellipse(0.42, 0.05, 0.58, 0.55)), rectangle(-0.9, -0.95, 0.5, -0.75)),
        holes=(right_of(0.46, ellipse(0.42, 0.05, 0.34, 0.31)),),
    ),
    "ring": Appearance(body=(ellipse(0, 0, 1, 1),), texture=dots, holes=(ellipse(0, 0, 0.5, 0.5),)),
    "star": Appearance(body=(star(5, 0.45),), texture=glow),
    "tree": Appearance(
        body=(
            ((-0.5, -0.35), (0, -1), (0.5, -0.35)),
            ((-0.66, 0.15), (0, -0.65), (0.66, 0.15)),
            ((-0.82, 0.62), (0, -0.2), (0.82, 0.62)),
        ),
        texture=leaves,
        accents=(rectangle(-0.14, 0.6, 0.14, 1),),
    ),
}
