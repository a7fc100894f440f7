"""Parallel decoding of image files into batches of pixels, and the reason why a file can't be decoded."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
from headstart.features.device import cpu_count
from headstart.features.images.augment import Augment, View, augment_image
from headstart.features.images.columns.portionwise import portionwise, specs_of
from headstart.features.images.decode import PILLOW, decode, decoder_of, pillow_pixels, reading_of
from headstart.features.images.faults import Fault, why_damaged
from headstart.features.images.files.paths import is_local
from headstart.features.images.files.reading import (
    bytes_of,
    known_fault,
    read_alone,
    read_in_threads,
    read_references,
    reference_of,
    require_access_kept,
    why_unreadable,
)
from headstart.features.images.pixels import ImageConfig
from headstart.features.images.scan import ImageFile, Reject
from headstart.features.libjpeg import silence_libjpeg
from headstart.features.tensorflow import tf

_REASONS_AT_ONCE = 256
Columns = tuple[tf.Tensor, ...]


def decoded_dataset(
    files: tf.data.Dataset,
    config: ImageConfig,
    batch_size: int,
    finish: Callable[..., Columns] = lambda *image: image,
    skip: bool = False,
) -> tf.data.Dataset:
    """Decode `files`, a `tf.data.Dataset`, on all cores. Return a `tf.data.Dataset` of batches in the same order.

    An element of `files` is a tuple (file, decoder, reading, ...) for one image; see `file_columns`. For each image,
    `finish` gets the pixels, uint8 [size, size, 3], and all that follows `reading` in the tuple. By default, `finish`
    returns its arguments. A batch has at most `batch_size` rows, and a column for each value that `finish` returns.

    An image that TensorFlow can't decode is decoded by Pillow. If Pillow can't decode the image either, an error is
    raised. If `skip` is true, the image is left out instead.
    """
    silence_libjpeg()
    plain = _batch_loader(config, batch_size, finish, skip)
    batches = files.batch(batch_size).map(plain, num_parallel_calls=2 + cpu_count() // batch_size)
    return batches.prefetch(2).with_options(explicit_options())


@lru_cache(maxsize=8)  # tracing the graph takes half a second
def _batch_loader(config: ImageConfig, batch_size: int, finish: Callable[..., Columns], skip: bool) -> Any:
    """Return the graph that maps a batch of files to the columns of `decoded_dataset`."""

    def load(
        number: tf.Tensor, file: tf.Tensor, content: tf.Tensor, decoder: Any, reading: tf.Tensor, *rest: tf.Tensor
    ) -> Columns:
        data = tf.cond(tf.strings.length(content) > 0, lambda: content, lambda: _content(file))
        return number, *finish(decode(data, decoder, reading, config), *rest)

    def load_with_pillow(
        number: tf.Tensor, file: tf.Tensor, content: tf.Tensor, _: tf.Tensor, *rest: tf.Tensor
    ) -> Columns:
        return load(number, file, content, PILLOW, *rest)

    def loaded(batch: Sequence[tf.Tensor], load: Callable[..., Columns], skip: bool) -> Columns:
        slices = tf.data.Dataset.from_tensor_slices(tuple(batch))
        images = slices.map(tf.autograph.experimental.do_not_convert(load), num_parallel_calls=cpu_count())
        images = (images.ignore_errors() if skip else images).batch(batch_size)
        none = tf.nest.map_structure(lambda spec: tf.zeros((0, *spec.shape[1:]), spec.dtype), images.element_spec)
        first = images.concatenate(tf.data.Dataset.from_tensors(none)).take(1)
        element: Columns = first.with_options(explicit_options()).get_single_element()
        return element

    def load_batch(*columns: tf.Tensor) -> Columns:
        numbers = tf.range(tf.size(columns[0]))
        columns = (columns[0], _contents(columns[0]), *columns[1:])
        done = loaded((numbers, *columns), load, skip=True)

        def with_pillow() -> Columns:
            left = tf.sets.difference(numbers[tf.newaxis], done[0][tf.newaxis]).values
            again = [left, *(tf.gather(column, left) for column in columns)]
            both = [tf.concat(parts, axis=0) for parts in zip(done, loaded(again, load_with_pillow, skip), strict=True)]
            return tuple(tf.gather(column, tf.argsort(both[0])) for column in both)

        _, *result = tf.cond(tf.size(done[0]) == tf.size(numbers), lambda: done, with_pillow)
        return tuple(result)

    return tf.function(load_batch, autograph=False)


def _content(file: tf.Tensor) -> tf.Tensor:
    """Return the content of a file as a scalar string."""

    def elsewhere() -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(read_alone, [file], tf.string), ())

    return tf.cond(_is_local(file), lambda: tf.io.read_file(file), elsewhere)


def _is_local(files: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(files, 0, 1) != b"\0"


def _contents(files: tf.Tensor) -> tf.Tensor:
    """Return the contents of remote files, a string per file. It is empty if `_content` reads the file later."""

    def read() -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(read_references, [files], tf.string), files.shape)

    return tf.cond(tf.reduce_all(_is_local(files)), lambda: tf.fill(tf.shape(files), b""), read)


def explicit_options() -> tf.data.Options:
    """Return the `tf.data` options that every dataset in headstart uses."""
    options = tf.data.Options()
    options.autotune.enabled = False  # the tuning thread can delay the end of an iterator by 60 s (TensorFlow 2.21)
    options.experimental_optimization.apply_default_optimizations = False  # they copy all data into the graph, twice
    options.deterministic = True
    return options


def decoded_batches(
    images: Sequence[ImageFile],
    config: ImageConfig,
    batch_size: int,
    view: View | None = None,
    portions: Iterable[np.ndarray] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of images: their positions in `images`, int64 [b], and their pixels, uint8 [b, size, size, 3].

    b is at most `batch_size`. An image that can't be decoded is left out; see `why_undecodable`. Raises DataError if
    access to remote images is lost.

    Args:
        view: if given, pixels are augmented.
        portions: yields arrays of positions in `images`, int64 [n]. Only the images at these positions are taken, in
            this order. If None, all images are taken in their order. Another thread iterates over `portions` while
            images are decoded. The iteration must not raise an error.
    """
    if len(images) < 2 and portions is None:
        alone = [_decoded_alone(image, config, view) for image in images]
        yield from ((np.array([0]), pixels[np.newaxis]) for pixels in alone if pixels is not None)
        return

    def columns(positions: np.ndarray) -> tuple[Any, ...]:
        taken = [images[position] for position in positions]
        seeds = [np.array([view.image_seed(image.digest) for image in taken])] if view else []
        return (*file_columns(taken, config), positions, *seeds)

    if portions is None:
        files = tf.data.Dataset.from_tensor_slices(columns(np.arange(len(images))))
    else:
        every = map(columns, portions)
        files = portionwise(lambda: every, specs_of(columns(np.arange(1)))).unbatch()
    finish = _finish(view.augment if view else "none")
    for pixels, positions in decoded_dataset(files, config, batch_size, finish, skip=True).as_numpy_iterator():
        require_access_kept()
        if len(positions):
            yield positions, pixels
    require_access_kept()


