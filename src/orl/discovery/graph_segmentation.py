"""Graph segmentation of one image by Felzenszwalb and Huttenlocher, at several scales at once."""

from typing import no_type_check

import numpy as np
from jaxtyping import Int32, UInt8
from numpy import ndarray

from orl.compiled import compiled

SIGMA = float(np.float32(0.8))
"""Sigma of the blur in pixels; in single precision as in OpenCV, which decides the last bit of the kernel."""
SMALLEST_REGION = 100
"""Size in pixels below which a region is merged into a neighbour."""
RADIX_BITS = 11
BLOCK = 256
"""Edges processed together."""


def segment_image(image: UInt8[ndarray, "h w 3"], scales: tuple[float, ...]) -> Int32[ndarray, "s h w"]:
    """Segment an image: join pixels along edges of rising weight while regions stay homogeneous.

    Args:
        image: three channels of any colour space.
        scales: k of each segmentation, in rising order; a larger k gives larger regions.

    Returns:
        Region of every pixel for each scale, numbered from 0 in the order of their first pixels.

    Source:
        Felzenszwalb and Huttenlocher, IJCV 2004, on the 4 neighbours of each pixel, as in OpenCV.
    """
    if list(scales) != sorted(scales):
        raise ValueError(f"scales must be in rising order, got {scales}: smaller scales are reused for larger ones")
    labels = np.empty((len(scales), *image.shape[:2]), np.int32)
    _segment(_radix_sort(_edge_keys(smooth_image(image))), np.array(scales, np.float32), labels)
    return labels


def smooth_image(image: UInt8[ndarray, "h w 3"]) -> ndarray:
    """Smooth an image by a Gaussian of `SIGMA` pixels with mirrored borders; float32 (h, w, 3)."""
    offsets = np.arange(-3, 4)
    kernel = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    return _blur(image, (kernel / kernel.sum()).astype(np.float32))


@compiled()
@no_type_check
def _mirrored(position, size):
    if size == 1:
        return 0
    while position < 0 or position >= size:
        position = -position if position < 0 else 2 * (size - 1) - position
    return position


# 'contract' lets the compiler fuse a product and a sum, as OpenCV's filters do.
@compiled(fastmath={"contract"})
@no_type_check
def _blur(image, kernel):
    height, width, _ = image.shape
    rows = np.empty((height, 3 * width), np.float32)
    row = np.empty(3 * (width + 6), np.float32)
    for y in range(height):
        for x in range(-3, width + 3):
            source = _mirrored(x, width)
            for channel in range(3):
                row[3 * (x + 3) + channel] = image[y, source, channel]
        for at in range(3 * width):
            total = np.float32(0)
            for tap in range(7):
                total = row[at + 3 * tap] * kernel[tap] + total
            rows[y, at] = total
    smooth = np.empty((height, 3 * width), np.float32)
    for y in range(height):
        one, two, three = _mirrored(y - 1, height), _mirrored(y - 2, height), _mirrored(y - 3, height)
        below, second, third = _mirrored(y + 1, height), _mirrored(y + 2, height), _mirrored(y + 3, height)
        for at in range(3 * width):
            total = rows[y, at] * kernel[3] + np.float32(0)
            total = (rows[one, at] + rows[below, at]) * kernel[4] + total
            total = (rows[two, at] + rows[second, at]) * kernel[5] + total
            smooth[y, at] = (rows[three, at] + rows[third, at]) * kernel[6] + total
    return smooth.reshape(height, width, 3)


@compiled(fastmath={"contract"})
@no_type_check
def _edge_keys(smooth):
    height, width, _ = smooth.shape
    weights = np.empty((height, width, 2), np.float32)
    for y in range(height):
        for x in range(width):
            right, down = np.float32(0), np.float32(0)
            if x + 1 < width:
                for channel in range(3):
                    difference = smooth[y, x, channel] - smooth[y, x + 1, channel]
                    right = difference * difference + right
            if y + 1 < height:
                for channel in range(3):
                    difference = smooth[y, x, channel] - smooth[y + 1, x, channel]
                    down = difference * difference + down
            weights[y, x, 0] = np.sqrt(right)
            weights[y, x, 1] = np.sqrt(down)
    bits = weights.reshape(-1).view(np.uint32)
    keys = np.empty(height * (width - 1) + (height - 1) * width, np.uint64)
    at = 0
    for y in range(height):
        for x in range(width):
            pixel = 2 * (y * width + x)
            if x + 1 < width:
                keys[at] = (np.uint64(bits[pixel]) << np.uint64(32)) | np.uint64(pixel)
                at += 1
            if y + 1 < height:
                keys[at] = (np.uint64(bits[pixel + 1]) << np.uint64(32)) | np.uint64(pixel + 1)
                at += 1
    return keys


