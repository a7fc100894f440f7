"""Conversion of one file's bytes to pixels: decode, resize, turn upright. For many files, see `images.batches`.

Caching, fine-tuning and predicting all use this code, so that they see the same pixels. TensorFlow decodes JPEG and
PNG, with two exceptions: files that TensorFlow can't decode, and PNGs whose 16-bit samples use fewer than 16 bits.
Pillow decodes these files and all other formats. See decision 15 in ARCHITECTURE.md.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from headstart.features.images.depth import eight_bits
from headstart.features.images.opening import open_image
from headstart.features.images.pixels import ImageConfig
from headstart.features.images.scan import ImageFile
from headstart.features.images.tiff import at_page
from headstart.features.tensorflow import tf
from PIL import Image

_GREY = 128  # the value of the bars with which `pad` makes an image square
JPEG_RATIOS = (1, 2, 4, 8)  # libjpeg can divide both sides by one of these while it decodes


def decode(data: tf.Tensor, decoder: tf.Tensor | int, reading: tf.Tensor, config: ImageConfig) -> tf.Tensor:
    """Decode and resize one image, within a TensorFlow graph or outside. Return uint8 [size, size, 3], RGB, upright.

    Transparent images are laid over white. Only the first frame of an animation is used. Resizing is bilinear, and
    antialiased if the longer side shrinks to less than half.

    Raises a tf.errors.OpError if `data` can't be decoded. Outside a graph, Pillow may raise another error, of almost
    any type.

    Args:
        data: scalar string, the bytes of a file in one of `opening.FORMATS`.
        decoder: an int or a scalar int32, the result of `decoder_of`.
        reading: int32 [3], the result of `reading_of`.
    """
    if isinstance(decoder, int):
        pixels = _DECODERS[decoder](data, reading, config)
    else:
        pixels = tf.switch_case(decoder, [partial(read, data, reading, config) for read in _DECODERS])
    pixels.set_shape([None, None, 3])
    if config.resize == "crop":
        pixels = _crop_centre(pixels)
    sides = tf.shape(pixels)[:2]
    size = _fitting(sides, config.size) if config.resize == "pad" else tf.constant([config.size, config.size])
    resize = partial(_resize, pixels, size)
    pixels = tf.cond(tf.reduce_max(sides) > 2 * config.size, partial(resize, antialias=True), resize)
    orientation = reading[0]
    pixels = tf.cond(orientation == 1, lambda: pixels, lambda: _turn_upright(pixels, orientation))
    if config.resize == "pad":
        pixels = _pad(pixels, config.size)
    pixels.set_shape([config.size, config.size, 3])
    return pixels


def decoder_of(image: ImageFile, config: ImageConfig) -> int:
    """Return the decoder of an image, an index into `_DECODERS`.

    A JPEG is decoded at 1/1, 1/2, 1/4 or 1/8 of its size. The smallest size whose shorter side has at least
    `config.size` pixels is chosen, or else 1/1. For example, a JPEG of 1000 x 500 pixels is decoded at 1/2 for the size
    224. If `config.resize` is `pad`, the longer side counts.
    """
    if image.format == "JPEG":
        side = (max if config.resize == "pad" else min)(image.width, image.height)
        return max((index for index, ratio in enumerate(JPEG_RATIOS) if side // ratio >= config.size), default=0)
    whole = config.bits_of(image.bits) in (0, 16)  # TensorFlow takes the higher 8 bits of 16
    return PNG if image.format == "PNG" and whole else PILLOW


def reading_of(image: ImageFile, config: ImageConfig) -> tuple[int, int, int]:
    """Return three numbers that say how to read an image.

    The numbers are:
        the EXIF orientation, 1 to 8.
        the number of bits that 16-bit samples use, 8 to 16, or 0; see `ImageConfig.bits_of`.
        the number of the page, counted from 1.
    """
    return image.orientation, config.bits_of(image.bits), image.page


def _decode_jpeg(data: tf.Tensor, _: tf.Tensor, config: ImageConfig, ratio: int) -> tf.Tensor:
    keep = config.truncated == "keep"
    if keep:  # the file may end within a marker: append a whole marker
        data = tf.strings.join([data, b"\xff\xd9"])
    return tf.io.decode_jpeg(data, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE", try_recover_truncated=keep)


def _decode_png(data: tf.Tensor, _: tf.Tensor, config: ImageConfig) -> tf.Tensor:
    # TensorFlow ignores the tRNS chunk that declares a colour transparent. Such a file fails here, and goes to Pillow.
    declared = tf.strings.regex_full_match(data, rb"\C*tRNS\C*")
    with tf.control_dependencies([tf.debugging.Assert(~declared, ["transparent colours"])]):
        pixels = tf.io.decode_png(data)  # [H, W, 1 to 4]: grey or RGB; an even number of channels includes alpha
    channels = tf.shape(pixels)[2]
    pixels = tf.cond(channels % 2 == 0, lambda: _over_white(pixels), lambda: pixels)
    return tf.cond(channels < 3, lambda: tf.repeat(pixels, 3, axis=2), lambda: pixels)


def _over_white(pixels: tf.Tensor) -> tf.Tensor:
    colour, alpha = tf.cast(pixels[..., :-1], tf.uint16), tf.cast(pixels[..., -1:], tf.uint16)
    return tf.cast((colour * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)


def _decode_with_pillow(data: tf.Tensor, reading: tf.Tensor, config: ImageConfig) -> tf.Tensor:
    return tf.numpy_function(_with_pillow, [data, reading[1], reading[2]], tf.uint8, stateful=False)


def _with_pillow(data: Any, bits: int, page: int) -> np.ndarray:
    return pillow_pixels(data if isinstance(data, bytes) else data.item(), bits, page)  # outside a graph: an array


_DECODERS: tuple[Callable[[tf.Tensor, tf.Tensor, ImageConfig], tf.Tensor], ...] = (
    *(partial(_decode_jpeg, ratio=ratio) for ratio in JPEG_RATIOS),
    _decode_png,
    _decode_with_pillow,
)
PNG, PILLOW = len(_DECODERS) - 2, len(_DECODERS) - 1


def pillow_pixels(data: bytes, bits: int = 0, page: int = 1) -> np.ndarray:
    """Decode a file with Pillow. Return uint8 [H, W, 3], RGB.

    The file may have any format in `opening.FORMATS`. EXIF orientation is not applied. If the file is damaged, Pillow
    may raise an exception of almost any type. For `bits` and `page`, see `reading_of`.
    """
    data = at_page(data, page)
    if bits not in (0, 16):
        return _rgb(eight_bits(data, bits))
    with open_image(data) as picture:
        if picture.mode.startswith("I"):  # 16 bits per sample
            return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[..., np.newaxis], 3, axis=2)
        return _rgb(picture)


def _rgb(picture: Image.Image) -> np.ndarray:
    """Return the pixels, uint8 [H, W, 3], of an image with 8 bits per sample. Transparent parts become white."""
    if not picture.has_transparency_data:
        return np.asarray(picture.convert("RGB"))
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture.convert("RGBA"))
    return np.asarray(white.convert("RGB"))


def _resize(pixels: tf.Tensor, size: tf.Tensor, antialias: bool = False) -> tf.Tensor:
    return tf.cast(tf.round(tf.image.resize(pixels, size, "bilinear", antialias=antialias)), tf.uint8)


def _fitting(sides: tf.Tensor, size: int) -> tf.Tensor:
    """Return `sides`, int32 [2], scaled so that the longer side is `size`. Each side is at least 1."""
    return tf.maximum(tf.cast(tf.round(sides * size / tf.reduce_max(sides)), tf.int32), 1)


def _pad(pixels: tf.Tensor, size: int) -> tf.Tensor:
    """Put an image, uint8 [H, W, 3], in the middle of a grey square. Return the square, uint8 [size, size, 3]."""
    missing = size - tf.shape(pixels)[:2]
    before = missing // 2
    paddings = tf.stack([before, missing - before], axis=1)
    return tf.pad(pixels, tf.concat([paddings, [[0, 0]]], axis=0), constant_values=_GREY)


def _crop_centre(pixels: tf.Tensor) -> tf.Tensor:
    height, width = tf.shape(pixels)[0], tf.shape(pixels)[1]
    side = tf.minimum(height, width)
    return tf.image.crop_to_bounding_box(pixels, (height - side) // 2, (width - side) // 2, side, side)


def _turn_upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Return an image, [H, W, 3], turned upright. `orientation` is its EXIF orientation (Exif 2.3, tag 0x0112)."""
    pixels = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    mirrored = tf.reduce_any(orientation == [2, 3, 6, 7])
    pixels = tf.cond(mirrored, lambda: tf.reverse(pixels, [1]), lambda: pixels)
    upended = tf.reduce_any(orientation == [3, 4, 7, 8])
    return tf.cond(upended, lambda: tf.reverse(pixels, [0]), lambda: pixels)
