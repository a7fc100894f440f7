"""The only path from bytes to pixels: decode, EXIF orientation, RGB, resize.

The same graph serves caching, fine-tuning and predicting, so that a feature means the same in all three. JPEG and PNG
are decoded by TensorFlow, and by Pillow where TensorFlow fails. The other formats are Pillow's: of TensorFlow 2.21's
decoders, that of WebP aborts the process on an animation, that of GIF reads all frames and crops those with
transparency, and that of BMP knows no compression.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from PIL import Image

from features.errors import OptionError
from features.headers import open_image
from features.image_files import ImageFile, Reject, why_unreadable

# Part of every fingerprint: raise it when the same file would yield other pixels than before.
PIXELS_VERSION = 2

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_RATIOS = (1, 2, 4, 8)  # what libjpeg divides sides by while it decodes
_PNG_HEAD_BYTES = 1 << 14


@dataclass(frozen=True)
class ImageConfig:
    """How bytes become pixels.

    Args:
        size: side of the square image in pixels, at least 32.
        resize: `stretch` to the square, or `crop` the centre square first.
        truncated: `reject` a JPEG that ends early, or `keep` it with its lower part grey.
    """

    size: int
    resize: Literal["stretch", "crop"] = "stretch"
    truncated: Literal["reject", "keep"] = "reject"

    def __post_init__(self) -> None:
        if self.size < 32:
            raise OptionError(f"--image-size must be at least 32. Received: {self.size}")

    def fingerprint(self) -> dict[str, Any]:
        """The fields that decide what pixels a file yields."""
        return {
            "pixels_version": PIXELS_VERSION,
            "image_size": self.size,
            "resize": self.resize,
            "truncated": self.truncated,
        }


def decode(data: tf.Tensor, orientation: tf.Tensor, config: ImageConfig) -> tf.Tensor:
    """Decode and resize one image inside a graph.

    Resizing is bilinear, and antialiased where the longer side shrinks by more than 2. A large JPEG is decoded at 1/2,
    1/4 or 1/8 of its sides if both are at least `config.size` then.

    Args:
        data: scalar string, the bytes of a file in one of `features.headers.FORMATS`.
        orientation: scalar int32, EXIF orientation 1 to 8.

    Returns:
        uint8 [size, size, 3], RGB, upright; transparency is over white, and of an animation it is the first frame.

    Raises:
        tf.errors.OpError: the bytes can't be decoded.
    """
    pixels = _decode_with_tensorflow(data, config)
    pixels = tf.cond(tf.size(pixels) > 0, lambda: pixels, lambda: _decode_with_pillow(data))
    pixels.set_shape([None, None, 3])
    if config.resize == "crop":
        pixels = _crop_centre(pixels)
    size = (config.size, config.size)
    pixels = tf.cond(
        tf.reduce_max(tf.shape(pixels)) > 2 * config.size,
        lambda: tf.image.resize(pixels, size, method="bilinear", antialias=True),
        lambda: tf.image.resize(pixels, size, method="bilinear"),
    )
    pixels = tf.cast(tf.round(pixels), tf.uint8)
    pixels.set_shape([*size, 3])
    return _turn_upright(pixels, orientation)  # [size, size, 3]


def _decode_with_tensorflow(data: tf.Tensor, config: ImageConfig) -> tf.Tensor:
    """Decode a JPEG or PNG to uint8 [H, W, 3]; [0, 0, 3] is anything else, or one that TensorFlow can't decode.

    An operation that fails stops the graph that it is in, unless it is in a dataset of its own that ignores errors.
    """
    failed = tf.data.Dataset.from_tensors(tf.zeros((0, 0, 3), tf.uint8))

    def decoded() -> tf.Tensor:
        attempt = tf.data.Dataset.from_tensors(data).map(
            lambda data: _decode_jpeg_or_png(data, config), synchronous=True
        )
        attempt = attempt.ignore_errors().concatenate(failed).take(1)
        return attempt.with_options(explicit_options()).get_single_element()

    # Colours declared transparent, which TensorFlow does not know of, come before the pixels.
    head = tf.strings.substr(data, 0, _PNG_HEAD_BYTES)
    is_png = tf.strings.substr(data, 0, len(_PNG_MAGIC)) == _PNG_MAGIC
    is_plain_png = is_png & ~tf.strings.regex_full_match(head, rb"\C*tRNS\C*")
    return tf.cond(tf.io.is_jpeg(data) | is_plain_png, decoded, lambda: tf.zeros((0, 0, 3), tf.uint8))


def _decode_jpeg_or_png(data: tf.Tensor, config: ImageConfig) -> tf.Tensor:
    return tf.cond(tf.io.is_jpeg(data), lambda: _decode_jpeg(data, config), lambda: _decode_png(data))


def _decode_jpeg(data: tf.Tensor, config: ImageConfig) -> tf.Tensor:
    keep = config.truncated == "keep"
    if keep:  # what is cut off within a marker ends with a whole one then
        data = tf.strings.join([data, b"\xff\xd9"])
    shorter = tf.reduce_min(tf.io.extract_jpeg_shape(data)[:2])
    fitting = tf.reduce_sum(tf.cast(shorter // _JPEG_RATIOS >= config.size, tf.int32))

    def at(ratio: int) -> Callable[[], tf.Tensor]:
        return lambda: tf.io.decode_jpeg(
            data, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE", try_recover_truncated=keep
        )

    return tf.switch_case(tf.maximum(fitting - 1, 0), [at(ratio) for ratio in _JPEG_RATIOS])


def _decode_png(data: tf.Tensor) -> tf.Tensor:
    pixels = tf.io.decode_png(data)  # [H, W, 1 to 4]: grey or RGB, the even ones with alpha
    channels = tf.shape(pixels)[2]
    pixels = tf.cond(channels % 2 == 0, lambda: _over_white(pixels), lambda: pixels)
    return tf.cond(channels < 3, lambda: tf.repeat(pixels, 3, axis=2), lambda: pixels)


def _over_white(pixels: tf.Tensor) -> tf.Tensor:
    colour, alpha = tf.cast(pixels[..., :-1], tf.uint16), tf.cast(pixels[..., -1:], tf.uint16)
    return tf.cast((colour * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)


def _decode_with_pillow(data: tf.Tensor) -> tf.Tensor:
    pixels = tf.numpy_function(pillow_pixels, [data], tf.uint8, stateful=False)
    pixels.set_shape([None, None, 3])
    return pixels


def pillow_pixels(data: bytes) -> np.ndarray:
    """Decode any of `features.headers.FORMATS` with Pillow: uint8 [H, W, 3], as stored.

    Raises:
        Exception: whatever Pillow's parsers raise.
    """
    with open_image(data) as picture:
        if picture.mode.startswith("I;16"):
            return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[..., np.newaxis], 3, axis=2)
        if not picture.has_transparency_data:
            return np.asarray(picture.convert("RGB"))
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
        return np.asarray(white.convert("RGB"))


def _crop_centre(pixels: tf.Tensor) -> tf.Tensor:
    height, width = tf.shape(pixels)[0], tf.shape(pixels)[1]
    side = tf.minimum(height, width)
    return tf.image.crop_to_bounding_box(pixels, (height - side) // 2, (width - side) // 2, side, side)


def _turn_upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Undo EXIF orientation: at most a transpose, then at most two flips (Exif 2.3, tag 0x0112)."""
    pixels = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    mirrored = tf.reduce_any(orientation == [2, 3, 6, 7])
    pixels = tf.cond(mirrored, lambda: tf.reverse(pixels, [1]), lambda: pixels)
    upended = tf.reduce_any(orientation == [3, 4, 7, 8])
    return tf.cond(upended, lambda: tf.reverse(pixels, [0]), lambda: pixels)


