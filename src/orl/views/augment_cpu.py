"""Colour changes of views on a CPU, view by view in loops compiled by Numba; the same formulas as on a GPU.

The layout is `(h, 3, w)` in float32: loops run along memory, and a view of 224 px fits into the second-level cache.
Loops that change several channels of a row are separate functions: the compiler then knows that the rows do not
overlap, and vectorises the loop.
"""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from orl.compiled import compiled
from orl.views.colour import (
    BLUR_RADIUS_SIGMAS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    JITTER_ORDERS,
    LUMA,
    SOLARISE_THRESHOLD,
    ColourParameters,
)

# Python floats would make the loops run in double precision.
ZERO, ONE, TWO, THREE, FOUR, FIVE, SIX, BYTE = (np.float32(value) for value in (0, 1, 2, 3, 4, 5, 6, 255))
SIXTH, THRESHOLD = np.float32(1 / 6), np.float32(SOLARISE_THRESHOLD)
RED, GREEN, BLUE = (np.float32(weight) for weight in LUMA)
MEAN_RED, MEAN_GREEN, MEAN_BLUE = (np.float32(mean) for mean in IMAGENET_MEAN)
PER_RED, PER_GREEN, PER_BLUE = (np.float32(1 / std) for std in IMAGENET_STD)
ORDER_TABLE = np.array(JITTER_ORDERS)


def augment_on_cpu(crops: UInt8[Tensor, "n 3 h w"], parameters: ColourParameters) -> Float[Tensor, "n 3 h w"]:
    """Augment crops on the CPU in as many threads as torch may use; see `augment`.

    Args:
        crops: crops on the CPU, in any layout.
        parameters: parameters of each crop.

    Returns:
        Normalised views, float32, channels last in memory.
    """
    n, _, height, width = crops.shape
    pixels = crops.contiguous().numpy()
    columns = [np.asarray(column) for column in parameters]
    views = torch.empty((n, height, width, 3))
    output = views.numpy()

    def work(part: slice) -> None:
        flip, order, brightness, contrast, saturation, hue, gray, sigma, solarise = (one[part] for one in columns)
        factors = np.stack([brightness, contrast, saturation, hue], axis=1).astype(np.float32)
        _augment(
            pixels[part], flip, ORDER_TABLE[order], factors, gray, sigma.astype(np.float64), solarise, output[part]
        )

    num_threads = max(1, min(torch.get_num_threads(), n))
    ends = [n * thread // num_threads for thread in range(num_threads + 1)]
    parts = [slice(start, end) for start, end in itertools.pairwise(ends)]
    if num_threads == 1:
        work(parts[0])
    else:
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(work, parts))
    return views.permute(0, 3, 1, 2)


@compiled(error_model="numpy")
@no_type_check
def _augment(crops, flip, orders, factors, gray, sigma, solarise, views):
    n, _, height, width = crops.shape
    image = np.empty((height, 3, width), np.float32)
    blurred = np.empty((height, 3, width), np.float32)
    for i in range(n):
        _load(crops[i], flip[i], image)
        for operation in orders[i]:
            factor = factors[i, operation]
            if operation == 0 and factor != ONE:
                _brightness(image, factor)
            elif operation == 1 and factor != ONE:
                _contrast(image, factor)
            elif operation == 2 and factor != ONE:
                _saturation(image, factor)
            elif operation == 3 and factor != ZERO:
                _hue(image, factor)
        if gray[i]:
            _gray(image)
        if sigma[i] > 0:
            _blur(image, sigma[i], blurred)
        if solarise[i]:
            _solarise(image)
        _normalise(image, views[i])


@compiled(error_model="numpy")
@no_type_check
def _load(crop, flip, image):
    _, height, width = crop.shape
    # An unsigned index is not tested for being negative, so the loop is vectorised.
    last = np.uint64(width - 1)
    for channel in range(3):
        for y in range(height):
            if flip:
                for x in range(np.uint64(width)):
                    image[y, channel, x] = crop[channel, y, last - x] / BYTE
            else:
                for x in range(width):
                    image[y, channel, x] = crop[channel, y, x] / BYTE


@compiled(error_model="numpy")
@no_type_check
def _brightness(image, factor):
    values = image.reshape(-1)
    for i in range(values.size):
        values[i] = min(max(factor * values[i], ZERO), ONE)


@compiled(error_model="numpy")
@no_type_check
def _contrast(image, factor):
    height, _, width = image.shape
    # One sum per column: additions to a single sum would depend on each other.
    sums = np.zeros(width, np.float32)
    for y in range(height):
        red, green, blue = image[y, 0], image[y, 1], image[y, 2]
        for x in range(width):
            sums[x] += RED * red[x] + GREEN * green[x] + BLUE * blue[x]
    total = 0.0
    for x in range(width):
        total += sums[x]
    other = (ONE - factor) * np.float32(total / (height * width))
    values = image.reshape(-1)
    for i in range(values.size):
        values[i] = min(max(factor * values[i] + other, ZERO), ONE)


@compiled(error_model="numpy")
@no_type_check
def _saturation(image, factor):
    for y in range(len(image)):
        _saturation_of_row(image[y, 0], image[y, 1], image[y, 2], factor)


