"""Hierarchical grouping: the most similar regions are merged until one is left; each region is a proposal."""

from typing import no_type_check

import numpy as np
from numpy import ndarray

from orl.compiled import compiled
from orl.discovery.texture import NUM_CODES, NUM_GRADIENTS, NUM_TEXTURE_BINS

COLOUR_BINS = 25
NUM_COLOUR_COUNTERS = 3 * COLOUR_BINS
NUM_TEXTURE_COUNTERS = 2 * NUM_GRADIENTS * NUM_TEXTURE_BINS
COUNTS = NUM_COLOUR_COUNTERS + NUM_GRADIENTS * NUM_CODES
"""Number of counters of a region while its pixels are counted."""
EMPTY = -1


def group_regions(image: ndarray, codes: ndarray, zeros: ndarray, labels: ndarray) -> tuple[ndarray, ndarray]:
    """Merge the regions of every segmentation, and return the boxes and levels of all regions.

    Each segmentation is merged twice: once by the similarity of colour, texture, size and fill, once without colour.

    Args:
        image: uint8 (h, w, 3).
        codes: from `texture_codes`.
        zeros: from `texture_codes`.
        labels: from `segment_image`, int32 (s, h, w).

    Returns:
        int32 (n, 4) boxes as left, top, right, bottom (exclusive), and int32 (n,) levels. A region of the segmentation
        has level 1, a merged region one more than the higher level of its two parts.

    Source:
        Uijlings et al., IJCV 2013, Section 4, as implemented in OpenCV.
    """
    atoms, firsts = _atoms(_joint_regions(labels), labels.shape[2])
    parts = np.take(labels.reshape(len(labels), -1), firsts, axis=1)
    counts = _count(image, codes, atoms, len(firsts))
    boxes, levels = [], []
    for index in range(len(labels)):
        num_regions = int(parts[index].max()) + 1
        sizes, region_boxes = _geometry(labels[index], num_regions)
        colours, textures = _histograms(counts, parts[index], sizes, zeros)
        pairs = _neighbours(labels[index], num_regions)
        for with_colour in (True, False):
            found = _merge(
                pairs, sizes.copy(), region_boxes, colours.copy(), textures.copy(), labels[index].size, with_colour
            )
            boxes.append(found[0])
            levels.append(found[1])
    return np.concatenate(boxes), np.concatenate(levels)


@compiled()
@no_type_check
def _joint_regions(labels):
    """Number the combinations of regions to which pixels belong, int64."""
    flat = labels.reshape(len(labels), -1)
    joint, stride = np.zeros(flat.shape[1], np.int64), np.int64(1)
    for scale in range(len(flat)):
        row, highest = flat[scale], np.int32(0)
        for pixel in range(len(row)):
            joint[pixel] += stride * row[pixel]
            highest = max(highest, row[pixel])
        stride *= highest + 1
    return joint


@compiled()
@no_type_check
def _atoms(joint, width):
    """Return the atom of each pixel, and one pixel of each atom.

    An atom is a piece without a border of any segmentation. Pixels are counted once per atom, not per segmentation.
    """
    atoms, firsts = np.empty(len(joint), np.int32), np.empty(len(joint), np.int32)
    keys, values = np.full(1024, np.int64(EMPTY)), np.empty(1024, np.int32)
    count, last_key, last_atom = 0, np.int64(EMPTY), np.int32(0)
    row = np.uint64(width)
    for pixel in range(np.uint64(len(joint))):
        key = joint[pixel]
        if key != last_key:
            if pixel >= row and key == joint[pixel - row]:
                last_atom = atoms[pixel - row]
            else:
                if 2 * count >= len(keys):
                    keys, values = _grown(keys, values)
                slot = _slot(keys, key)
                if keys[slot] == EMPTY:
                    keys[slot] = key
                    values[slot] = count
                    firsts[count] = pixel
                    count += 1
                last_atom = values[slot]
            last_key = key
        atoms[pixel] = last_atom
    return atoms, firsts[:count].copy()


