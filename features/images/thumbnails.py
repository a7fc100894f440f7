"""Make thumbnails of image files.

Thumbnails are shown to people, and they are compared to find similar images. Features are never made from thumbnails.
This module needs no TensorFlow.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal

from headstart.features.device import cpu_count
from headstart.features.images.files.reading import bytes_of
from headstart.features.images.opening import open_image
from headstart.features.images.scan import ImageFile
from headstart.features.images.tiff import at_page
from PIL import Image

Mode = Literal["F", "RGB"]  # F: brightness as floating-point numbers, of any range
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation to the operation that undoes it
_AHEAD = 256  # number of images that the threads get at a time


def thumbnails(
    images: Sequence[ImageFile], mode: Mode, side: int, keep_shape: bool = False
) -> Iterator[Image.Image | None]:
    """Yield a small upright copy of each image, in order. Yield None for an image that can't be read or decoded.

    Threads decode on all cores. Transparent images are laid over white.

    Args:
        mode: the mode of the thumbnails; see `Mode`.
        side: the width and height of each thumbnail, in pixels. The image is stretched to this square.
        keep_shape: if true, the image is not stretched, and `side` is the longer side of the thumbnail.
    """
    with ThreadPoolExecutor(cpu_count()) as pool:
        make = partial(_thumbnail, mode=mode, side=side, keep_shape=keep_shape)
        for start in range(0, len(images), _AHEAD):
            yield from pool.map(make, images[start : start + _AHEAD])


def _thumbnail(image: ImageFile, mode: Mode, side: int, keep_shape: bool) -> Image.Image | None:
    try:
        with open_image(at_page(bytes_of(image), image.page)) as picture:
            picture.draft("L" if mode == "F" else "RGB", (2 * side, 2 * side))  # decodes JPEGs at a reduced size
            small = _converted(picture, mode)
            scale = side / max(small.size)
            size = [max(1, round(one * scale)) for one in small.size] if keep_shape else [side, side]
            small = small.resize((size[0], size[1]), Image.Resampling.BILINEAR)
            return small.transpose(_TURNS[image.orientation]) if image.orientation in _TURNS else small
    except Exception:  # Pillow's parsers raise almost anything
        return None


def _converted(picture: Image.Image, mode: Mode) -> Image.Image:
    if picture.mode[0] in "IF":  # more than 8 bits a sample, of an unknown range
        grey = picture.convert("F")
        return (
            grey if mode == "F" else grey.point(lambda value: value * _to_8_bits(grey) + 0).convert("L").convert(mode)
        )
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
        picture = white
    return picture.convert("RGB") if mode == "RGB" else picture.convert("L").convert("F")


def _to_8_bits(grey: Image.Image) -> float:
    highest = max(map(float, grey.getextrema()))  # type: ignore[arg-type] # one band gives two numbers
    return 255 / highest if highest > 255 else 1