@compiled(error_model="numpy")
@no_type_check
def _saturation_of_row(red, green, blue, factor):
    rest = ONE - factor
    for x in range(red.size):
        other = rest * (RED * red[x] + GREEN * green[x] + BLUE * blue[x])
        red[x] = min(max(factor * red[x] + other, ZERO), ONE)
        green[x] = min(max(factor * green[x] + other, ZERO), ONE)
        blue[x] = min(max(factor * blue[x] + other, ZERO), ONE)


@compiled(error_model="numpy")
@no_type_check
def _hue(image, shift):
    for y in range(len(image)):
        _hue_of_row(image[y, 0], image[y, 1], image[y, 2], SIX * shift)


@compiled(error_model="numpy")
@no_type_check
def _hue_of_row(red, green, blue, turn):
    for x in range(red.size):
        r, g, b = red[x], green[x], blue[x]
        value = max(r, max(g, b))
        chroma = value - min(r, min(g, b))
        fraction = ONE / (chroma if chroma > ZERO else ONE)
        if value == r:
            sector = turn + (g - b) * fraction
        elif value == g:
            sector = turn + TWO + (b - r) * fraction
        else:
            sector = turn + FOUR + (r - g) * fraction
        red[x] = _channel(value, chroma, sector + FIVE)
        green[x] = _channel(value, chroma, sector + THREE)
        blue[x] = _channel(value, chroma, sector + ONE)


@compiled(inline="always", error_model="numpy")
@no_type_check
def _channel(value, chroma, position):
    position -= SIX * np.floor(position * SIXTH)
    return value - chroma * min(max(min(position, FOUR - position), ZERO), ONE)


@compiled(error_model="numpy")
@no_type_check
def _gray(image):
    for y in range(len(image)):
        _gray_of_row(image[y, 0], image[y, 1], image[y, 2])


@compiled(error_model="numpy")
@no_type_check
def _gray_of_row(red, green, blue):
    for x in range(red.size):
        luma = RED * red[x] + GREEN * green[x] + BLUE * blue[x]
        red[x] = luma
        green[x] = luma
        blue[x] = luma


@compiled(error_model="numpy")
@no_type_check
def _blur(image, sigma, blurred):
    height, _, width = image.shape
    radius = min(math.ceil(BLUR_RADIUS_SIGMAS * sigma), height - 1, width - 1)
    kernel = _half_kernel(sigma, radius)
    # The three rows, each with mirrored ends, are concatenated and blurred as one.
    padded = width + 2 * radius
    wide, sums = np.empty(3 * padded, np.float32), np.empty(3 * padded - 2 * radius, np.float32)
    for y in range(height):
        for channel in range(3):
            _mirror(image[y, channel], radius, wide[channel * padded : (channel + 1) * padded])
        _scale(wide[radius : radius + sums.size], kernel[0], sums)
        for i in range(1, radius + 1):
            left, right = radius - i, radius + i
            _add_both(wide[left : left + sums.size], wide[right : right + sums.size], kernel[i], sums)
        for channel in range(3):
            _scale(sums[channel * padded : channel * padded + width], ONE, blurred[y, channel])
    rows, into = blurred.reshape(height, -1), image.reshape(height, -1)
    for y in range(height):
        _scale(rows[y], kernel[0], into[y])
        for i in range(1, radius + 1):
            below = y + i if y + i < height else 2 * (height - 1) - (y + i)
            _add_both(rows[abs(y - i)], rows[below], kernel[i], into[y])


@compiled(error_model="numpy")
@no_type_check
def _half_kernel(sigma, radius):
    """Compute the centre and the right half of the kernel."""
    kernel = np.empty(radius + 1)
    for i in range(radius + 1):
        kernel[i] = math.exp(-0.5 * (i / sigma) ** 2)
    return (kernel / (2 * kernel.sum() - kernel[0])).astype(np.float32)


@compiled(error_model="numpy")
@no_type_check
def _mirror(row, radius, out):
    """Copy a row and add its mirrored ends, which do not repeat the last value."""
    for x in range(row.size):
        out[radius + x] = row[x]
    for i in range(1, radius + 1):
        out[radius - i] = row[i]
        out[radius + row.size - 1 + i] = row[row.size - 1 - i]


@compiled(error_model="numpy")
@no_type_check
def _scale(values, weight, out):
    for i in range(out.size):
        out[i] = weight * values[i]


@compiled(error_model="numpy")
@no_type_check
def _add_both(left, right, weight, out):
    for i in range(out.size):
        out[i] += weight * (left[i] + right[i])


@compiled(error_model="numpy")
@no_type_check
def _solarise(image):
    values = image.reshape(-1)
    for i in range(values.size):
        values[i] = ONE - values[i] if values[i] >= THRESHOLD else values[i]


@compiled(error_model="numpy")
@no_type_check
def _normalise(image, view):
    for y in range(len(image)):
        _normalise_row(image[y, 0], image[y, 1], image[y, 2], view[y])


@compiled(error_model="numpy")
@no_type_check
def _normalise_row(red, green, blue, view):
    for x in range(red.size):
        view[x, 0] = (red[x] - MEAN_RED) * PER_RED
        view[x, 1] = (green[x] - MEAN_GREEN) * PER_GREEN
        view[x, 2] = (blue[x] - MEAN_BLUE) * PER_BLUE