@compiled()
@no_type_check
def _slot(keys, key):
    """Return the slot of a key in a hash table whose size is a power of two."""
    mask = np.uint64(len(keys) - 1)
    slot = ((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)) & mask
    while keys[slot] != EMPTY and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@compiled()
@no_type_check
def _grown(keys, values):
    new_keys, new_values = np.full(2 * len(keys), np.int64(EMPTY)), np.empty(2 * len(keys), values.dtype)
    for old in range(len(keys)):
        if keys[old] != EMPTY:
            slot = _slot(new_keys, keys[old])
            new_keys[slot] = keys[old]
            new_values[slot] = values[old]
    return new_keys, new_values


@compiled()
@no_type_check
def _count(image, codes, atoms, num_atoms):
    counts = np.zeros((num_atoms, COUNTS), np.int32)
    pixels, textures = image.reshape(-1, 3), codes.reshape(NUM_GRADIENTS, -1)
    for pixel in range(len(atoms)):
        row = counts[np.uint64(atoms[pixel])]
        for channel in range(3):
            row[np.uint64(COLOUR_BINS * channel + ((np.uint32(pixels[pixel, channel]) * COLOUR_BINS) >> 8))] += 1
        for gradient in range(NUM_GRADIENTS):
            row[np.uint64(NUM_COLOUR_COUNTERS + NUM_CODES * gradient + textures[gradient, pixel])] += 1
    return counts


@compiled()
@no_type_check
def _geometry(labels, num_regions):
    height, width = labels.shape
    sizes = np.zeros(num_regions, np.int32)
    boxes = np.empty((num_regions, 4), np.int32)
    boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3] = width, height, 0, 0
    for y in range(height):
        x = 0
        while x < width:
            region, start = labels[y, x], x
            while x < width and labels[y, x] == region:
                x += 1
            sizes[region] += x - start
            boxes[region, 0] = min(boxes[region, 0], start)
            boxes[region, 1] = min(boxes[region, 1], y)
            boxes[region, 2] = max(boxes[region, 2], x)
            boxes[region, 3] = y + 1
    return sizes, boxes