def _decoded_alone(image: ImageFile, config: ImageConfig, view: View | None) -> np.ndarray | None:
    """Decode one image. Return uint8 [size, size, 3], or None if the image can't be read or decoded."""
    try:
        data = bytes_of(image)
    except OSError:
        return None

    def pixels(data: tf.Tensor, decoder: int, reading: tf.Tensor) -> tf.Tensor:
        found = decode(data, decoder, reading, config)  # without a graph, whose tracing would take half a second
        return augment_image(found, view.augment, tf.constant(view.image_seed(image.digest))) if view else found

    return _with_its_decoder(data, image, config, pixels)


def decoded_bytes(data: bytes, image: ImageFile, config: ImageConfig) -> np.ndarray | None:
    """Decode `image`, whose file has the bytes `data`. Return uint8 [size, size, 3].

    If the image can't be decoded, return None; see `fault_in`. The pixels are the same as from `decoded_batches`.
    Threads may call this function at the same time. The first call with a `config` takes half a second longer, because
    it traces a graph.
    """
    return _with_its_decoder(data, image, config, _decoder(config))


@lru_cache(maxsize=8)
def _decoder(config: ImageConfig) -> Callable[..., tf.Tensor]:
    """Return a graph that calls `decode` with `config`. The inputs are the other three arguments of `decode`."""

    def load(data: tf.Tensor, decoder: tf.Tensor, reading: tf.Tensor) -> tf.Tensor:
        return decode(data, decoder, reading, config)

    signature = (tf.TensorSpec((), tf.string), tf.TensorSpec((), tf.int32), tf.TensorSpec((3,), tf.int32))
    function: Callable[..., tf.Tensor] = tf.function(load, signature, autograph=False).get_concrete_function()
    return function


