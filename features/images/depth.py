"""Samples of 16 bits of which fewer are in use, as of a camera or scanner with 12 bits. Pillow alone makes them black.

A file of 16 bits a sample has `bits` of 8 to 16: the bits that its samples use. `bits` is 0 for all other files, and
for those whose decoder brings samples to their full range by itself.
"""

import sys
from collections.abc import Iterable

import numpy as np
from headstart.features.images.opening import open_image
from headstart.features.images.png import significant_bits
from PIL import Image, ImageFile

_BITS_PER_SAMPLE, _MAX_SAMPLE = 258, 281  # tags of TIFF
_COLOURS = ("RGB;16", "RGBA;16", "RGBX;16")  # beginnings of Pillow's raw modes, of which it keeps the higher bytes
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def used_bits(image: ImageFile.ImageFile, data: bytes) -> int:
    """Return how many bits the 16-bit samples of an opened `image` use, 8 to 16; 0 if it has none, see above.

    The largest sample tells, or a larger number that the file gives. The pixels of a file with 16-bit samples are
    decoded, which may raise an exception of almost any type. Nothing else is decoded.
    """
    colour = _raw_mode(image).startswith(_COLOURS)
    if not (colour or (image.mode.startswith("I") and _is_unscaled(image))):
        return 0
    given = _given_bits(image, data)  # before the pixels are loaded
    if given >= 16:
        return 16
    if colour:
        highest = max(high for _, high in image.getextrema()[:3])  # type: ignore[misc]  # of the higher bytes
        largest = highest << 8 if highest else int(samples(data)[..., :3].max())
    else:
        largest = int(np.asarray(image).max())
    return max(largest.bit_length(), given, 8) if largest else 16  # black is black at any scale


def samples(data: bytes) -> np.ndarray:
    """Decode a file whose `bits` are not 0. Return uint16 [H, W], or [H, W, 3 or 4] with colours."""
    with open_image(data) as image:
        if not _raw_mode(image).startswith(_COLOURS):
            grey: np.ndarray = np.asarray(image).astype(np.uint16)
            return grey
        high = np.asarray(image)
    with open_image(data) as image:
        image.tile = [tile._replace(args=_other_byte(tile.args)) for tile in image.tile]
        both: np.ndarray = (high.astype(np.uint16) << 8) | np.asarray(image)
        return both


def eight_bits(data: bytes, bits: int) -> Image.Image:
    """Decode a file whose `bits` are not 0, and scale the samples so that `bits`, 8 to 16, become 8.

    Samples over the range of `bits` are white. An alpha channel is scaled by its own range.
    """
    found = samples(data)
    scaled = np.minimum(found >> (bits - 8), 255).astype(np.uint8)
    if found.ndim == 3 and found.shape[2] == 4:
        alpha = found[..., 3]
        scaled[..., 3] = alpha >> (max(bits, int(alpha.max()).bit_length()) - 8)
    return Image.fromarray(scaled)


def bits_by_folder(asked: str, bits: Iterable[int]) -> str:
    """Return the option `asked`, `--bits`, with `folder` replaced by the largest of the `bits` of a folder's images."""
    return str(max({*bits} - {0}, default=16)) if asked == "folder" else asked


def bits_that_matter(asked: str, bits: Iterable[int]) -> str:
    """Return `asked`, `auto` or a number, or `16` if images with these `bits` have the same pixels with that."""
    held = {*bits} - {0}
    return asked if held - ({16} if asked == "auto" else set()) else "16"


def _is_unscaled(image: ImageFile.ImageFile) -> bool:
    """Whether samples are as the file has them. Pillow brings those of most PGM files to 16 bits."""
    return image.format != "PPM" or all(tile.codec_name == "raw" for tile in image.tile)


def _given_bits(image: ImageFile.ImageFile, data: bytes) -> int:
    """Return the bits in use that the file itself gives; 0 if it gives none."""
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


def _other_byte(args: tuple[object, ...] | str | None) -> tuple[object, ...] | str:
    """Return the arguments of a decoder that yields the lower bytes of samples instead of the higher ones."""
    if isinstance(args, tuple):
        mode, *rest = args
        return (_other_byte(str(mode)), *rest)
    return f"{args}"[:-1] + _OTHER_BYTE[f"{args}"[-1]]
