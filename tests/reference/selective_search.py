"""Selective search by loops over pixels, edges and pairs of regions, in float64."""

import math
from collections import Counter

import numpy as np

SIGMA = 0.8
SMALLEST_REGION = 100


def segment_by_loops(image: np.ndarray, scale: float) -> np.ndarray:
    """Segment after Felzenszwalb and Huttenlocher on the four neighbours of a pixel; join small regions afterwards."""
    height, width, _ = image.shape
    smooth = blur_by_loops(image)
    edges = []
    for y in range(height):
        for x in range(width):
            for down in (0, 1):
                if y + down < height and x + 1 - down < width:
                    weight = math.dist(smooth[y, x], smooth[y + down, x + 1 - down])
                    edges.append((weight, y * width + x, (y + down) * width + x + 1 - down))
    edges.sort()
    region_of = list(range(height * width))
    members = {pixel: [pixel] for pixel in region_of}
    heaviest = dict.fromkeys(region_of, 0.0)
    for joins_small in (False, True):
        for weight, one, other in edges:
            a, b = region_of[one], region_of[other]
            if a == b:
                continue
            if joins_small:
                joined = min(len(members[a]), len(members[b])) < SMALLEST_REGION
            else:
                joined = weight <= min(heaviest[each] + scale / len(members[each]) for each in (a, b))
            if joined:
                for pixel in members[b]:
                    region_of[pixel] = a
                members[a] += members.pop(b)
                heaviest[a] = weight
    return numbered(region_of).reshape(height, width)


def bins_of_codes(codes: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    """Decode codes to the maps of `bins_by_loops`, one pixel at a time."""
    bins = []
    for channel in range(3):
        for gradient in (2 * channel, 2 * channel + 1, 6 + 2 * channel, 7 + 2 * channel):
            rising, falling = np.empty((2, *codes.shape[1:]), int)
            for at, code in np.ndenumerate(codes[gradient].astype(int)):
                rises = code >= 10
                rising[at] = code - 10 if rises else zeros[gradient, 1]
                falling[at] = zeros[gradient, 0] if rises else code
            bins += [rising, falling]
    return np.stack(bins)


def numbered(names: list[int]) -> np.ndarray:
    """Number the regions from 0, in the order of their first pixels."""
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names])


def blur_by_loops(image: np.ndarray) -> np.ndarray:
    """Blur by a Gaussian of seven taps along rows and columns, the image mirrored about its outer pixels."""
    taps = [math.exp(-(offset**2) / (2 * SIGMA**2)) for offset in range(-3, 4)]
    smooth = image.astype(np.float64)
    for axis in (0, 1):
        size = image.shape[axis]
        blurred = np.zeros_like(smooth)
        for at in range(size):
            for offset, tap in zip(range(-3, 4), taps):
                source = np.take(smooth, mirrored(at + offset, size), axis)
                np.moveaxis(blurred, axis, 0)[at] += tap / sum(taps) * source
        smooth = blurred
    return smooth


def mirrored(at: int, size: int) -> int:
    """Mirror an index into the image: 3 2 1 0 1 2 3 2 1 0 1 ... for a size of 4."""
    if size == 1:
        return 0
    at = abs(at) % (2 * (size - 1))
    return min(at, 2 * (size - 1) - at)


def lab_by_formula(colour: np.ndarray) -> list[float]:
    """Convert an 8-bit sRGB colour (white D65) to CIE L, a and b, scaled into [0, 255]."""
    levels = [int(level) / 255 for level in colour]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels)
    x = (0.412453 * red + 0.357580 * green + 0.180423 * blue) / 0.950456
    y = 0.212671 * red + 0.715160 * green + 0.072169 * blue
    z = (0.019334 * red + 0.119193 * green + 0.950227 * blue) / 1.088754
    root_x, root_y, root_z = (
        v ** (1 / 3) if v > (6 / 29) ** 3 else v / (3 * (6 / 29) ** 2) + 4 / 29 for v in (x, y, z)
    )
    return [2.55 * (116 * root_y - 16), 500 * (root_x - root_y) + 128, 200 * (root_y - root_z) + 128]