def _with_its_decoder(
    data: bytes, image: ImageFile, config: ImageConfig, pixels: Callable[..., tf.Tensor]
) -> np.ndarray | None:
    """Call the function `pixels` to decode an image with the image's own decoder.

    If that decoder fails, call the function again to decode the image with Pillow. If both fail, return None.
    """
    silence_libjpeg()
    content, reading = tf.constant(data), tf.constant(reading_of(image, config))
    for decoder in (decoder_of(image, config), PILLOW):
        try:
            found: np.ndarray = pixels(content, decoder, reading).numpy()
            return found
        except (MemoryError, tf.errors.ResourceExhaustedError):
            raise
        except Exception:  # outside a graph, Pillow's parsers raise almost anything
            continue
    return None


@cache
def _finish(augment: Augment) -> Callable[..., Columns]:
    def finish(pixels: tf.Tensor, position: tf.Tensor, *seed: tf.Tensor) -> Columns:
        return augment_image(pixels, augment, *seed) if seed else pixels, position

    return finish


def file_columns(images: Sequence[ImageFile], config: ImageConfig) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Return the first three columns of the dataset that `decoded_dataset` takes, with one row per image.

    The columns are:
        file: a list of bytes; see `reading.reference_of`.
        decoder: int32 [N]; see `decode.decoder_of`.
        reading: int32 [N, 3]; see `decode.reading_of`.
    """
    return (
        [reference_of(image) for image in images],
        np.array([decoder_of(image, config) for image in images], np.int32),
        np.array([reading_of(image, config) for image in images], np.int32).reshape(-1, 3),
    )


def why_all_undecodable(images: Sequence[ImageFile], stopped: Callable[[], bool] = lambda: False) -> list[Reject]:
    """Return a reject for each of `images`, with the reason why `decoded_batches` left the image out.

    Many files are read at once. If `stopped` returns true, the remaining images get no rejects.
    """
    rejects: list[Reject] = []
    for start in range(0, len(images), _REASONS_AT_ONCE):
        if stopped():
            break
        rejects += read_in_threads(why_undecodable, images[start : start + _REASONS_AT_ONCE])
    return rejects


def why_undecodable(image: ImageFile) -> Reject:
    """Return a reject with the reason why `decoded_batches` left `image` out."""
    if fault := known_fault(image):  # it was tried several times, which may have taken long
        return Reject(image.path, fault.reason, fault.detail)
    same = not is_local(image.file) or image.is_unchanged()  # bytes from elsewhere are compared as they are read
    fault = _fault(image) if same else Fault("vanished", "gone or changed since it was scanned")
    return Reject(image.path, fault.reason, fault.detail)


def _fault(image: ImageFile) -> Fault:
    try:
        data = bytes_of(image)
    except OSError as error:
        return why_unreadable(error)
    return fault_in(data, image) or Fault("vanished", "could not be read once, and could be afterwards")


def fault_in(data: bytes, image: ImageFile) -> Fault | None:
    """Return the reason why the bytes `data` of an image's file can't be decoded, or None if Pillow decodes them."""
    try:
        pillow_pixels(data, image.bits, image.page)
    except Exception as error:  # Pillow's parsers raise almost anything
        return why_damaged(error)
    return None
