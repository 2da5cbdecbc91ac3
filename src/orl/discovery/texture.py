"""What selective search knows of texture: gradients in eight directions, each in ten steps.

A gradient map is taken along x, along y and along the two diagonals, and split into its rising and its falling part.
The diagonals come from a copy of the image that is turned by 45 degrees, differentiated and turned back.
"""

import math
from typing import no_type_check

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray

from orl.discovery.compiled import compiled

NUM_BINS = 10
NUM_CODES = 2 * NUM_BINS
"""A gradient either does not rise (0 to 9) or does (10 to 19)."""
NUM_GRADIENTS = 12
"""Along x and y (0 to 5, two of each channel) and along the diagonals (6 to 11)."""


MARGIN = 3
"""Columns that a row of the turned image reaches over the image itself: its gradients look at its neighbours."""


def texture_codes(
    image: UInt8[ndarray, "h w 3"],
) -> tuple[UInt8[ndarray, "12 h w"], Int64[ndarray, "12 2"]]:
    """The step of every gradient of every pixel.

    Args:
        image: any three channels.

    Returns:
        Codes of the gradients, see `NUM_CODES`: the bin in the falling part, or 10 plus the bin in the rising part. The
        bin in the other part is that of a gradient of 0: the second array, first for the falling part.
    """
    height, width, _ = image.shape
    turned_wh, turn, turn_back = _turns(width, height)
    gradients = np.empty((NUM_GRADIENTS, height, width), np.float32)
    _straight_gradients(_framed(image), gradients)
    turned = _turned_gradients(_turn(image, turned_wh[0], turned_wh[1], turn), turn, width, height)
    _turn_back(turned, turn_back, gradients)
    return _codes(gradients)


def _turns(width: int, height: int) -> tuple[tuple[int, int], ndarray, ndarray]:
    """Size of the turned image; where its pixels come from in the image, and the image's pixels in it (2x3)."""
    centre_x, centre_y = np.float32(width / 2), np.float32(height / 2)
    half = np.float32(math.sin(math.pi / 4)) * np.float32(0.5)
    # As OpenCV's RotatedRect.boundingRect, in single precision: it decides about a pixel more or less.
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
    # OpenCV cuts a long image out of the turned one from its edge on, and not from outside.
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
    """The map in single precision, with the corner of the part that is cut out as two more numbers."""
    return np.concatenate([affine.astype(np.float32).ravel(), [left, top]]).astype(np.float32)


@compiled()
@no_type_check
def _span(source, y, width, columns, rows):
    """First and last column + 1 of the turned image that can show the image in a row, and a little more."""
    first, last = 0.0, np.float64(width)
    for axis, size in ((0, columns), (1, rows)):
        slope = np.float64(source[axis, 0])
        start = np.float64(y) * source[axis, 1] + source[axis, 2]
        one, other = (-1 - start) / slope, (size - start) / slope
        first, last = max(first, min(one, other)), min(last, max(one, other))
    return max(np.int64(first) - MARGIN, 0), min(np.int64(last) + MARGIN, width)


# 'contract' lets the compiler fuse a product and a sum, as OpenCV's interpolation does.
@compiled(fastmath={"contract"})
@no_type_check
def _turn(image, width, height, source):
    """The turned image as planes with a frame of one pixel, mirrored."""
    rows, columns, _ = image.shape
    turned = np.zeros((3, height + 2, width + 2), np.uint8)
    for y in range(height):
        start_x = np.float32(y) * source[0, 1] + source[0, 2]
        start_y = np.float32(y) * source[1, 1] + source[1, 2]
        first, last = _span(source, y, width, columns, rows)
        for x in range(first, last):
            at_x = np.float32(x) * source[0, 0] + start_x
            at_y = np.float32(x) * source[1, 0] + start_y
            if at_x <= -1 or at_y <= -1 or at_x >= columns or at_y >= rows:
                continue
            left, top = np.int64(np.floor(at_x)), np.int64(np.floor(at_y))
            share_x, share_y = at_x - np.float32(left), at_y - np.float32(top)
            inside = left >= 0 and top >= 0 and left + 1 < columns and top + 1 < rows
            for channel in range(3):
                if inside:
                    value = _mix_inside(image, np.uint64(top), np.uint64(left), np.uint64(channel), share_x, share_y)
                else:
                    value = _mix(image, top, left, channel, share_x, share_y)
                turned[channel, y + 1, x + 1] = np.uint8(np.rint(value))
    _mirror_frame(turned)
    return turned