@compiled()
@no_type_check
def _radix_sort(keys):
    # Weights are not negative, so their bits sort as the weights do.
    buckets = 1 << RADIX_BITS
    counts = np.zeros((3, buckets), np.int64)
    for key in keys:
        for digit in range(3):
            counts[digit, (key >> np.uint64(32 + RADIX_BITS * digit)) & np.uint64(buckets - 1)] += 1
    other = np.empty_like(keys)
    for digit in range(3):
        shift = np.uint64(32 + RADIX_BITS * digit)
        start = 0
        for bucket in range(buckets):
            count = counts[digit, bucket]
            counts[digit, bucket] = start
            start += count
        for key in keys:
            bucket = (key >> shift) & np.uint64(buckets - 1)
            other[counts[digit, bucket]] = key
            counts[digit, bucket] += 1
        keys, other = other, keys
    return keys


@compiled()
@no_type_check
def _segment(keys, scales, labels):
    """Join the pixels at each scale; the joins before the first refused edge are shared with larger scales."""
    _, height, width = labels.shape
    num_pixels = height * width
    parents = np.arange(num_pixels).astype(np.uint32)
    sizes = np.ones(num_pixels, np.int32)
    heaviest = np.zeros(num_pixels, np.float32)
    limits = np.empty(num_pixels, np.float32)
    refused = np.empty(len(keys), np.uint32)
    shared = 0
    for index in range(len(scales)):
        scale = scales[index]
        for pixel in range(num_pixels):
            limits[pixel] = heaviest[pixel] + scale / np.float32(sizes[pixel])
        shared, _ = _join(keys, shared, width, scale, parents, sizes, limits, heaviest, refused, True)
        own_parents, own_sizes = parents.copy(), sizes.copy()
        own_limits = limits.copy()
        _, num_refused = _join(keys, shared, width, scale, own_parents, own_sizes, own_limits, heaviest, refused, False)
        _join_small(refused[:num_refused], width, own_parents, own_sizes)
        _number(own_parents, labels[index].reshape(-1))


# Indices are unsigned: a signed index is tested for being negative, which doubles the time.
@compiled(inline="always")
@no_type_check
def _root(parents, node):
    while parents[node] != node:
        node = parents[node]
    return node


@compiled(inline="always")
@no_type_check
def _find(parents, pixel):
    root = _root(parents, parents[pixel])
    parents[pixel] = root
    return root


@compiled()
@no_type_check
def _join(keys, start, width, scale, parents, sizes, limits, heaviest, refused, stop_at_refusal):
    """Join along the edges from `start` on; return the edge where joining stopped and the number of refused edges.

    Edges inside one region are removed a block at a time without a branch, which the CPU would often mispredict.
    """
    edges, weights = keys.view(np.uint32), keys.view(np.float32)
    one, two = np.uint64(1), np.uint64(2)
    steps = np.array([1, width], np.uint32)
    positions, tails, tips = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    num_refused = 0
    for block in range(start, len(keys), BLOCK):
        count = np.uint64(0)
        for slot in range(np.uint64(block), np.uint64(min(block + BLOCK, len(keys)))):
            edge = edges[two * slot]
            tail = np.uint64(edge >> np.uint32(1))
            tip = tail + np.uint64(steps[np.uint64(edge & np.uint32(1))])
            a, b = parents[parents[tail]], parents[parents[tip]]
            parents[tail] = a
            parents[tip] = b
            positions[count], tails[count], tips[count] = slot, a, b
            count += np.uint64(a != b)
        for at in range(count):
            a, b = _root(parents, tails[at]), _root(parents, tips[at])
            if a == b:
                continue
            weight = weights[two * positions[at] + one]
            if weight <= min(limits[a], limits[b]):
                size = sizes[a] + sizes[b]
                large = a if sizes[a] >= sizes[b] else b
                parents[a] = large
                parents[b] = large
                sizes[large] = size
                limits[large] = weight + scale / np.float32(size)
                if stop_at_refusal:
                    heaviest[large] = weight
            elif stop_at_refusal:
                return np.int64(positions[at]), 0
            else:
                refused[num_refused] = edges[two * positions[at]]
                num_refused += 1
    return len(keys), num_refused


@compiled()
@no_type_check
def _join_small(refused, width, parents, sizes):
    for edge in refused:
        pixel = np.uint64(edge >> np.uint32(1))
        a = _find(parents, pixel)
        b = _find(parents, pixel + np.uint64(width if edge & np.uint32(1) else 1))
        if a != b and min(sizes[a], sizes[b]) < SMALLEST_REGION:
            size = sizes[a] + sizes[b]
            large = a if sizes[a] >= sizes[b] else b
            parents[a] = large
            parents[b] = large
            sizes[large] = size


@compiled()
@no_type_check
def _number(parents, labels):
    numbers = np.full(len(parents), -1, np.int32)
    count = 0
    last, number = np.uint32(len(parents)), np.int32(0)
    for pixel in range(np.uint64(len(parents))):
        root = parents[parents[pixel]]
        if root != last:
            root = _root(parents, root)
            if numbers[root] < 0:
                numbers[root] = count
                count += 1
            last, number = root, numbers[root]
        labels[pixel] = number
