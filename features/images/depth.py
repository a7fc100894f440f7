"""Images with 16-bit samples that use fewer bits, such as 12 in many cameras and scanners.

Pillow alone decodes such an image as almost black. `bits` is the number of bits that the samples of a file use, from 8
to 16. `bits` is 0 for a file without 16-bit samples, and for a file whose decoder scales samples to their full range.
"""

import sys
from collections.abc import Iterable

import numpy as np
from headstart.features.images.opening import open_image
from headstart.features.images.png import significant_bits
from PIL import Image, ImageFile

_BITS_PER_SAMPLE, _MAX_SAMPLE = 258, 281  # tags of TIFF
_COLOURS = ("RGB;16", "RGBA;16", "RGBX;16")  # prefixes of raw modes of which Pillow keeps only the higher byte
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def used_bits(image: ImageFile.ImageFile, data: bytes) -> int:
    """Return the `bits` of an opened `image`: 8 to 16, or 0. The docstring of this module defines `bits`.

    The result is the bit length of the largest sample, or a larger number in the file's header. For a black image it is
    16. Pixels are decoded only if samples have 16 bits. Decoding may raise an exception of almost any type. `data` is
    the bytes of the file.
    """
    colour = _raw_mode(image).startswith(_COLOURS)
    if not (colour or (image.mode.startswith("I") and _is_unscaled(image))):
        return 0
    given = _given_bits(image, data)  # read before the pixels are loaded
    if given >= 16:
        return 16
    if colour:
        highest = max(high for _, high in image.getextrema()[:3])  # type: ignore[misc]  # of the higher bytes
        largest = highest << 8 if highest else int(samples(data)[..., :3].max())
    else:
        largest = int(np.asarray(image).max())
    return max(largest.bit_length(), given, 8) if largest else 16  # black is black at any scale


def samples(data: bytes) -> np.ndarray:
    """Decode the bytes of a file whose `bits` is not 0. Return uint16 [H, W] if grey, else [H, W, 3 or 4]."""
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
    """Decode the bytes of a file with 16-bit samples, and scale the samples from `bits` bits, 8 to 16, to 8 bits.

    A sample of more than `bits` bits becomes 255. If the alpha channel uses more bits, it is scaled by its own number.
    """
    found = samples(data)
    scaled = np.minimum(found >> (bits - 8), 255).astype(np.uint8)
    if found.ndim == 3 and found.shape[2] == 4:
        alpha = found[..., 3]
        scaled[..., 3] = alpha >> (max(bits, int(alpha.max()).bit_length()) - 8)
    return Image.fromarray(scaled)


def bits_by_folder(asked: str, bits: Iterable[int]) -> str:
    """Return `asked`, a value of `--bits`, with `folder` replaced by the largest number in `bits`, as text.

    `bits` has the `bits` of each image of the folder. If all are 0, `folder` becomes `16`.
    """
    return str(max({*bits} - {0}, default=16)) if asked == "folder" else asked


def bits_that_matter(asked: str, bits: Iterable[int]) -> str:
    """Return `16` if images with these `bits` have the same pixels with `--bits 16` as with `asked`, else `asked`.

    `asked` is `auto` or a number.
    """
    held = {*bits} - {0}
    return asked if held - ({16} if asked == "auto" else set()) else "16"


def _is_unscaled(image: ImageFile.ImageFile) -> bool:
    """Return whether Pillow leaves samples as they are in the file. It scales samples of most PGM files to 16 bits."""
    return image.format != "PPM" or all(tile.codec_name == "raw" for tile in image.tile)


def _given_bits(image: ImageFile.ImageFile, data: bytes) -> int:
    """Return the number of bits in use that the header of a file states; 0 if the header states none."""
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
    """Return decoder arguments like `args`, but for the lower byte of each sample instead of the higher one."""
    if isinstance(args, tuple):
        mode, *rest = args
        return (_other_byte(str(mode)), *rest)
    return f"{args}"[:-1] + _OTHER_BYTE[f"{args}"[-1]]
