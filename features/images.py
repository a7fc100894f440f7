"""The only path from bytes to pixels: decode, EXIF orientation, RGB, resize.

The same graph serves caching, fine-tuning and predicting, so that a feature means the same in all three. JPEG and PNG
are decoded by TensorFlow, and by Pillow where TensorFlow fails. The other formats are Pillow's: of TensorFlow 2.21's
decoders, that of WebP aborts the process on an animation, that of GIF reads all frames and crops those with
transparency, and that of BMP knows no compression.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from PIL import Image

from features.errors import OptionError
from features.headers import Fault, open_image
from features.image_files import ImageFile, Reject, why_unreadable

# Part of every fingerprint: raise it when the same file would yield other pixels than before.
PIXELS_VERSION = 2

_JPEG_RATIOS = (1, 2, 4, 8)  # what libjpeg divides sides by while it decodes


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


def decode(data: tf.Tensor, decoder: tf.Tensor | int, orientation: tf.Tensor, config: ImageConfig) -> tf.Tensor:
    """Decode and resize one image inside a graph.

    Resizing is bilinear, and antialiased where the longer side still shrinks by more than 2.

    Args:
        data: scalar string, the bytes of a file in one of `features.headers.FORMATS`.
        decoder: scalar int32, what `decoder_of` says.
        orientation: scalar int32, EXIF orientation 1 to 8.

    Returns:
        uint8 [size, size, 3], RGB, upright; transparency is over white, and of an animation it is the first frame.

    Raises:
        tf.errors.OpError: this decoder can't decode the bytes.
    """
    if isinstance(decoder, int):
        pixels = _DECODERS[decoder](data, config)
    else:
        pixels = tf.switch_case(decoder, [partial(read, data, config) for read in _DECODERS])
    pixels.set_shape([None, None, 3])
    if config.resize == "crop":
        pixels = _crop_centre(pixels)
    pixels = tf.cond(
        tf.reduce_max(tf.shape(pixels)) > 2 * config.size,
        lambda: _resize(pixels, config.size, antialias=True),
        lambda: _resize(pixels, config.size),
    )
    pixels = tf.cond(orientation == 1, lambda: pixels, lambda: _turn_upright(pixels, orientation))
    pixels.set_shape([config.size, config.size, 3])
    return pixels


def decoder_of(image: ImageFile, config: ImageConfig) -> int:
    """Which decoder reads an image: an index into `_DECODERS`.

    A large JPEG is decoded at 1/2, 1/4 or 1/8 of its sides if both are at least `config.size` then.
    """
    if image.format == "JPEG":
        shorter = min(image.width, image.height)
        return max((index for index, ratio in enumerate(_JPEG_RATIOS) if shorter // ratio >= config.size), default=0)
    return _PNG if image.format == "PNG" else _PILLOW


def _decode_jpeg(data: tf.Tensor, config: ImageConfig, ratio: int) -> tf.Tensor:
    keep = config.truncated == "keep"
    if keep:  # what is cut off within a marker then ends with a whole one
        data = tf.strings.join([data, b"\xff\xd9"])
    return tf.io.decode_jpeg(data, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE", try_recover_truncated=keep)


def _decode_png(data: tf.Tensor, config: ImageConfig) -> tf.Tensor:
    # Of a colour that is declared transparent TensorFlow knows nothing.
    declared = tf.strings.regex_full_match(data, rb"\C*tRNS\C*")
    with tf.control_dependencies([tf.debugging.Assert(~declared, ["transparent colours"])]):
        pixels = tf.io.decode_png(data)  # [H, W, 1 to 4]: grey or RGB, the even ones with alpha
    channels = tf.shape(pixels)[2]
    pixels = tf.cond(channels % 2 == 0, lambda: _over_white(pixels), lambda: pixels)
    return tf.cond(channels < 3, lambda: tf.repeat(pixels, 3, axis=2), lambda: pixels)


def _over_white(pixels: tf.Tensor) -> tf.Tensor:
    colour, alpha = tf.cast(pixels[..., :-1], tf.uint16), tf.cast(pixels[..., -1:], tf.uint16)
    return tf.cast((colour * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)


def _decode_with_pillow(data: tf.Tensor, config: ImageConfig) -> tf.Tensor:
    return tf.numpy_function(pillow_pixels, [data], tf.uint8, stateful=False)


_DECODERS: tuple[Callable[[tf.Tensor, ImageConfig], tf.Tensor], ...] = (
    *(partial(_decode_jpeg, ratio=ratio) for ratio in _JPEG_RATIOS),
    _decode_png,
    _decode_with_pillow,
)
_PNG, _PILLOW = len(_DECODERS) - 2, len(_DECODERS) - 1


def pillow_pixels(data: bytes) -> np.ndarray:
    """Decode any of `features.headers.FORMATS` with Pillow: uint8 [H, W, 3], as stored.

    Raises:
        Exception: whatever Pillow's parsers raise.
    """
    with open_image(data) as picture:
        if picture.mode.startswith("I"):  # 16 bits a sample
            return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[..., np.newaxis], 3, axis=2)
        if not picture.has_transparency_data:
            return np.asarray(picture.convert("RGB"))
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
        return np.asarray(white.convert("RGB"))


def _resize(pixels: tf.Tensor, size: int, antialias: bool = False) -> tf.Tensor:
    return tf.cast(tf.round(tf.image.resize(pixels, (size, size), "bilinear", antialias=antialias)), tf.uint8)


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


def decoded_dataset(
    files: tf.data.Dataset,
    config: ImageConfig,
    batch_size: int,
    finish: Callable[..., tuple[tf.Tensor, ...]] = lambda *image: image,
    skip: bool = False,
) -> tf.data.Dataset:
    """Map a dataset of (path, decoder, orientation, ...) to batches of (uint8 [b, size, size, 3], ...), on all cores.

    The order is kept. What its decoder can't read goes to Pillow's, once the rest of its batch is done: an operation
    that fails ends the dataset it is in, and to catch that for every image would cost a fifth of the speed.

    Args:
        finish: applied to each decoded image and what came with it.
        skip: leave images out that Pillow can't read either, rather than fail.
    """

    def load(
        number: tf.Tensor, path: tf.Tensor, decoder: tf.Tensor | int, orientation: tf.Tensor, *rest: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        return number, *finish(decode(tf.io.read_file(path), decoder, orientation, config), *rest)

    def load_with_pillow(number: tf.Tensor, path: tf.Tensor, _: tf.Tensor, *rest: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return load(number, path, _PILLOW, *rest)

    def loaded(
        batch: Sequence[tf.Tensor], load: Callable[..., tuple[tf.Tensor, ...]], skip: bool
    ) -> tuple[tf.Tensor, ...]:
        slices = tf.data.Dataset.from_tensor_slices(tuple(batch))
        images = slices.map(tf.autograph.experimental.do_not_convert(load), num_parallel_calls=parallelism())
        images = (images.ignore_errors() if skip else images).batch(batch_size)
        none = tf.nest.map_structure(lambda spec: tf.zeros((0, *spec.shape[1:]), spec.dtype), images.element_spec)
        first = images.concatenate(tf.data.Dataset.from_tensors(none)).take(1)
        element: tuple[tf.Tensor, ...] = first.with_options(explicit_options()).get_single_element()
        return element

    def load_batch(path: tf.Tensor, *rest: tf.Tensor) -> tuple[tf.Tensor, ...]:
        numbers = tf.range(tf.size(path))
        done = loaded((numbers, path, *rest), load, skip=True)

        def with_pillow() -> tuple[tf.Tensor, ...]:
            left = tf.sets.difference(numbers[tf.newaxis], done[0][tf.newaxis]).values
            again = [left, *(tf.gather(column, left) for column in (path, *rest))]
            both = [tf.concat(parts, axis=0) for parts in zip(done, loaded(again, load_with_pillow, skip), strict=True)]
            return tuple(tf.gather(column, tf.argsort(both[0])) for column in both)

        _, *columns = tf.cond(tf.size(done[0]) == tf.size(path), lambda: done, with_pillow)
        return tuple(columns)

    plain = tf.autograph.experimental.do_not_convert(load_batch)
    batches = files.batch(batch_size).map(plain, num_parallel_calls=2 + parallelism() // batch_size)
    return batches.prefetch(2).with_options(explicit_options())


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
    if not images:
        return
    files = tf.data.Dataset.from_tensor_slices((*file_columns(images, config), np.arange(len(images))))
    for pixels, positions in decoded_dataset(files, config, batch_size, skip=True).as_numpy_iterator():
        if len(positions):
            yield positions, pixels


def file_columns(images: Sequence[ImageFile], config: ImageConfig) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Path, decoder (int32) and orientation (int32) of each image, as `decoded_dataset` takes them."""
    return (
        [os.fsencode(image.path) for image in images],
        np.array([decoder_of(image, config) for image in images], np.int32),
        np.array([image.orientation for image in images], np.int32),
    )


def can_decode(image: ImageFile, config: ImageConfig) -> bool:
    """Whether an image can be read, as far as Pillow knows; a JPEG that ends early and is to be kept, too."""
    fault = _fault(image)
    return fault is None or (fault.reason == "truncated" and config.truncated == "keep")


def why_undecodable(image: ImageFile) -> Reject:
    """The reject for an image that `decoded_batches` left out."""
    if not image.is_unchanged():
        return Reject(image.path, "vanished", "gone or changed since it was scanned")
    fault = _fault(image) or Fault("vanished", "could not be read once, and could be afterwards")
    return Reject(image.path, fault.reason, fault.detail)


def _fault(image: ImageFile) -> Fault | None:
    """What is wrong with an image, as Pillow puts it."""
    try:
        data = Path(image.path).read_bytes()
    except OSError as error:
        return why_unreadable(error)
    try:
        pillow_pixels(data)
    except Exception as error:  # whatever its parsers raise
        said = " ".join(str(error).split()) or type(error).__name__
        return Fault("truncated" if "truncated" in said.lower() else "corrupt", said)
    return None