def bins_by_loops(image: np.ndarray) -> np.ndarray:
    """Quantise gradients in eight directions to tenths of their range, (24, h, w).

    For each channel four gradients, along x, along y and along both after a turn by 45 degrees, and of each its rising
    and its falling part.
    """
    bins = []
    for channel in range(3):
        plane = image[:, :, channel].astype(np.float64)
        gradients = [*scharr_by_loops(plane), *(turned_back(each, plane) for each in scharr_by_loops(turned(plane)))]
        for gradient in gradients:
            for part in (np.maximum(gradient, 0), np.minimum(gradient, 0)):
                low, high = part.min(), part.max()
                level = np.rint(255 * (part - low) / (high - low)) if high > low else np.zeros_like(part)
                bins.append(np.floor(level / 25.6).astype(int))
    return np.stack(bins)


def scharr_by_loops(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the gradients along x and y with the weights 3, 10, 3 across the direction."""
    height, width = plane.shape
    along_x, along_y = np.zeros_like(plane), np.zeros_like(plane)
    for y in range(height):
        for x in range(width):
            for offset, weight in ((-1, 3), (0, 10), (1, 3)):
                row, column = mirrored(y + offset, height), mirrored(x + offset, width)
                along_x[y, x] += weight * (plane[row, mirrored(x + 1, width)] - plane[row, mirrored(x - 1, width)])
                along_y[y, x] += weight * (
                    plane[mirrored(y + 1, height), column] - plane[mirrored(y - 1, height), column]
                )
    return along_x, along_y


def turned(plane: np.ndarray) -> np.ndarray:
    """Rotate the plane by 45 degrees anticlockwise about its centre, with integer levels and 0 around it."""
    (height, width), (high, wide) = plane.shape, turned_size(plane)
    out = np.zeros((high, wide))
    for y in range(high):
        for x in range(wide):
            right, down = x - wide / 2, y - high / 2
            source_x = width / 2 + math.sqrt(0.5) * (right - down)
            source_y = height / 2 + math.sqrt(0.5) * (right + down)
            out[y, x] = round(between(plane, source_x, source_y))
    return out


def turned_back(gradient: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Rotate the plane back about its central pixel and crop the centre of the plane's size.

    What is cut out begins at the edge of the turned plane at the earliest, as in OpenCV: of a plane that is longer than
    its turned copy the gradients are shifted.
    """
    (height, width), (high, wide) = plane.shape, gradient.shape
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            right = x + max(0, (wide - width) // 2) - wide // 2
            down = y + max(0, (high - height) // 2) - high // 2
            source_x, source_y = (
                wide // 2 + math.sqrt(0.5) * (right + down),
                high // 2 + math.sqrt(0.5) * (down - right),
            )
            out[y, x] = between(gradient, source_x, source_y)
    return out


def turned_size(plane: np.ndarray) -> tuple[int, int]:
    """Return the rows and columns that contain the rotated plane, with its centre unchanged."""
    reach = (plane.shape[0] + plane.shape[1]) / 2 * math.sqrt(0.5)
    high, wide = (math.ceil(size / 2 + reach) - math.floor(size / 2 - reach) + 1 for size in plane.shape)
    return high, wide


def between(plane: np.ndarray, x: float, y: float) -> float:
    """Interpolate between four pixels; 0 outside."""
    left, top = math.floor(x), math.floor(y)
    total = 0.0
    for row, weight_y in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, weight_x in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                total += weight_x * weight_y * float(plane[row, column])
    return total


def group_by_loops(
    image: np.ndarray, bins: np.ndarray, labels: np.ndarray, with_colour: bool
) -> tuple[list[tuple[int, ...]], list[int]]:
    """Return boxes and levels of the regions, before and after each merge of the two most similar ones."""
    pixels = [{(int(y), int(x)) for y, x in np.argwhere(labels == number)} for number in range(labels.max() + 1)]
    regions = [Region(image, bins, each) for each in pixels]
    levels = [1] * len(regions)
    alike = {
        (a, b): similarity(regions[a], regions[b], labels.size, with_colour) for a, b in neighbours_by_loops(labels)
    }
    while alike:
        a, b = max(alike, key=lambda pair: alike[pair])
        new = len(regions)
        regions.append(Region(image, bins, regions[a].pixels | regions[b].pixels))
        levels.append(max(levels[a], levels[b]) + 1)
        touching = {end for pair in alike if a in pair or b in pair for end in pair} - {a, b}
        alike = {pair: value for pair, value in alike.items() if a not in pair and b not in pair}
        for other in touching:
            alike[other, new] = similarity(regions[other], regions[new], labels.size, with_colour)
    return [region.box for region in regions], levels


def neighbours_by_loops(labels: np.ndarray) -> set[tuple[int, int]]:
    """Find the pairs of adjacent regions from every pixel to the left, above and diagonally.

    The pixels of the first row and of the first column do not look, as in OpenCV.
    """
    pairs = set()
    for y in range(1, labels.shape[0]):
        for x in range(1, labels.shape[1]):
            for other in (labels[y, x - 1], labels[y - 1, x], labels[y - 1, x - 1]):
                if other != labels[y, x]:
                    pairs.add((min(int(labels[y, x]), int(other)), max(int(labels[y, x]), int(other))))
    return pairs


class Region:
    """The pixels of a region and the features of its similarity."""

    def __init__(self, image: np.ndarray, bins: np.ndarray, pixels: set[tuple[int, int]]) -> None:
        rows, columns = [y for y, _ in pixels], [x for _, x in pixels]
        self.pixels = pixels
        self.box = min(columns), min(rows), max(columns) + 1, max(rows) + 1
        colours = [math.floor(image[y, x, c] / 256 * 25) + 25 * c for y, x in pixels for c in range(image.shape[2])]
        textures = [int(bins[number, y, x]) + 10 * number for y, x in pixels for number in range(len(bins))]
        self.colours, self.textures = fractions(colours), fractions(textures)


def fractions(values: list[int]) -> dict[int, float]:
    """Return the fraction of each value in the sum."""
    return {value: count / len(values) for value, count in Counter(values).items()}


def similarity(one: Region, other: Region, num_pixels: int, with_colour: bool) -> float:
    """Compute the mean similarity of two regions in texture, colour, size and fill."""
    size = len(one.pixels) + len(other.pixels)
    left, top, right, bottom = (pick(ends) for pick, ends in zip((min, min, max, max), zip(one.box, other.box)))
    parts = [
        sum(min(fraction, other.textures.get(value, 0)) for value, fraction in one.textures.items()),
        1 - size / num_pixels,
        1 - ((right - left) * (bottom - top) - size) / num_pixels,
    ]
    if with_colour:
        parts.append(sum(min(fraction, other.colours.get(value, 0)) for value, fraction in one.colours.items()))
    return sum(parts) / len(parts)


def rank_by_loops(regions: np.ndarray, levels: np.ndarray, draws: np.ndarray) -> list[list[int]]:
    """Rank boxes by a random number in [0, 1] times their level; a box keeps its best rank."""
    order = sorted(range(len(regions)), key=lambda row: float(draws[row]) * int(levels[row]))
    ranked: list[list[int]] = []
    for row in order:
        if regions[row].tolist() not in ranked:
            ranked.append(regions[row].tolist())
    return ranked


def rand_by_loops(seed: int, count: int) -> list[int]:
    """Reproduce `srand(seed)` and `rand()` of the GNU C library: additive feedback over 31 words."""
    signed = (seed + 2**31) % 2**32 - 2**31
    words = [signed or 1]
    while len(words) < 31:
        words.append(16807 * words[-1] % (2**31 - 1))
    words += words[:3]
    while len(words) < 344 + count:
        words.append((words[-31] + words[-3]) % 2**32)
    return [word >> 1 for word in words[344:]]
