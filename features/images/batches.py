"""Many images in parallel: files become batches of pixels, and each file that fails is named."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from headstart.features.device import cpu_count
from headstart.features.images.augment import View, augment_image
from headstart.features.images.decode import PILLOW, ImageConfig, decode, decoder_of, pillow_pixels
from headstart.features.images.faults import Fault
from headstart.features.images.scan import ImageFile, Reject, why_unreadable


def as_decoded(*image: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Return an image and its further columns unchanged."""
    return image


def decoded_dataset(
    files: tf.data.Dataset,
    config: ImageConfig,
    batch_size: int,
    finish: Callable[..., tuple[tf.Tensor, ...]] = as_decoded,
    skip: bool = False,
) -> tf.data.Dataset:
    """Map a dataset of (path, decoder, orientation, ...) to batches of (uint8 [b, size, size, 3], ...), on all cores.

    The order is kept. Images that TensorFlow can't decode go to Pillow once the rest of their batch is done.

    Args:
        finish: applied to each decoded image and its further columns.
        skip: leave out images that Pillow can't read either, instead of failing.
    """

    def load(
        number: tf.Tensor, path: tf.Tensor, decoder: tf.Tensor | int, orientation: tf.Tensor, *rest: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        return number, *finish(decode(tf.io.read_file(path), decoder, orientation, config), *rest)

    def load_with_pillow(number: tf.Tensor, path: tf.Tensor, _: tf.Tensor, *rest: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return load(number, path, PILLOW, *rest)

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
    """The number of files to decode at a time."""
    return cpu_count()


def explicit_options() -> tf.data.Options:
    """Options for every dataset of headstart.

    Autotuning is off: destroying an iterator can wait up to 60 s for its thread (TensorFlow 2.21), and the parallelism
    is known. Rewriting of the graph is off: it copies all data of a dataset into the graph, twice.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    options.deterministic = True
    return options


def decoded_batches(
    images: Sequence[ImageFile], config: ImageConfig, batch_size: int, view: View | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (int64 [b] positions in `images`, uint8 [b, size, size, 3]) with b <= `batch_size`.

    An image that can't be decoded is left out of its batch. `why_undecodable` says why.

    Args:
        view: says how images are augmented; None leaves them as they are.
    """
    if not images:
        return
    columns: tuple[Any, ...] = (*file_columns(images, config), np.arange(len(images)))
    finish: Callable[..., tuple[tf.Tensor, ...]] = as_decoded
    if view is not None:
        columns += (np.array([view.image_seed(image.digest) for image in images]),)

        def finish(pixels: tf.Tensor, position: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return augment_image(pixels, view.augment, seed), position

    files = tf.data.Dataset.from_tensor_slices(columns)
    for pixels, positions in decoded_dataset(files, config, batch_size, finish, skip=True).as_numpy_iterator():
        if len(positions):
            yield positions, pixels


def file_columns(images: Sequence[ImageFile], config: ImageConfig) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Path, decoder (int32) and orientation (int32) of each image: the first columns for `decoded_dataset`."""
    return (
        [os.fsencode(image.path) for image in images],
        np.array([decoder_of(image, config) for image in images], np.int32),
        np.array([image.orientation for image in images], np.int32),
    )


def any_decodes(images: Sequence[ImageFile], config: ImageConfig) -> bool:
    """Whether at least one image can be decoded. Decoding stops at the first that can."""
    return any(True for _ in decoded_batches(images, config, batch_size=1))


def why_undecodable(image: ImageFile) -> Reject:
    """Say why `decoded_batches` left an image out."""
    if not image.is_unchanged():
        return Reject(image.path, "vanished", "gone or changed since it was scanned")
    fault = _fault(image) or Fault("vanished", "could not be read once, and could be afterwards")
    return Reject(image.path, fault.reason, fault.detail)


def _fault(image: ImageFile) -> Fault | None:
    """What is wrong with an image, in Pillow's words; None if Pillow can decode it."""
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
