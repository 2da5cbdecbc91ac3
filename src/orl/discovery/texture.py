"""Texture features of selective search: gradients in eight directions, each quantised to ten bins.

Gradients along x, y and the two diagonals are each split into a rising and a falling part. The diagonal gradients come
from a copy of the image that is rotated by 45 degrees, differentiated and rotated back.
"""

import math
from typing import no_type_check

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray

from orl.compiled import compiled

NUM_TEXTURE_BINS = 10
NUM_CODES = 2 * NUM_TEXTURE_BINS
"""Codes 0 to 9 are gradients that do not rise, codes 10 to 19 gradients that rise."""
NUM_GRADIENTS = 12
"""Gradients 0 to 5 are along x and y, two for each channel; gradients 6 to 11 are along the diagonals."""


class Turns:
    """Index maps that rotate images of one size by 45 degrees and back, with buffers for one channel.

    Computed once per image, because all channels and colour spaces are rotated alike.
    """

    def __init__(self, width: int, height: int) -> None:
        """Compute the maps.

        Args:
            width: width of the images in pixels.
            height: height of the images in pixels.
        """
        (turned_width, turned_height), turn, turn_back = _turns(width, height)
        self.spans, self.there = _forward_map(turned_width, turned_height, turn, width, height)
        self.back = _backward_map(width, height, turn_back, turned_width, turned_height)
        # Each buffer has a frame of one pixel; pixels that are never written stay 0.
        self.padded = np.zeros((height + 2, width + 2), np.uint8)
        self.turned = np.zeros((turned_height + 2, turned_width + 2), np.uint8)
        self.turned_gradients = np.zeros((turned_height + 2, turned_width + 2, 2), np.float32)
        self.gradients = np.empty((2, height, width), np.float32)


def texture_codes(
    image: UInt8[ndarray, "h w 3"], turns: Turns | None = None
) -> tuple[UInt8[ndarray, "12 h w"], Int64[ndarray, "12 2"]]:
    """Quantise every gradient of every pixel.

    Args:
        image: three channels of any colour space.
        turns: maps of another image of this size, to reuse.

    Returns:
        Codes of the gradients, see `NUM_CODES`: the bin of the falling part, or 10 plus the bin of the rising part.
        The second array has the bins of a gradient of 0, first for the falling part, then for the rising part.
    """
    height, width, _ = image.shape
    turns = turns or Turns(width, height)
    codes = np.empty((NUM_GRADIENTS, height, width), np.uint8)
    zeros = np.empty((NUM_GRADIENTS, 2), np.int64)
    for channel in range(3):
        along_axes, along_diagonals = slice(2 * channel, 2 * channel + 2), slice(6 + 2 * channel, 8 + 2 * channel)
        _pad(image, channel, turns.padded)
        _turn(turns.padded, turns.spans, turns.there, turns.turned)
        _turned_gradients(turns.turned, turns.spans, turns.turned_gradients)
        _turn_back(turns.turned_gradients, turns.back, turns.gradients)
        _code(turns.gradients, codes[along_diagonals], zeros[along_diagonals])
        _mirror_frame(turns.padded)
        _straight_gradients(turns.padded, turns.gradients)
        _code(turns.gradients, codes[along_axes], zeros[along_axes])
    return codes, zeros


