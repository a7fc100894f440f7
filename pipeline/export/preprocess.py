"""Turn an image file into the pixels that a model takes. The model lies beside this module.

`labels.json` holds the settings: `pixels("cat.jpg", **json.load(open("labels.json"))["preprocessing"])`.

Only NumPy and Pillow are needed. The result differs from headstart's own pixels by at most one grey level. Four rare
kinds of files are exceptions:
- Images with 16 bits per sample that use only the lower bits: colour images come out darker than in headstart. For grey
  images, this module takes the number of bits in use from the brightest sample, and not from the file's header.
- TIFFs with reduced copies of a page: the copies count as pages.
- Large JPEGs that TensorFlow refuses and Pillow reads: headstart decodes them at full size, and this module decodes
  them at a smaller size.
- PNGs with texts over 1 MiB, and images over twice Pillow's `MAX_IMAGE_PIXELS`: Pillow refuses them.
"""

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

with suppress(ImportError):
    import pillow_heif

    pillow_heif.register_heif_opener()
Image.init()
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")  # a Pillow may lack some
_ROWS = 64


def images(paths: Iterable[str], **settings: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each of `paths` with its pixels, for a program whose arguments are `paths`. For `settings`, see `pixels`.

    A file that can't be read is left out, and a line on standard error names it. The program then exits with status 1
    after the last file. If `paths` is empty, the program prints its docstring, and exits with status 1.
    """
    failed, paths = False, list(paths)
    if not paths:
        sys.exit(sys.modules["__main__"].__doc__)
    for path in paths:
        try:
            found = pixels(path, **settings)
        except Exception as error:  # Pillow's decoders raise almost anything at damaged files
            print(f"{path}: {error}", file=sys.stderr)
            failed = True
        else:
            yield path, found
    if failed:
        sys.exit(1)


def pixels(
    source: str | Path | bytes,
    size: int,
    resize: str = "stretch",
    truncated: str = "reject",
    bits: str = "auto",
    most_pixels: int = 100_000_000,
    page: int = 1,
) -> np.ndarray:
    """Return the pixels, uint8 [size, size, 3], of an image file. `source` is the path or the bytes of the file.

    Args:
        size: side of the result in pixels.
        resize: how the image becomes square. `stretch` changes its proportions, `crop` keeps the centre square, and
            `pad` adds grey at two sides.
        truncated: what to do with a JPEG that ends early. `reject` means an error, and `keep` means a grey lower part.
        bits: how many bits are in use in samples of 16 bits. `auto` means that the number is found in the image. Any
            other value is the number itself, from 8 to 16, as text.
        most_pixels: the largest number of pixels that the image may have.
        page: the page of a TIFF, from 1.

    Raises:
        ValueError: the image has 32 bits per sample, or has over `most_pixels` pixels.
        PIL.Image.DecompressionBombError: the image has over twice Pillow's `MAX_IMAGE_PIXELS`.
        EOFError: the image has no page with the number `page`.
        OSError, ValueError, SyntaxError: the file is damaged, or is no image. These errors come from Pillow.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    if truncated == "keep" and data[:2] == b"\xff\xd8":
        data += b"\xff\xd9"
    x, turn = _decoded(data, size, resize == "pad", bits, most_pixels, page)
    height, width = x.shape[:2]
    if resize == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        x = x[top : top + side, left : left + side]
    sides = np.array(x.shape[:2])
    to = np.maximum(np.round(sides * size / sides.max()).astype(int), 1) if resize == "pad" else np.array([size, size])
    x = _resized(x, to, antialias=bool(sides.max() > 2 * size))
    if turn in (5, 6, 7, 8):
        x = x.transpose(1, 0, 2)
    x = x[:: -1 if turn in (3, 4, 7, 8) else 1, :: -1 if turn in (2, 3, 6, 7) else 1]
    square = np.full((size, size, 3), 128, np.uint8)
    top, left = (size - x.shape[0]) // 2, (size - x.shape[1]) // 2
    square[top : top + x.shape[0], left : left + x.shape[1]] = x
    return square


def _decoded(data: bytes, size: int, pad: bool, bits: str, most_pixels: int, page: int) -> tuple[np.ndarray, int]:
    """Return the pixels, uint8 [H, W, 3], and the EXIF orientation by which they must still be turned upright."""
    with Image.open(io.BytesIO(data), formats=[one for one in FORMATS if one in Image.OPEN]) as image:
        if image.width * image.height > most_pixels:
            raise ValueError(f"{image.width} x {image.height} pixels, over {most_pixels}")
        if page > 1:
            image.seek(page - 1)
        if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
            raise ValueError(f"{image.format} with 32 bits per sample")
        if image.format == "PNG":
            image.load()  # `getexif` loads the pixels too, and its errors are ignored
        turn = _orientation(image)
        if image.format in ("JPEG", "MPO"):
            side = (max if pad else min)(image.size)
            ratio = max(one for one in (1, 2, 4, 8) if one == 1 or side // one >= size) + 0.5
            wanted: Any = (image.width / ratio, image.height / ratio)
            image.draft(None, wanted)  # decodes at 1/2, 1/4 or 1/8
        return _eight_bits(image, bits), turn


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation by which `image` must still be turned upright.

    If the orientation is missing or broken, return 1.
    """
    try:
        return 1 if image.format == "TIFF" else int(image.getexif().get(0x0112, 1))  # Pillow turns a TIFF by itself
    except Exception:  # broken EXIF does not harm the pixels
        return 1


def _eight_bits(image: Image.Image, bits: str) -> np.ndarray:
    """Return the RGB pixels of `image`, uint8 [H, W, 3]. Transparent parts become white. For `bits`, see `pixels`."""
    if image.mode.startswith("I"):
        samples = np.asarray(image)
        used = max(int(samples.max()).bit_length(), 8) if bits == "auto" else int(bits)
        grey = np.minimum(samples >> ((used if samples.any() else 16) - 8), 255).astype(np.uint8)
        return np.repeat(grey[..., np.newaxis], 3, axis=2)
    if image.mode == "CMYK" and image.format == "JPEG":
        adobe = "adobe" in image.info  # Pillow inverts all, as Adobe's must be
        return _by_rows(np.asarray(image), lambda ink: _lit(255 - ink if adobe else ink))
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    if image.format == "PNG" and image.mode in ("LA", "RGBA"):
        return _by_rows(np.asarray(image.convert("RGBA")), _over_white)
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return np.asarray(white.convert("RGB"))


def _by_rows(x: np.ndarray, blend: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply `blend` to `x`, uint8 [H, W, 4], a few rows at a time to save memory. Return uint8 [H, W, 3]."""
    found = np.empty((*x.shape[:2], 3), np.uint8)
    for at in range(0, len(x), _ROWS):
        found[at : at + _ROWS] = blend(x[at : at + _ROWS].astype(np.uint16))
    return found


def _lit(light: np.ndarray) -> np.ndarray:
    return np.asarray(light[..., :3] * light[..., 3:] // 255)


def _over_white(parts: np.ndarray) -> np.ndarray:
    alpha = parts[..., 3:]
    return np.asarray((parts[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255)


def _resized(x: np.ndarray, to: np.ndarray, antialias: bool) -> np.ndarray:
    """Resize `x`, uint8 [H, W, 3], by bilinear interpolation, as TensorFlow does.

    The argument `to` holds the new height and width.
    """
    y = x.astype(np.float32)
    for axis in (0, 1) if antialias else (1, 0):  # the order in TensorFlow
        if antialias or x.shape[:2] != tuple(to):
            y = _along(y, axis, int(to[axis]), antialias)
    return np.clip(np.round(y), 0, 255).astype(np.uint8)


def _along(x: np.ndarray, axis: int, to: int, antialias: bool) -> np.ndarray:
    one, half, many = np.float32(1), np.float32(0.5), x.shape[axis]
    x = np.moveaxis(x, axis, 0)
    if not antialias:
        at = (np.arange(to, dtype=np.float32) + half) * (np.float32(many) / np.float32(to)) - half
        low, high = np.maximum(np.floor(at), 0).astype(int), np.minimum(np.ceil(at), many - 1).astype(int)
        share = (at - np.floor(at)).reshape(-1, *[1] * (x.ndim - 1))
        return np.moveaxis(x[low] + (x[high] - x[low]) * share, 0, axis)
    inverse = one / (np.float32(to) / np.float32(many))
    wide = max(inverse, one)
    centre = (np.arange(to, dtype=np.float32) + half) * inverse
    first = np.clip(np.ceil(centre - wide - half), 0, many - 1).astype(int)
    last = np.clip(np.floor(centre + wide - half), 0, many - 1).astype(int)
    taps = first + np.arange((last - first).max() + 1)[:, np.newaxis]  # [taps, to]
    weights = np.maximum(one - np.abs((taps.astype(np.float32) + half - centre) * (one / wide)), 0) * (taps <= last)
    total = np.zeros(to, np.float32)
    for row in weights.astype(np.float32):
        total += row
    result = np.zeros((to, *x.shape[1:]), np.float32)
    for tap, weight in zip(np.minimum(taps, many - 1), weights * (one / total), strict=True):
        result += x[tap] * weight.reshape(-1, *[1] * (x.ndim - 1)).astype(np.float32)
    return np.moveaxis(result, 0, axis)
