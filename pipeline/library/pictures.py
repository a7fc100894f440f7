"""Write Pillow images and NumPy arrays to temporary files, so that they can be read like any other image file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.errors import DataError, OptionError
from headstart.pipeline.library.arguments import path_text
from PIL import Image, ImageOps

_AS_THEY_ARE = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # modes that PNG holds
_LIKE = {  # other modes, each with the mode into which Pillow converts it without loss of transparency
    **dict.fromkeys(("CMYK", "YCbCr", "LAB", "HSV", "RGBX"), "RGB"),
    **{"PA": "RGBA", "RGBa": "RGBA", "La": "LA"},
}


@contextmanager
def on_disk(images: Sequence[Any]) -> Iterator[tuple[list[Path], dict[str, str]]]:
    """Write Pillow images and arrays to temporary PNG files, which are removed at the end of the context.

    Yields two things:

    - the paths of all images, in order. An image that is given by its path stays where it is.
    - a dict from the path of each temporary file to the name that predictions and errors show. `images[3]` has the name
      `image 3`.

    Raises:
        OptionError: for an empty path, for an array that is not uint8 [H, W, 3] or [H, W], and for any other object
            that is no image.
        DataError: for an image without pixels, an image that can't be decoded, and a Pillow image whose mode has no
            known range, such as `F` (32-bit floating point).
    """
    paths, names = list[Path](), dict[str, str]()
    with tempfile.TemporaryDirectory(prefix="headstart-") as folder:
        for number, image in enumerate(images):
            name = f"image {number}"
            if isinstance(image, str | os.PathLike):
                paths.append(Path(path_text(name, image)))
                continue
            file = Path(folder) / f"{number}.png"
            _picture(image, name).save(file, compress_level=1)
            paths.append(file)
            names[str(file)] = name
        yield paths, names


def listed(images: Any) -> list[Any]:
    """Return `images` as a list. A single image becomes a list with one element.

    An array [N, H, W, 3] becomes a list of N arrays, and an array of paths becomes a list of paths.
    """
    if isinstance(images, str | bytes | os.PathLike | Image.Image):
        return [images]
    if isinstance(images, np.ndarray):
        if images.dtype.kind in "UO":
            return list(images.ravel().tolist())
        return list(images) if images.ndim == 4 else [images]
    try:
        return list(images)
    except TypeError:
        return [images]


def _picture(image: Any, name: str) -> Image.Image:
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise DataError(f"{name}: has no pixels")
        try:
            upright = ImageOps.exif_transpose(image)
            upright.load()
        except (OSError, SyntaxError, ValueError) as error:  # Pillow reads the pixels of an opened file only now
            raise DataError(f"{name}: can't be decoded ({' '.join(str(error).split())[:200]})") from error
        if upright.mode in _AS_THEY_ARE:
            return upright
        if upright.mode in _LIKE:
            return upright.convert(_LIKE[upright.mode])
        if upright.mode.startswith("I;16"):  # in another byte order
            return Image.fromarray(np.asarray(upright).astype(np.uint16))
        raise DataError(
            f"{name}: is a Pillow image of mode {image.mode}, whose range is not known; give the path of a file, or "
            "scale its values to 0 to 255 and convert it to L"
        )
    if not isinstance(image, np.ndarray):
        raise OptionError(f"{name}: must be a path, a Pillow image or an array. Received: {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise OptionError(
            f"{name}: an array must be uint8 [H, W, 3], RGB from 0 to 255. Received: {image.dtype} {list(image.shape)}"
        )
    if not image.size:
        raise DataError(f"{name}: has no pixels")
    return Image.fromarray(np.ascontiguousarray(image))