def _turns(width: int, height: int) -> tuple[tuple[int, int], ndarray, ndarray]:
    """Return the size of the rotated image, and the affine maps (2x3) from it to the image and back."""
    centre_x, centre_y = np.float32(width / 2), np.float32(height / 2)
    half = np.float32(math.sin(math.pi / 4)) * np.float32(0.5)
    # Single precision, as in OpenCV's RotatedRect.boundingRect: it decides about one pixel of the size.
    corners = [centre_x - half * np.float32(height) - half * np.float32(width)]
    corners.append(centre_x + half * np.float32(height) - half * np.float32(width))
    corners += [2 * centre_x - corner for corner in corners]
    rows = [centre_y + half * np.float32(height) - half * np.float32(width)]
    rows.append(centre_y - half * np.float32(height) - half * np.float32(width))
    rows += [2 * centre_y - row for row in rows]
    turned_width = math.ceil(max(corners)) - math.floor(min(corners)) + 1
    turned_height = math.ceil(max(rows)) - math.floor(min(rows)) + 1
    forward = _rotation(float(centre_x), float(centre_y), 45)
    forward[:, 2] += [turned_width / 2 - float(centre_x), turned_height / 2 - float(centre_y)]
    back = _inverse(_rotation(turned_width // 2, turned_height // 2, -45))
    # OpenCV crops a long image from the edge of the rotated image, not from outside of it.
    left, top = max(0, (turned_width - width) // 2), max(0, (turned_height - height) // 2)
    return (turned_width, turned_height), _inverse(forward).astype(np.float32), _shifted(back, left, top)


def _rotation(centre_x: float, centre_y: float, degrees: float) -> ndarray:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array(
        [
            [cosine, sine, (1 - cosine) * centre_x - sine * centre_y],
            [-sine, cosine, sine * centre_x + (1 - cosine) * centre_y],
        ]
    )


def _inverse(affine: ndarray) -> ndarray:
    linear = np.array([[affine[1, 1], -affine[0, 1]], [-affine[1, 0], affine[0, 0]]])
    linear *= 1 / (affine[0, 0] * affine[1, 1] - affine[0, 1] * affine[1, 0])
    return np.column_stack([linear, -linear @ affine[:, 2]])


def _shifted(affine: ndarray, left: int, top: int) -> ndarray:
    """Return the map in single precision, followed by the corner of the cropped part."""
    return np.concatenate([affine.astype(np.float32).ravel(), [left, top]]).astype(np.float32)


# 'contract' lets the compiler fuse a product and a sum, as OpenCV's interpolation does.
@compiled(fastmath={"contract"})
@no_type_check
def _forward_map(width, height, source, columns, rows):
    """Find the columns of each row of the rotated image that show the image, and their source pixels.

    Returns:
        Spans int64 (h, 2), first column and last + 1; int32 index of the upper left of four source pixels in the padded
        image, and float32 weights of the right and the lower pixels, span after span.
    """
    spans = np.zeros((height, 2), np.int64)
    origins = np.empty(width * height, np.int32)
    fractions = np.empty((width * height, 2), np.float32)
    count = 0
    for y in range(height):
        start_x = np.float32(y) * source[0, 1] + source[0, 2]
        start_y = np.float32(y) * source[1, 1] + source[1, 2]
        low, high = 0.0, np.float64(width)
        for axis, size in ((0, columns), (1, rows)):
            start = start_x if axis == 0 else start_y
            one, other = (-1 - start) / source[axis, 0], (size - start) / source[axis, 0]
            low, high = max(low, min(one, other)), min(high, max(one, other))
        first = count
        for x in range(max(np.int64(low) - 2, 0), min(np.int64(high) + 2, width)):
            at_x = np.float32(x) * source[0, 0] + start_x
            at_y = np.float32(x) * source[1, 0] + start_y
            if at_x > -1 and at_y > -1 and at_x < columns and at_y < rows:
                left, top = np.floor(at_x), np.floor(at_y)
                origins[count] = (np.int32(top) + 1) * (columns + 2) + np.int32(left) + 1
                fractions[count, 0], fractions[count, 1] = at_x - left, at_y - top
                if count == first:
                    spans[y, 0] = x
                spans[y, 1] = x + 1
                count += 1
    return spans, (origins[:count].copy(), fractions[:count].copy())


@compiled(fastmath={"contract"})
@no_type_check
def _backward_map(width, height, source, columns, rows):
    """Find the source of each pixel in the framed rotated image, in the format of `_places_there`."""
    origins = np.zeros(height * width, np.int32)
    fractions = np.zeros((height * width, 2), np.float32)
    for y in range(height):
        row = np.float32(y) + source[7]
        start_x, start_y = row * source[1] + source[2], row * source[4] + source[5]
        for x in range(width):
            column = np.float32(x) + source[6]
            at_x, at_y = column * source[0] + start_x, column * source[3] + start_y
            # The ends of a very long image lie outside; they stay at index 0, which is empty.
            if at_x > -1 and at_y > -1 and at_x < columns and at_y < rows:
                left, top = np.floor(at_x), np.floor(at_y)
                origins[y * width + x] = (np.int32(top) + 1) * (columns + 2) + np.int32(left) + 1
                fractions[y * width + x, 0], fractions[y * width + x, 1] = at_x - left, at_y - top
    return origins, fractions


@compiled()
@no_type_check
def _pad(image, channel, padded):
    """Copy one channel of the image into a frame of zeros."""
    height, width, _ = image.shape
    padded[0], padded[height + 1] = 0, 0
    for y in range(height):
        padded[y + 1, 0], padded[y + 1, width + 1] = 0, 0
        for x in range(width):
            padded[y + 1, x + 1] = image[y, x, channel]


@compiled()
@no_type_check
def _mirror_frame(framed):
    height, width = framed.shape[0] - 2, framed.shape[1] - 2
    framed[0] = framed[min(2, height)]
    framed[height + 1] = framed[max(height - 1, 1)]
    framed[:, 0] = framed[:, min(2, width)]
    framed[:, width + 1] = framed[:, max(width - 1, 1)]


@compiled(fastmath={"contract"})
@no_type_check
def _turn(padded, spans, there, turned):
    values, stride = padded.reshape(-1), np.uint64(padded.shape[1])
    origins, fractions = there
    one, at = np.uint64(1), np.uint64(0)
    for y in range(len(spans)):
        row = turned[y + 1]
        for x in range(np.uint64(spans[y, 0] + 1), np.uint64(spans[y, 1] + 1)):
            origin, weight_x, weight_y = np.uint64(origins[at]), fractions[at, 0], fractions[at, 1]
            a, b = np.float32(values[origin]), np.float32(values[origin + one])
            c, d = np.float32(values[origin + stride]), np.float32(values[origin + stride + one])
            upper, lower = weight_x * (b - a) + a, weight_x * (d - c) + c
            row[x] = np.uint8(np.rint(weight_y * (lower - upper) + upper))
            at += one
    _mirror_frame(turned)


@compiled()
@no_type_check
def _scharr(above, here, below, x):
    """Compute the gradients along x and y at the column right of x."""
    left, right = np.int32(above[x]), np.int32(above[x + np.uint64(2)])
    low_left, low_right = np.int32(below[x]), np.int32(below[x + np.uint64(2)])
    falling, rising = low_right - left, right - low_left
    along_x = 3 * (falling + rising) + 10 * (np.int32(here[x + np.uint64(2)]) - np.int32(here[x]))
    along_y = 3 * (falling - rising) + 10 * (np.int32(below[x + np.uint64(1)]) - np.int32(above[x + np.uint64(1)]))
    return along_x, along_y


@compiled()
@no_type_check
def _turned_gradients(turned, spans, gradients):
    """Compute the gradients along x and y of the framed rotated channel where they are not 0."""
    width = turned.shape[1] - 2
    for y in range(len(spans)):
        first, last = spans[y, 0], spans[y, 1]
        for near in (max(y - 1, 0), min(y + 1, len(spans) - 1)):
            if spans[near, 1] > spans[near, 0]:
                empty = first == last
                first = spans[near, 0] if empty else min(first, spans[near, 0])
                last = spans[near, 1] if empty else max(last, spans[near, 1])
        above, here, below, row = turned[y], turned[y + 1], turned[y + 2], gradients[y + 1]
        for x in range(np.uint64(max(first - 1, 0)), np.uint64(min(last + 1, width))):
            along_x, along_y = _scharr(above, here, below, x)
            row[x + np.uint64(1), 0], row[x + np.uint64(1), 1] = along_x, along_y


@compiled()
@no_type_check
def _straight_gradients(framed, gradients):
    for y in range(framed.shape[0] - 2):
        above, here, below = framed[y], framed[y + 1], framed[y + 2]
        row_x, row_y = gradients[0, y], gradients[1, y]
        for x in range(np.uint64(len(row_x))):
            along_x, along_y = _scharr(above, here, below, x)
            row_x[x], row_y[x] = along_x, along_y


@compiled(fastmath={"contract"})
@no_type_check
def _turn_back(turned_gradients, back, gradients):
    values, stride = turned_gradients.reshape(-1), np.uint64(2 * turned_gradients.shape[1])
    origins, fractions = back
    two = np.uint64(2)
    for axis in range(2):
        out = gradients[axis].reshape(-1)
        for pixel in range(np.uint64(len(out))):
            origin = two * np.uint64(origins[pixel]) + np.uint64(axis)
            weight_x, weight_y = fractions[pixel, 0], fractions[pixel, 1]
            a, b = values[origin], values[origin + two]
            c, d = values[origin + stride], values[origin + stride + two]
            upper, lower = weight_x * (b - a) + a, weight_x * (d - c) + c
            out[pixel] = weight_y * (lower - upper) + upper


@compiled(fastmath={"contract", "nnan", "nsz"})
@no_type_check
def _code(gradients, codes, zeros):
    """Quantise the gradients of one channel along two axes."""
    scales, shifts = np.empty(2, np.float32), np.empty(2, np.float32)
    for axis in range(2):
        values, out = gradients[axis].reshape(-1), codes[axis].reshape(-1)
        lowest, highest = values[0], values[0]
        for value in values:
            lowest = value if value < lowest else lowest
            highest = value if value > highest else highest
        # Each part is scaled to 0 ... 255. Part 0 does not rise, part 1 does.
        for part in range(2):
            low = max(lowest, np.float32(0)) if part else min(lowest, np.float32(0))
            high = max(highest, np.float32(0)) if part else min(highest, np.float32(0))
            span = np.float64(high) - np.float64(low)
            scales[part] = 255 / span if span > 0 else 0
            shifts[part] = -255 * np.float64(low) / span if span > 0 else 0
            zeros[axis, part] = (np.int32(min(max(np.rint(shifts[part]), 0), 255)) * NUM_TEXTURE_BINS) >> 8
        falling, falling_shift, rising, rising_shift = scales[0], shifts[0], scales[1], shifts[1]
        for pixel in range(len(values)):
            value = values[pixel]
            scale = rising if value > 0 else falling
            shift = rising_shift if value > 0 else falling_shift
            # A level of 0 to 255 over 25.6, rounded down.
            step = (np.int32(np.rint(value * scale + shift)) * NUM_TEXTURE_BINS) >> 8
            out[pixel] = step + NUM_TEXTURE_BINS if value > 0 else step
