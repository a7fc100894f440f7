"""The only path from bytes to pixels: decode, EXIF orientation, RGB, resize.

The same graph serves caching, fine-tuning and predicting, so that a feature means the same in all three.
"""

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from PIL import Image

from features.errors import OptionError
from features.headers import ImageFile, Reject

# Part of every fingerprint: raise it when the same file would yield other pixels than before.
PIXELS_VERSION = 1


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

    Args:
        data: scalar string, the bytes of a JPEG, PNG, GIF (its first frame) or BMP file.
        orientation: scalar int32, EXIF orientation 1 to 8.

    Returns:
        uint8 [size, size, 3], RGB, upright.

    Raises:
        tf.errors.InvalidArgumentError: the bytes can't be decoded.
    """
    pixels = tf.cond(
        tf.io.is_jpeg(data),
        lambda: tf.io.decode_jpeg(data, channels=3, try_recover_truncated=config.truncated == "keep"),
        lambda: tf.io.decode_image(data, channels=3, expand_animations=False),
    )
    pixels.set_shape([None, None, 3])
    if config.resize == "crop":
        pixels = _crop_centre(pixels)
    pixels = tf.image.resize(pixels, (config.size, config.size), method="bilinear")
    pixels = tf.cast(tf.round(pixels), tf.uint8)
    return _turn_upright(pixels, orientation)  # [size, size, 3]


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
            [image.path for image in images],
            np.array([image.orientation for image in images], np.int32),
            np.arange(len(images)),
        )
    )
    decoded = decoded_dataset(files, config).ignore_errors()
    batches = decoded.batch(batch_size).prefetch(2).with_options(explicit_options())
    for pixels, positions in batches.as_numpy_iterator():
        yield positions, pixels


def why_undecodable(image: ImageFile, config: ImageConfig) -> Reject:
    """The reject for an image that `decoded_batches` left out."""
    if not image.is_unchanged():
        return Reject(image.path, "vanished", "gone or changed since it was scanned")
    try:
        data = tf.io.read_file(image.path)
    except tf.errors.OpError as error:
        return Reject(image.path, "unreadable", _first_line(error))
    try:
        decode(data, tf.constant(image.orientation), config)
    except tf.errors.OpError as error:
        said = _first_line(error)
    else:
        return Reject(image.path, "vanished", "could not be read once, and could be afterwards")
    try:
        with Image.open(io.BytesIO(data.numpy())) as picture:
            picture.load()
    except Exception as error:  # whatever Pillow says of it is the detail
        return Reject(image.path, "truncated" if "truncated" in str(error) else "corrupt", str(error))
    return Reject(image.path, "unsupported", said)


def _first_line(error: tf.errors.OpError) -> str:
    return str(error.message).strip().splitlines()[0]