@compiled(fastmath={"contract"}, inline="always")
@no_type_check
def _mix_inside(image, top, left, channel, share_x, share_y):
    """A value between four pixels."""
    a, b = np.float32(image[top, left, channel]), np.float32(image[top, left + np.uint64(1), channel])
    below = top + np.uint64(1)
    c, d = np.float32(image[below, left, channel]), np.float32(image[below, left + np.uint64(1), channel])
    upper, lower = share_x * (b - a) + a, share_x * (d - c) + c
    return share_y * (lower - upper) + upper


@compiled(fastmath={"contract"})
@no_type_check
def _mix(image, top, left, channel, share_x, share_y):
    """A value between four pixels, of which those outside are 0."""
    a, b = _value(image, top, left, channel), _value(image, top, left + 1, channel)
    c, d = _value(image, top + 1, left, channel), _value(image, top + 1, left + 1, channel)
    upper, lower = share_x * (b - a) + a, share_x * (d - c) + c
    return share_y * (lower - upper) + upper


@compiled()
@no_type_check
def _value(image, y, x, channel):
    if y < 0 or x < 0 or y >= image.shape[0] or x >= image.shape[1]:
        return np.float32(0)
    return np.float32(image[y, x, channel])


@compiled()
@no_type_check
def _framed(image):
    height, width, _ = image.shape
    framed = np.empty((3, height + 2, width + 2), np.uint8)
    for channel in range(3):
        for y in range(height):
            for x in range(width):
                framed[channel, y + 1, x + 1] = image[y, x, channel]
    _mirror_frame(framed)
    return framed


@compiled()
@no_type_check
def _mirror_frame(framed):
    height, width = framed.shape[1] - 2, framed.shape[2] - 2
    framed[:, 0] = framed[:, min(2, height)]
    framed[:, height + 1] = framed[:, max(height - 1, 1)]
    framed[:, :, 0] = framed[:, :, min(2, width)]
    framed[:, :, width + 1] = framed[:, :, max(width - 1, 1)]


@compiled()
@no_type_check
def _scharr_row(above, here, below, along_x, along_y):
    for x in range(len(along_x)):
        left, right = np.int32(above[x]), np.int32(above[x + 2])
        low_left, low_right = np.int32(below[x]), np.int32(below[x + 2])
        falling, rising = low_right - left, right - low_left
        along_x[x] = 3 * (falling + rising) + 10 * (np.int32(here[x + 2]) - np.int32(here[x]))
        along_y[x] = 3 * (falling - rising) + 10 * (np.int32(below[x + 1]) - np.int32(above[x + 1]))


@compiled()
@no_type_check
def _straight_gradients(framed, gradients):
    for channel in range(3):
        plane = framed[channel]
        for y in range(plane.shape[0] - 2):
            along_x, along_y = gradients[2 * channel, y], gradients[2 * channel + 1, y]
            _scharr_row(plane[y], plane[y + 1], plane[y + 2], along_x, along_y)


@compiled()
@no_type_check
def _turned_gradients(framed, source, columns, rows):
    """The gradients of a pixel side by side, (h, w, 8): six, and two of nothing."""
    height, width = framed.shape[1] - 2, framed.shape[2] - 2
    gradients = np.zeros((height, width, 8), np.float32)
    along_x, along_y = np.empty(width, np.float32), np.empty(width, np.float32)
    for y in range(height):
        first, last = _span(source, y, width, columns, rows)
        for channel in range(3):
            above, here, below = framed[channel, y], framed[channel, y + 1], framed[channel, y + 2]
            cut = slice(first, last + 2)
            _scharr_row(above[cut], here[cut], below[cut], along_x[first:last], along_y[first:last])
            for x in range(first, last):
                gradients[y, x, 2 * channel] = along_x[x]
                gradients[y, x, 2 * channel + 1] = along_y[x]
    return gradients


