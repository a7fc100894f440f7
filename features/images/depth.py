"""Images whose samples have 16 bits but use fewer of them. For example, many cameras and scanners use 12 bits.

By itself, Pillow decodes such an image as almost black. So a scan finds how many bits are in use, from 8 to 16. The
scan notes 0 bits for two kinds of files: files without 16-bit samples, and files whose decoder scales samples to their
full range.
"""

import sys
from collections.abc import Iterable

import numpy as np
from headstart.features.images.opening import open_image
from headstart.features.images.png import significant_bits
from PIL import Image, ImageFile

_BITS_PER_SAMPLE, _MAX_SAMPLE = 258, 281  # tags of TIFF
# Beginnings of raw modes, and the number of a pixel's samples except alpha. Pillow keeps only their higher bytes.
_COLOURS = {"RGB;16": 3, "RGBA;16": 3, "RGBX;16": 3, "RGBa;16": 3, "CMYK;16": 4, "LA;16": 1}
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def used_bits(image: ImageFile.ImageFile, data: bytes, first: int | None = None) -> int:
    """Return how many bits the 16-bit samples of an opened image use: 0, or 8 to 16.

    `data` holds the bytes of the file. For `first`, see `open_image`.

    An image uses 12 bits, for example, if its largest sample is 4000. Alpha does not count. If the header of the file
    states more bits, the result is the number in the header. The result is 16 if the image is black. The result is 0 if
    the image has no 16-bit samples, or if its decoder scales samples to their full range.

    If the pixels are damaged, Pillow may raise an exception of almost any type.
    """
    raw_mode = _raw_mode(image)
    colours = _colours(raw_mode)
    if not (colours or (image.mode.startswith("I") and _is_unscaled(image))):
        return 0
    given = _given_bits(image, data)  # read before the pixels are loaded
    if given >= 16:
        return 16
    if not colours:
        largest = int(np.asarray(image).max())
    elif raw_mode.startswith(("RGB;", "RGBA;", "RGBX;", "CMYK;")) and (highest := _highest(image, colours)):
        largest = highest << 8
    else:
        largest = int(_samples(data, first)[0][..., :colours].max())
    return max(largest.bit_length(), given, 8) if largest else 16  # black is black at any scale


def eight_bits(data: bytes, bits: int) -> Image.Image:
    """Decode a file with 16-bit samples. Return an image with 8-bit samples.

    `data` holds the bytes of the file, and `bits` is 8 to 16. A sample is shifted right by `bits` - 8 bits. A colour
    over 255 then becomes 255. If the largest alpha has more than `bits` bits, alphas are shifted further, so that none
    exceeds 255.
    """
    found, mode = _samples(data)
    scaled = np.minimum(found >> (bits - 8), 255).astype(np.uint8)
    if mode in ("LA", "RGBA"):
        alpha = found[..., -1]
        scaled[..., -1] = alpha >> (max(bits, int(alpha.max()).bit_length()) - 8)
    return Image.frombytes(mode, found.shape[1::-1], scaled.tobytes())


def _samples(data: bytes, first: int | None = None) -> tuple[np.ndarray, str]:
    """Return the 16-bit samples of a file, [H, W] or [H, W, C], and their Pillow mode, such as `RGB`."""
    with open_image(data, first=first) as image:
        raw_mode = _raw_mode(image)
        if not _colours(raw_mode):
            return np.asarray(image).astype(np.uint16), "L"
        if raw_mode.startswith("LA;"):  # Pillow can give the four bytes of a pixel unchanged, as RGBA
            image.tile = [tile._replace(args=_in_mode(tile.args, "RGBA")) for tile in image.tile]
            return np.asarray(image).view(">u2").astype(np.uint16), "LA"
        # Colours that are multiplied by alpha are divided by it below, not by Pillow.
        plain = raw_mode.replace("RGBa", "RGBA")
        image.tile = [tile._replace(args=_in_mode(tile.args, plain)) for tile in image.tile]
        high, mode = np.asarray(image), image.mode
    with open_image(data, first=first) as image:
        other = plain[:-1] + _OTHER_BYTE[plain[-1]]
        image.tile = [tile._replace(args=_in_mode(tile.args, other)) for tile in image.tile]
        both: np.ndarray = (high.astype(np.uint16) << 8) | np.asarray(image)
    return (_divided(both) if raw_mode.startswith("RGBa;") else both), mode


def _divided(samples: np.ndarray) -> np.ndarray:
    """Return `samples`, uint16 [H, W, 4], with the colours divided by alpha."""
    alpha = samples[..., 3:].astype(np.uint32)
    whole = (1 << int(alpha.max()).bit_length()) - 1  # the alpha that counts as 1
    colours = np.minimum(samples[..., :3] * np.uint32(whole) // np.maximum(alpha, 1), 65535)
    return np.concatenate([colours, alpha], axis=2).astype(np.uint16)


def _colours(raw_mode: str) -> int:
    """Return the number of samples per pixel in the raw mode `raw_mode`. Alpha does not count.

    The result is 0 if `raw_mode` does not begin with a key of `_COLOURS`.
    """
    return next((count for beginning, count in _COLOURS.items() if raw_mode.startswith(beginning)), 0)


def _highest(image: Image.Image, colours: int) -> int:
    return max(high for _, high in image.getextrema()[:colours])  # type: ignore[misc]  # several bands give pairs


def bits_by_folder(asked: str, bits: Iterable[int]) -> str:
    """Return the value of `--bits` for the images of a folder: `asked`, or a number as text.

    `asked` is the user's value. If `asked` is the string `folder`, a number is returned. The number is the largest of
    `bits`, or 16 if no number in `bits` is above 0. `bits` holds the results of `used_bits` for the images.
    """
    return str(max({*bits} - {0}, default=16)) if asked == "folder" else asked


def bits_that_matter(asked: str, bits: Iterable[int]) -> str:
    """Return "16" if `--bits 16` gives each image the same pixels as the value `asked`. Otherwise, return `asked`.

    `asked` is a value of `--bits`: `auto` or a number. `bits` holds the results of `used_bits` for the images.
    """
    held = {*bits} - {0}
    return asked if held - ({16} if asked == "auto" else set()) else "16"


def _is_unscaled(image: ImageFile.ImageFile) -> bool:
    """Return whether Pillow keeps a file's samples unchanged. Pillow scales samples of most PGM files to 16 bits."""
    return image.format != "PPM" or all(tile.codec_name == "raw" for tile in image.tile)


def _given_bits(image: ImageFile.ImageFile, data: bytes) -> int:
    """Return how many bits of a sample are in use according to the file's header; 0 if the header states no number."""
    if image.format == "PNG":
        return significant_bits(data)
    if image.format != "TIFF":
        return 0
    tags = getattr(image, "tag_v2", {})
    largest, width = (_largest(tags.get(tag)) for tag in (_MAX_SAMPLE, _BITS_PER_SAMPLE))
    return largest.bit_length() or (width if width < 16 else 0)


def _largest(value: object) -> int:
    values = value if isinstance(value, tuple) else (value,)
    return max((one for one in values if isinstance(one, int) and 0 < one < 1 << 16), default=0)


def _raw_mode(image: ImageFile.ImageFile) -> str:
    args = image.tile[0].args if image.tile else None
    return str(args[0] if isinstance(args, tuple) and args else args)


def _in_mode(args: tuple[object, ...] | str | None, raw_mode: str) -> tuple[object, ...] | str:
    """Return a copy of `args`, the arguments of a Pillow decoder, with `raw_mode` as the raw mode."""
    return (raw_mode, *args[1:]) if isinstance(args, tuple) else raw_mode
