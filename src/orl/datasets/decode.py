"""Decoding of image files: upright RGB bytes, or an error with the reason."""

import errno
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from numpy import ndarray
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from orl.datasets.packs import PackedImage

MAX_PIXELS = 100_000_000
MAX_FILE_BYTES, BYTES_PER_PIXEL = 1 << 30, 8
"""Largest file of an image: a gigabyte, or eight bytes for each allowed pixel, if that is more."""
MAX_JPEG_EXTRA_BYTES = 1 << 26
"""Bytes of a JPEG beside its pixels that are read at once: thumbnails, colour profiles, the film of a moving image."""
# Pillow's other formats are excluded: they start Ghostscript, or have no signature.
FORMATS = ("JPEG", "MPO", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "AVIF", "JPEG2000")
REDUCTIONS = (1, 2, 4, 8)
UPRIGHT: dict[int, Callable[[ndarray], ndarray]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored),
}
"""Rotation or reflection that makes pixels upright, by their EXIF orientation."""
FIRST_TRANSPOSED = 5
"""EXIF orientation from which on width and height are exchanged."""
WHITE = (255, 255, 255, 255)
MACHINE_FAULTS = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""Error numbers that say that memory or open files have run out."""

_pillow_lock = threading.Lock()
_guards = ExitStack()
_num_guarded = 0


class ImageError(ValueError):
    """A file that cannot be used as an image."""

    def __init__(self, path: Path | PackedImage, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"image {self.path}: {self.reason}"


def load_image(
    path: Path | PackedImage, max_pixels: int | None = MAX_PIXELS, reduction: int = 1
) -> UInt8[ndarray, "h w 3"]:
    """Decode an image.

    Transparent pixels are blended with white. Values of 16 bits and more are scaled to 8 bits, never clipped. CMYK is
    converted by formula, colour profiles are ignored. Only the first frame of an animation is decoded.

    Args:
        path: a JPEG, PNG, TIFF, WebP, BMP, GIF, PPM, AVIF or JPEG 2000 file; or an image of a pack.
        max_pixels: refuse an image with more pixels by its header, before decoding; None for scanned images.
        reduction: factor 1, 2, 4 or 8 by which both sides are reduced. A JPEG is decoded at the reduced size, which
            takes less time; other images are decoded at full size first.

    Returns:
        RGB image after the EXIF orientation is applied; its size is `reduced_size` of the full size.

    Raises:
        ImageError: if the file is missing, empty, not an image, truncated, corrupt or too large.
        ValueError: if the reduction is not 1, 2, 4 or 8.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction}")
    if isinstance(path, PackedImage):
        return _load_packed(path, reduction)
    with opened_image(path, max_pixels) as opened:
        pixels = _plain_jpeg(path, opened, reduction)
        if pixels is None:
            opened.load()
            pixels = _reduce(_to_rgb(opened), reduction)
        # The tag is read after decoding: Pillow rotates a TIFF while decoding and drops its tag.
        return _turn_upright(pixels, opened)