def decoded_dataset(paths: tf.data.Dataset, config: ImageConfig) -> tf.data.Dataset:
    """Map a dataset of (path, orientation, ...) to (uint8 [size, size, 3], ...), in order, on all cores."""

    def load(path: tf.Tensor, orientation: tf.Tensor, *rest: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return decode(tf.io.read_file(path), orientation, config), *rest

    return paths.map(load, num_parallel_calls=parallelism(), deterministic=True)


def parallelism() -> int:
    """How many files are decoded at a time."""
    return os.cpu_count() or 1


def explicit_options() -> tf.data.Options:
    """Options for every dataset of ours.

    Autotuning is off: its thread sleeps in doubling periods up to 60 s, and destroying an iterator sometimes waits
    that sleep out (TensorFlow 2.21), while all it could tune here is a parallelism that is known.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    return options


def decoded_batches(
    images: Sequence[ImageFile], config: ImageConfig, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (int64 [b] positions in `images`, uint8 [b, size, size, 3]) with b <= `batch_size`.

    An image that can't be decoded is left out of its batch and nothing else changes; `why_undecodable` names it.
    """
    files = tf.data.Dataset.from_tensor_slices(
        (
            [os.fsencode(image.path) for image in images],
            np.array([image.orientation for image in images], np.int32),
            np.arange(len(images)),
        )
    )
    decoded = decoded_dataset(files, config).ignore_errors()
    batches = decoded.batch(batch_size).prefetch(2).with_options(explicit_options())
    for pixels, positions in batches.as_numpy_iterator():
        yield positions, pixels


def why_undecodable(image: ImageFile) -> Reject:
    """The reject for an image that `decoded_batches` left out."""
    if not image.is_unchanged():
        return Reject(image.path, "vanished", "gone or changed since it was scanned")
    try:
        data = Path(image.path).read_bytes()
    except OSError as error:
        fault = why_unreadable(error)
        return Reject(image.path, fault.reason, fault.detail)
    try:
        pillow_pixels(data)
    except Exception as error:  # whatever Pillow says of it is the detail
        said = " ".join(str(error).split()) or type(error).__name__
        return Reject(image.path, "truncated" if "truncated" in said.lower() else "corrupt", said)
    return Reject(image.path, "vanished", "could not be read once, and could be afterwards")
