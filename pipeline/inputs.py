"""Streams with labels: raw images for training, shuffled and augmented, or for evaluation, ordered; cached features."""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from headstart.features.errors import DataError, StoreError
from headstart.features.images.augment import Augment, augment_image
from headstart.features.images.batches import decoded_dataset, explicit_options, file_columns
from headstart.features.images.decode import ImageConfig
from headstart.features.store.store import FeatureStore
from headstart.pipeline.data.examples import Example

BUFFER_BYTES = 256 << 20
_STORE_ERROR = re.compile(rf"\b{StoreError.__name__}: (?P<message>.+)")


def train_dataset(
    examples: Sequence[Example],
    images: ImageConfig,
    batch_size: int,
    augment: Augment,
    seed: int,
    next_epoch: Callable[[], int],
) -> tf.data.Dataset:
    """Batches of (uint8 [b, H, W, 3], int64 [b]) over all `examples`, in an order of their own each epoch.

    Order and augmentation follow from `seed` and the epoch alone, so that training that was cut off goes on as it
    would have.

    Args:
        next_epoch: asked at the start of each pass for the number of the epoch.
    """

    def visits() -> Iterator[tuple[np.int64, np.ndarray]]:
        epoch = next_epoch()
        seeds = np.random.default_rng([seed, epoch, 1]).integers(0, 2**31, size=(len(examples), 2))
        for position in np.random.default_rng([seed, epoch]).permutation(len(examples)):
            yield position, seeds[position]

    table = [tf.constant(column) for column in _columns(examples, images)]

    def columns(position: tf.Tensor, image_seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return *(tf.gather(column, position) for column in table), image_seed

    def augmented(pixels: tf.Tensor, label: tf.Tensor, image_seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return augment_image(pixels, augment, image_seed), label

    order = _generated(visits, len(examples), (tf.TensorSpec((), tf.int64), tf.TensorSpec((2,), tf.int64)))
    return decoded_dataset(order.map(columns), images, batch_size, augmented)


def eval_dataset(examples: Sequence[Example], images: ImageConfig, batch_size: int) -> tf.data.Dataset:
    """Batches of (uint8 [b, H, W, 3], int64 [b]) over all `examples` in their order, the short last one included."""
    return decoded_dataset(tf.data.Dataset.from_tensor_slices(_columns(examples, images)), images, batch_size)


def features_dataset(
    stores: Sequence[FeatureStore],
    examples: Sequence[Example],
    batch_size: int,
    seed: int,
    next_epoch: Callable[[], int],
    buffer_bytes: int = BUFFER_BYTES,
) -> tf.data.Dataset:
    """Batches of (features [b, *shape] in the stored dtype, int64 [b]) of a cut that is too large for memory.

    Shards come in a random order, and examples in a random order within a buffer of `buffer_bytes`; about three times
    that is in memory at a time. Both orders follow from `seed`, the epoch and the store's shards. What fits into one
    buffer comes in the order of `train_dataset`.

    Args:
        stores: of one shape; the epochs take turns with them.
        next_epoch: asked at the start of each pass for the number of the epoch.

    Raises:
        StoreError: not all have features. A shard that turns out damaged in a pass: see `changes_named`.
    """
    digests = [example.image.digest for example in examples]
    for store in stores:
        lacking = store.missing(digests)
        if lacking:
            raise StoreError(f"{store.folder}: no features of {lacking[0]}; run `headstart features`")
    labels = np.array([example.label for example in examples], np.int64)
    form = stores[0].form

    def pieces(epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        store = stores[epoch % len(stores)]
        if len(examples) * form.image_bytes <= buffer_bytes:
            yield np.arange(len(examples)), store.read(digests)
        else:
            shuffled = np.random.default_rng([seed, epoch, 1])
            yield from _buffers(store.stream(digests, shuffled, buffer_bytes // 8), buffer_bytes)

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        epoch = next_epoch()
        rng = np.random.default_rng([seed, epoch])
        positions, features = np.empty(0, np.int64), np.empty((0, *form.shape), form.dtype)
        for more_positions, more_features in pieces(epoch):
            positions = np.concatenate([positions, more_positions])
            features = np.concatenate([features, more_features])
            order = rng.permutation(len(positions))
            whole = len(order) // batch_size * batch_size
            for start in range(0, whole, batch_size):
                batch = order[start : start + batch_size]
                yield features[batch], labels[positions[batch]]
            positions, features = positions[order[whole:]], features[order[whole:]]
        if len(positions):
            yield features, labels[positions]

    signature = (tf.TensorSpec((None, *form.shape), form.dtype), tf.TensorSpec((None,), tf.int64))
    count = -(-len(examples) // batch_size)
    return _generated(batches, count, signature).prefetch(2).with_options(explicit_options())


def _generated(
    generate: Callable[[], Iterator[tuple[Any, ...]]], count: int, signature: tuple[tf.TensorSpec, ...]
) -> tf.data.Dataset:
    """What `generate` yields, `count` tuples a pass of its own.

    TensorFlow's `from_generator` has malloc give memory back to the kernel at once, for good and for the whole process
    (TensorFlow 2.21 sets M_TRIM_THRESHOLD), so that each temporary buffer over 128 KiB is mapped and cleared anew: half
    of the time of a step on a small head.
    """
    numbers = itertools.count()
    passes: dict[int, Iterator[tuple[Any, ...]]] = {}

    def begin() -> np.int64:
        number = next(numbers)
        passes[number] = generate()
        return np.int64(number)

    def element(number: np.int64, step: np.int64) -> tuple[Any, ...]:
        found = next(passes[int(number)])
        if step == count - 1:
            del passes[int(number)]
        return found

    def load(number: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = tf.numpy_function(element, [number, step], [spec.dtype for spec in signature])
        return tuple(tf.ensure_shape(tensor, spec.shape) for tensor, spec in zip(found, signature, strict=True))

    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.range(count).map(lambda step: load(number, step))

    starts = tf.data.Dataset.from_tensors(0).map(lambda _: tf.numpy_function(begin, [], tf.int64))
    return starts.flat_map(one_pass).apply(tf.data.experimental.assert_cardinality(count))


def _buffers(
    pieces: Iterator[tuple[np.ndarray, np.ndarray]], buffer_bytes: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Join pieces until they make `buffer_bytes`."""
    held: list[tuple[np.ndarray, np.ndarray]] = []
    size = 0
    for piece in itertools.chain(pieces, [None]):
        if piece is not None:
            held.append(piece)
            size += piece[1].nbytes
        if held and (piece is None or size >= buffer_bytes):
            positions, rows = zip(*held, strict=True)
            yield np.concatenate(positions), np.concatenate(rows)
            held, size = [], 0


@contextmanager
def changes_named(examples: Sequence[Example]) -> Iterator[None]:
    """Where a pass over `examples` fails because a file went or changed, or a shard is damaged, say which.

    Raises:
        DataError: a file is gone, or is not what was scanned.
        StoreError: of a shard, as the generator of `features_dataset` raised it.
    """
    try:
        yield
    except tf.errors.OpError as error:
        raised = _STORE_ERROR.search(error.message)  # TensorFlow passes on what a generator raises as text only
        if raised:
            raise StoreError(raised["message"]) from error
        check_files(examples)
        raise


def check_files(examples: Sequence[Example]) -> None:
    """Make sure that the files are still those that were scanned.

    Raises:
        DataError: one is gone, or has changed.
    """
    changed = [example.image.path for example in examples if not example.image.is_unchanged()]
    if changed:
        raise DataError(f"{changed[0]}: gone or changed while it was in use ({len(changed)} such files)")


def _columns(examples: Sequence[Example], images: ImageConfig) -> tuple[Any, ...]:
    files = file_columns([example.image for example in examples], images)
    return *files, np.array([example.label for example in examples], np.int64)