@contextmanager
def opened_image(path: Path, max_pixels: int | None = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open an image file with Pillow, by its header; what the block raises for a damaged file becomes an `ImageError`.

    Args:
        path: an image of one of `FORMATS`.
        max_pixels: refuse an image with more pixels, or a file that is too large for them; None for no limit.

    Raises:
        ImageError: if the file is missing, empty, not an image, damaged or too large.
    """
    _check_file(path, max_pixels)
    with _guarded_pillow():
        try:
            with Image.open(path, formats=_known_formats()) as opened:
                if max_pixels is not None:
                    _check_size(path, opened.size, max_pixels)
                yield opened
        except ImageError:
            raise
        except UnidentifiedImageError as error:
            raise ImageError(path, f"not an image: begins with {_first_bytes(path)!r}") from error
        # Pillow raises OSError, SyntaxError, struct.error, ValueError, zlib.error and more for damaged files.
        except Exception as error:
            if is_machine_fault(error):
                raise
            raise ImageError(path, _damage(error)) from error


def is_machine_fault(error: BaseException) -> bool:
    """Return True if memory or open files have run out, which says nothing about the image that was read."""
    return isinstance(error, MemoryError) or getattr(error, "errno", None) in MACHINE_FAULTS


def image_size(path: Path) -> tuple[int, int]:
    """Read the upright width and height of an image from its header.

    A PNG is read completely, because its orientation may be stored at the end.

    Raises:
        ImageError: if the file is missing, empty or not an image.
    """
    with opened_image(path, None) as image:
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # The stored size: some versions of Pillow have rotated `image.size` already.
            width, height = (image.tag_v2[tag] for tag in (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength))
        transposed = image.getexif().get(ExifTags.Base.Orientation, 1) >= FIRST_TRANSPOSED
        return (height, width) if transposed else (width, height)


def _load_packed(image: PackedImage, reduction: int) -> UInt8[ndarray, "h w 3"]:
    """Decode an image of a pack: plain pixels, or a JPEG that was checked when it was packed."""
    try:
        stored = image.stored()
    except (OSError, ValueError) as error:
        if is_machine_fault(error):
            raise
        raise ImageError(image, f"cannot be read: {error}") from error
    if stored.format == "pixels":
        pixels = np.frombuffer(stored.data, np.uint8).reshape(stored.size_wh[1], stored.size_wh[0], 3)
        return _reduce(pixels, reduction)
    try:
        return _jpeg_pixels(stored.data, stored.size_wh, reduction)
    except ValueError as error:
        raise ImageError(image, _damage(error)) from error


def reduced_size(size_wh: tuple[int, int], reduction: int) -> tuple[int, int]:
    """Return the size of a reduced image; a remainder makes one more pixel."""
    return -(-size_wh[0] // reduction), -(-size_wh[1] // reduction)


def _check_file(path: Path, max_pixels: int | None) -> None:
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise ImageError(path, "missing: there is no such file") from error
    except (OSError, ValueError) as error:
        raise ImageError(path, f"cannot be opened: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(path, "not a file: it is a folder, a pipe or a device")
    if status.st_size == 0:
        raise ImageError(path, "empty: 0 bytes")
    if max_pixels is not None and status.st_size > (limit := max(MAX_FILE_BYTES, BYTES_PER_PIXEL * max_pixels)):
        raise ImageError(path, f"too many bytes: {status.st_size / 1e9:.1f} GB, at most {limit / 1e9:.1f} GB")


@contextmanager
def _guarded_pillow() -> Iterator[None]:
    """Replace Pillow's global limits by our own while any thread decodes."""
    global _num_guarded
    with _pillow_lock:
        if _num_guarded == 0:
            _guards.enter_context(_own_limits())
        _num_guarded += 1
    try:
        yield
    finally:
        with _pillow_lock:
            _num_guarded -= 1
            if _num_guarded == 0:
                _guards.close()


@contextmanager
def _own_limits() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, truncated = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        # `_check_size` replaces Pillow's check, with our limit and for all FORMATS.
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = limit, truncated


def _known_formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check_size(path: Path, size_wh: tuple[int, int], max_pixels: int) -> None:
    width, height = size_wh
    if width * height > max_pixels:
        limit = f"{max_pixels / 1e6:g} megapixels"
        raise ImageError(path, f"too many pixels: {width}x{height} px, at most {limit}")


def _plain_jpeg(path: Path, image: Image.Image, reduction: int) -> UInt8[ndarray, "h w 3"] | None:
    """Decode an ordinary JPEG; return None for other files."""
    if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
        return None
    # A file with more bytes has other data behind the image; Pillow reads the image alone, a part at a time.
    most = MAX_JPEG_EXTRA_BYTES + 4 * image.size[0] * image.size[1]
    if path.stat().st_size > most:
        return None
    try:
        return _jpeg_pixels(path.read_bytes(), image.size, reduction)
    except ValueError:
        return None  # damaged: Pillow decodes the readable part, or raises an error with the reason


def _jpeg_pixels(data: bytes | memoryview, size_wh: tuple[int, int], reduction: int) -> UInt8[ndarray, "h w 3"]:
    """Decode a JPEG to the pixels that Pillow gives, by the same library without Pillow's conversions."""
    width, height = reduced_size(size_wh, reduction)
    image = simplejpeg.decode_jpeg(data, min_width=width, min_height=height)
    if image.shape[:2] != (height, width):
        raise ValueError(f"expected {width}x{height} px, got {image.shape[1]}x{image.shape[0]}")
    return image


def _reduce(image: UInt8[ndarray, "h w 3"], reduction: int) -> UInt8[ndarray, "_ _ 3"]:
    return image if reduction == 1 else np.array(Image.fromarray(image).reduce(reduction))


def _turn_upright(pixels: UInt8[ndarray, "h w 3"], opened: Image.Image) -> UInt8[ndarray, "_ _ 3"]:
    try:
        orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the EXIF block is damaged, the pixels are good
        return pixels
    return np.ascontiguousarray(UPRIGHT[orientation](pixels)) if orientation in UPRIGHT else pixels


def _to_rgb(image: Image.Image) -> UInt8[ndarray, "h w 3"]:
    if image.mode == "F" or image.mode.startswith("I"):
        gray = _to_8_bits(np.asarray(image), always_16_bits=image.mode.startswith("I;16"))
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    return np.array(image.convert("RGB"))


def _to_8_bits(values: ndarray, always_16_bits: bool) -> UInt8[ndarray, "h w"]:
    """Scale to 8 bits from the smallest usual range of all values: 0 to 1, 255 or 65535, else their own range."""
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    if not np.isfinite(low + high):
        raise ValueError(f"pixel values must be finite, got {low} to {high}")
    if always_16_bits:
        low, high = 0, 65535
    else:
        usual = [limit for limit in (1, 255, 65535) if high <= limit]
        low, high = (0, usual[0]) if low >= 0 and usual else (low, high)
    return np.rint((values - low) * (255 / max(high - low, 1e-300))).astype(np.uint8)


def _first_bytes(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(12)


def _damage(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no details"
    if "truncated" in text.lower():
        return f"truncated: {text}"
    return f"corrupt: {type(error).__name__}: {text}"