@compiled()
@no_type_check
def _histograms(counts, regions, sizes, zeros):
    """Compute the normalised histograms of colour and texture of every region."""
    num_regions = len(sizes)
    totals = np.zeros((num_regions, COUNTS), np.int32)
    for atom in range(len(counts)):
        region = regions[atom]
        for at in range(COUNTS):
            totals[region, at] += counts[atom, at]
    colours = np.empty((num_regions, NUM_COLOUR_COUNTERS), np.float32)
    textures = np.empty((num_regions, NUM_TEXTURE_COUNTERS), np.float32)
    steps = np.empty(2 * NUM_TEXTURE_BINS, np.int32)
    for region in range(num_regions):
        all_colours, all_steps = np.float32(3 * sizes[region]), np.float32(2 * NUM_GRADIENTS * sizes[region])
        for at in range(NUM_COLOUR_COUNTERS):
            colours[region, at] = np.float32(totals[region, at]) / all_colours
        for gradient in range(NUM_GRADIENTS):
            # A gradient in one part counts as a gradient of 0 in the other.
            in_part = np.zeros(2, np.int32)
            for code in range(NUM_CODES):
                steps[code] = totals[region, NUM_COLOUR_COUNTERS + NUM_CODES * gradient + code]
                in_part[code // NUM_TEXTURE_BINS] += steps[code]
            for part in range(2):
                steps[NUM_TEXTURE_BINS * part + zeros[gradient, part]] += in_part[1 - part]
            # OpenCV's order, since sums in single precision depend on it: channel, diagonals last, axis, rising first.
            position = 8 * (gradient % 6 // 2) + 4 * (gradient // 6) + 2 * (gradient % 2)
            for code in range(NUM_CODES):
                at = NUM_TEXTURE_BINS * (position + 1 - code // NUM_TEXTURE_BINS) + code % NUM_TEXTURE_BINS
                textures[region, at] = np.float32(steps[code]) / all_steps
    return colours, textures


@compiled()
@no_type_check
def _neighbours(labels, num_regions):
    """Return pairs of adjacent regions, the lower number first, in rising order."""
    height, width = labels.shape
    size, count = 1024, 0
    keys, values = np.full(size, np.int64(EMPTY)), np.empty(size, np.int8)
    # As in OpenCV, the first row and the first column are compared only from the second pixel on.
    last = np.full(3, np.int64(EMPTY))
    for y in range(1, height):
        above, row = labels[y - 1], labels[y]
        for x in range(1, width):
            here, left, up, diagonal = row[x], row[x - 1], above[x], above[x - 1]
            if here == left and here == up and here == diagonal:
                continue
            for side in range(3):
                other = left if side == 0 else up if side == 1 else diagonal
                key = np.int64(min(here, other)) * num_regions + max(here, other)
                if other == here or key == last[side]:
                    continue
                last[side] = key
                if 2 * count >= size:
                    keys, values = _grown(keys, values)
                    size = len(keys)
                slot = _slot(keys, key)
                if keys[slot] == EMPTY:
                    keys[slot] = key
                    count += 1
    found = np.sort(keys[keys != EMPTY])
    pairs = np.empty((count, 2), np.int32)
    pairs[:, 0], pairs[:, 1] = found // num_regions, found % num_regions
    return pairs


@compiled()
@no_type_check
def _overlaps(histograms, row, rows, totals):
    """Compute the histogram intersection with several others; sums run in order, interleaved with each other."""
    totals[:] = 0
    for at in range(histograms.shape[1]):
        own = histograms[row, at]
        for other in range(len(rows)):
            value = histograms[np.uint64(rows[other]), at]
            totals[other] += own if own < value else value


@compiled()
@no_type_check
def _similarities(node, others, sizes, boxes, rows, colours, textures, num_pixels, with_colour, out):
    """Compute the similarities of a node and several others."""
    one, zero, quarter, third = np.float32(1), np.float32(0), np.float32(0.25), np.float32(0.3333)
    other_rows = rows[others]
    texture, colour = np.empty(len(others), np.float32), np.empty(len(others), np.float32)
    _overlaps(textures, rows[node], other_rows, texture)
    if with_colour:
        _overlaps(colours, rows[node], other_rows, colour)
    for at in range(len(others)):
        other = others[at]
        size = sizes[node] + sizes[other]
        width = max(boxes[node, 2], boxes[other, 2]) - min(boxes[node, 0], boxes[other, 0])
        height = max(boxes[node, 3], boxes[other, 3]) - min(boxes[node, 1], boxes[other, 1])
        fill = max(min(one - np.float32(width * height - size) / np.float32(num_pixels), one), zero)
        small = max(min(one - np.float32(size) / np.float32(num_pixels), one), zero)
        if with_colour:
            out[at] = quarter * colour[at] + quarter * fill + quarter * texture[at] + quarter * small
        else:
            out[at] = (third * fill + third * texture[at] + third * small) / (third + third + third)


@compiled()
@no_type_check
def _merge(pairs, region_sizes, region_boxes, colours, textures, num_pixels, with_colour):
    num_regions = len(region_sizes)
    num_nodes = 2 * num_regions - 1
    sizes, levels = np.ones(num_nodes, np.int32), np.ones(num_nodes, np.int32)
    boxes = np.empty((num_nodes, 4), np.int32)
    sizes[:num_regions], boxes[:num_regions] = region_sizes, region_boxes
    rows = np.arange(num_nodes)
    merged_into = np.arange(num_nodes)
    stamps = np.full(num_nodes, EMPTY)
    # The neighbours of a node form a linked list; a merged neighbour is followed to its current node.
    heads, nexts, cells = np.full(num_nodes, EMPTY), np.full(2 * len(pairs), EMPTY), np.empty(2 * len(pairs), np.int64)
    heap = np.empty(16 + 4 * len(pairs), np.int64)
    values, ends = np.empty(len(heap), np.float32), np.empty((len(heap), 2), np.int32)
    in_heap, entries = 0, 0
    near = np.empty(num_nodes, np.int64)
    pair = 0
    while pair < len(pairs):
        a, num_near = pairs[pair, 0], 0
        while pair < len(pairs) and pairs[pair, 0] == a:
            b = pairs[pair, 1]
            cells[2 * pair], cells[2 * pair + 1] = b, a
            nexts[2 * pair], nexts[2 * pair + 1] = heads[a], heads[b]
            heads[a], heads[b] = 2 * pair, 2 * pair + 1
            near[num_near] = b
            ends[pair] = pairs[pair]
            num_near, pair = num_near + 1, pair + 1
        _similarities(
            a, near[:num_near], sizes, boxes, rows, colours, textures, num_pixels, with_colour, values[entries:pair]
        )
        while entries < pair:
            in_heap = _push(heap, in_heap, values, entries)
            entries += 1
    node = num_regions
    while in_heap > 0:
        best = heap[0]
        in_heap = _pop(heap, in_heap, values)
        a, b = ends[best]
        if merged_into[a] != a or merged_into[b] != b:
            continue
        merged_into[a] = merged_into[b] = node
        sizes[node] = sizes[a] + sizes[b]
        levels[node] = max(levels[a], levels[b]) + 1
        boxes[node, 0], boxes[node, 1] = min(boxes[a, 0], boxes[b, 0]), min(boxes[a, 1], boxes[b, 1])
        boxes[node, 2], boxes[node, 3] = max(boxes[a, 2], boxes[b, 2]), max(boxes[a, 3], boxes[b, 3])
        rows[node] = min(rows[a], rows[b])
        _blend(textures[rows[a]], sizes[a], textures[rows[b]], sizes[b], textures[rows[node]])
        if with_colour:
            _blend(colours[rows[a]], sizes[a], colours[rows[b]], sizes[b], colours[rows[node]])
        num_near = 0
        for part in (a, b):
            cell = heads[part]
            while cell != EMPTY:
                after = nexts[cell]
                other = _current(merged_into, cells[cell])
                if other != node and stamps[other] != node:
                    stamps[other] = node
                    cells[cell], nexts[cell], heads[node] = other, heads[node], cell
                    near[num_near] = other
                    num_near += 1
                cell = after
        while entries + num_near > len(values):
            values, ends, heap = _doubled(values), _doubled(ends), _doubled(heap)
        out = values[entries : entries + num_near]
        _similarities(node, near[:num_near], sizes, boxes, rows, colours, textures, num_pixels, with_colour, out)
        for at in range(num_near):
            ends[entries, 0], ends[entries, 1] = node, near[at]
            in_heap = _push(heap, in_heap, values, entries)
            entries += 1
        node += 1
    return boxes[:node], levels[:node]


@compiled()
@no_type_check
def _blend(a, size_a, b, size_b, out):
    first, second, both = np.float32(size_a), np.float32(size_b), np.float32(size_a + size_b)
    for at in range(len(out)):
        out[at] = (a[at] * first + b[at] * second) / both


@compiled()
@no_type_check
def _current(merged_into, node):
    while merged_into[node] != node:
        merged_into[node] = merged_into[merged_into[node]]
        node = merged_into[node]
    return node


@compiled()
@no_type_check
def _doubled(array):
    larger = np.empty((2 * len(array), *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


@compiled()
@no_type_check
def _before(values, one, other):
    """Return True if an entry leaves the heap first: the more similar, and of two equal entries the later."""
    return values[one] > values[other] or (values[one] == values[other] and one > other)


@compiled()
@no_type_check
def _push(heap, size, values, entry):
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if not _before(values, entry, heap[above]):
            break
        heap[at] = heap[above]
        at = above
    heap[at] = entry
    return size + 1


@compiled()
@no_type_check
def _pop(heap, size, values):
    size -= 1
    entry, at = heap[size], 0
    while 2 * at + 1 < size:
        below = 2 * at + 1
        if below + 1 < size and _before(values, heap[below + 1], heap[below]):
            below += 1
        if not _before(values, heap[below], entry):
            break
        heap[at] = heap[below]
        at = below
    heap[at] = entry
    return size
