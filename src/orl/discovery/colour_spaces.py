"""Conversion of 8-bit RGB images to HSV and Lab, bit for bit equal to OpenCV's `cvtColor`."""

from typing import no_type_check

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from orl.compiled import compiled

HSV_BITS, LAB_BITS, GAMMA_BITS = 12, 12, 3
"""Fractional bits of the fixed-point arithmetic."""
CUBE_ROOT_BITS = LAB_BITS + GAMMA_BITS


def to_hsv(image: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "h w 3"]:
    """Convert an RGB image to hue in [0, 180), saturation and value in [0, 255]."""
    return _to_hsv(image, *_DIVISIONS)


def to_lab(image: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "h w 3"]:
    """Convert an RGB image (sRGB, D65) to lightness, a and b, each scaled to [0, 255]."""
    return _to_lab(image, _GAMMA, _CUBE_ROOTS, _XYZ)


def _divisions() -> tuple[ndarray, ndarray]:
    divisors = np.arange(1, 256)
    by_value, by_chroma = np.zeros((2, 256), dtype=np.int32)
    by_value[1:] = np.rint((255 << HSV_BITS) / divisors)
    by_chroma[1:] = np.rint((180 << HSV_BITS) / (6.0 * divisors))
    return by_value, by_chroma


def _gamma() -> ndarray:
    level = np.arange(256) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return np.rint((255 << GAMMA_BITS) * linear).astype(np.int32)


def _cube_roots() -> ndarray:
    light = np.arange(256 * 3 // 2 << GAMMA_BITS) / (255 << GAMMA_BITS)
    root = np.where(light < 216 / 24389, light * 841 / 108 + 16 / 116, np.cbrt(light))
    table = np.rint((1 << CUBE_ROOT_BITS) * root).astype(np.int32)
    # Both values lie within 2e-4 of a half, and OpenCV's single precision rounds them the other way.
    table[49], table[628] = 9454, 22126
    return table


def _xyz() -> ndarray:
    srgb_to_xyz = np.array(
        [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    )
    white = np.array([0.950456, 1.0, 1.088754])
    return np.rint((1 << LAB_BITS) * srgb_to_xyz / white[:, None]).astype(np.int32)


_DIVISIONS, _GAMMA, _CUBE_ROOTS, _XYZ = _divisions(), _gamma(), _cube_roots(), _xyz()


@compiled()
@no_type_check
def _to_hsv(image, by_value, by_chroma):
    height, width, _ = image.shape
    hsv = np.empty((height, width, 3), np.uint8)
    half = 1 << (HSV_BITS - 1)
    for y in range(height):
        for x in range(width):
            red, green, blue = np.int32(image[y, x, 0]), np.int32(image[y, x, 1]), np.int32(image[y, x, 2])
            value = max(red, green, blue)
            chroma = value - min(red, green, blue)
            if value == red:
                sector = green - blue
            elif value == green:
                sector = blue - red + 2 * chroma
            else:
                sector = red - green + 4 * chroma
            hue = (sector * by_chroma[chroma] + half) >> HSV_BITS
            hsv[y, x, 0] = hue + 180 if hue < 0 else hue
            hsv[y, x, 1] = (chroma * by_value[value] + half) >> HSV_BITS
            hsv[y, x, 2] = value
    return hsv


@compiled()
@no_type_check
def _to_lab(image, gamma, cube_roots, xyz):
    height, width, _ = image.shape
    lab = np.empty((height, width, 3), np.uint8)
    half, half_root = np.int32(1 << (LAB_BITS - 1)), np.int32(1 << (CUBE_ROOT_BITS - 1))
    middle = np.int32(128 << CUBE_ROOT_BITS)
    scale = np.int32((116 * 255 + 50) // 100)
    shift = np.int32(-((16 * 255 * (1 << CUBE_ROOT_BITS) + 50) // 100))
    for y in range(height):
        for x in range(width):
            red, green, blue = gamma[image[y, x, 0]], gamma[image[y, x, 1]], gamma[image[y, x, 2]]
            root_x = cube_roots[(red * xyz[0, 0] + green * xyz[0, 1] + blue * xyz[0, 2] + half) >> LAB_BITS]
            root_y = cube_roots[(red * xyz[1, 0] + green * xyz[1, 1] + blue * xyz[1, 2] + half) >> LAB_BITS]
            root_z = cube_roots[(red * xyz[2, 0] + green * xyz[2, 1] + blue * xyz[2, 2] + half) >> LAB_BITS]
            lightness = (scale * root_y + shift + half_root) >> CUBE_ROOT_BITS
            a = (500 * (root_x - root_y) + middle + half_root) >> CUBE_ROOT_BITS
            b = (200 * (root_y - root_z) + middle + half_root) >> CUBE_ROOT_BITS
            lab[y, x, 0] = min(max(lightness, 0), 255)
            lab[y, x, 1] = min(max(a, 0), 255)
            lab[y, x, 2] = min(max(b, 0), 255)
    return lab