@compiled(fastmath={"contract"})
@no_type_check
def _turn_back(turned, source, gradients):
    """Gradients 6 to 11 from those of the turned image."""
    _, height, width = gradients.shape
    rows, columns, _ = turned.shape
    for y in range(height):
        row = np.float32(y) + source[7]
        start_x, start_y = row * source[1] + source[2], row * source[4] + source[5]
        for x in range(width):
            column = np.float32(x) + source[6]
            at_x, at_y = column * source[0] + start_x, column * source[3] + start_y
            left, top = np.int64(np.floor(at_x)), np.int64(np.floor(at_y))
            share_x, share_y = at_x - np.float32(left), at_y - np.float32(top)
            if left >= 0 and top >= 0 and left + 1 < columns and top + 1 < rows:
                # All six are read before the first is written, so that the compiler can take them as a vector.
                a, b = np.uint64(top), np.uint64(left)
                one = _mix_inside(turned, a, b, np.uint64(0), share_x, share_y)
                two = _mix_inside(turned, a, b, np.uint64(1), share_x, share_y)
                three = _mix_inside(turned, a, b, np.uint64(2), share_x, share_y)
                four = _mix_inside(turned, a, b, np.uint64(3), share_x, share_y)
                five = _mix_inside(turned, a, b, np.uint64(4), share_x, share_y)
                six = _mix_inside(turned, a, b, np.uint64(5), share_x, share_y)
                gradients[6, y, x], gradients[7, y, x], gradients[8, y, x] = one, two, three
                gradients[9, y, x], gradients[10, y, x], gradients[11, y, x] = four, five, six
            else:
                for gradient in range(6):
                    gradients[6 + gradient, y, x] = _mix(turned, top, left, gradient, share_x, share_y)


@compiled(fastmath={"contract", "nnan", "nsz"})
@no_type_check
def _codes(gradients):
    codes = np.empty(gradients.shape, np.uint8)
    zeros = np.zeros((NUM_GRADIENTS, 2), np.int64)
    scales, shifts = np.empty(2, np.float32), np.empty(2, np.float32)
    for gradient in range(NUM_GRADIENTS):
        values, out = gradients[gradient].reshape(-1), codes[gradient].reshape(-1)
        lowest, highest = values[0], values[0]
        for value in values:
            lowest = value if value < lowest else lowest
            highest = value if value > highest else highest
        # Each part is stretched to 0 ... 255. Part 0 does not rise, part 1 does.
        for part in range(2):
            low = max(lowest, np.float32(0)) if part else min(lowest, np.float32(0))
            high = max(highest, np.float32(0)) if part else min(highest, np.float32(0))
            span = np.float64(high) - np.float64(low)
            scales[part] = 255 / span if span > 0 else 0
            shifts[part] = -255 * np.float64(low) / span if span > 0 else 0
            # Where every gradient is in this part, 0 is outside its range, and no pixel asks for it.
            zero = min(max(np.rint(shifts[part]), np.float32(0)), np.float32(255))
            zeros[gradient, part] = (np.int32(zero) * NUM_BINS) >> 8
        falling, falling_shift, rising, rising_shift = scales[0], shifts[0], scales[1], shifts[1]
        for pixel in range(len(values)):
            value = values[pixel]
            scale = rising if value > 0 else falling
            shift = rising_shift if value > 0 else falling_shift
            # A level of 0 to 255 over 25.6, rounded down.
            step = (np.int32(np.rint(value * scale + shift)) * NUM_BINS) >> 8
            out[pixel] = step + NUM_BINS if value > 0 else step
    return codes, zeros
