"""Make datasets of labelled batches, either of images or of cached features."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from headstart.features.digests import hex_digests
from headstart.features.errors import DataError, StoreError
from headstart.features.images.augment import Augment, augment_image
from headstart.features.images.batches import decoded_dataset, explicit_options, file_columns
from headstart.features.images.columns.portionwise import portionwise
from headstart.features.images.files.reading import forget_unread, require_access_kept, why_unread
from headstart.features.images.pixels import ImageConfig
from headstart.features.store.store import FeatureStore
from headstart.features.tensorflow import tf
from headstart.pipeline.data.examples import Example, Examples

NextEpoch = Callable[[], int]
_BLOCK = 256  # examples that are looked up at a time
_Piece = tuple[np.ndarray, np.ndarray]  # positions of examples and their rows; in a batch, rows and labels


def train_dataset(
    examples: Sequence[Example],
    images: ImageConfig,
    batch_size: int,
    augment: Augment,
    seed: int,
    next_epoch: NextEpoch,
) -> tf.data.Dataset:
    """Make a dataset of batches (pixels uint8 [b, H, W, 3], labels int64 [b]), in a new order each epoch.

    An epoch is one pass over `examples`. When an epoch begins, `next_epoch` is called, and returns the epoch's number.
    Order and augmentation depend only on `seed` and on the epoch's number. So a resumed training sees the same batches
    as a training that was never interrupted.
    """

    def visits() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        epoch = next_epoch()
        seeds = np.random.default_rng([seed, epoch, 1]).integers(0, 2**31, size=(len(examples), 2))
        order = np.random.default_rng([seed, epoch]).permutation(len(examples))
        blocks = (order[start : start + _BLOCK] for start in range(0, len(order), _BLOCK))
        return ((block, seeds[block]) for block in blocks)

    table = [tf.constant(column) for column in _columns(examples, images)]

    def columns(positions: tf.Tensor, image_seeds: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return *(tf.gather(column, positions) for column in table), image_seeds

    def augmented(pixels: tf.Tensor, label: tf.Tensor, image_seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return augment_image(pixels, augment, image_seed), label

    blocks = portionwise(visits, (tf.TensorSpec((None,), tf.int64), tf.TensorSpec((None, 2), tf.int64)))
    rows = blocks.map(columns).unbatch().apply(tf.data.experimental.assert_cardinality(len(examples)))
    return decoded_dataset(rows, images, batch_size, augmented)


def eval_dataset(examples: Sequence[Example], images: ImageConfig, batch_size: int) -> tf.data.Dataset:
    """Make a dataset of batches, in the order of `examples`.

    A batch is a pair: pixels (uint8 [b, H, W, 3]) and labels (int64 [b]).
    """
    return decoded_dataset(tf.data.Dataset.from_tensor_slices(_columns(examples, images)), images, batch_size)


def features_dataset(
    stores: Sequence[FeatureStore],
    examples: Sequence[Example],
    batch_size: int,
    seed: int,
    next_epoch: NextEpoch,
    raised: list[Exception] | None = None,
    buffer_bytes: int = 256 << 20,
) -> tf.data.Dataset:
    """Make a dataset of batches (features [b, *shape] in the stored dtype, labels int64 [b]), read from disk.

    Memory use is about three times `buffer_bytes`. If all features fit into `buffer_bytes`, the order of examples is
    the same as in `train_dataset`. If not, shards are read in random order, and examples are shuffled within a buffer.

    Args:
        stores: stores with features of one shape, such as one store per view. Each epoch reads one store, in turn.
        next_epoch: called at the beginning of each epoch; returns the epoch's number.
        raised: a list to which errors in reading are added, such as the StoreError of a damaged shard; see `explained`.

    Raises StoreError if an example has no features.
    """
    digests = Examples.of(examples).digests
    for store in stores:
        if (lacking := store.lacking(digests)).any():
            (first,) = hex_digests(digests[[int(lacking.argmax())]])
            raise StoreError(f"{store.folder}: no features of {first}; run `headstart features`")
    labels, form = _labels(examples), stores[0].form

    def pieces(epoch: int) -> Iterator[_Piece]:
        store = stores[epoch % len(stores)]
        if len(examples) * form.image_bytes <= buffer_bytes:
            yield np.arange(len(examples)), store.read(digests)
        else:
            shuffled = np.random.default_rng([seed, epoch, 1])
            yield from _buffers(store.stream(digests, shuffled, buffer_bytes // 8), buffer_bytes)

    def batches() -> Iterator[_Piece]:
        epoch = next_epoch()
        return _shuffled(pieces(epoch), labels, batch_size, np.random.default_rng([seed, epoch]))

    signature = (tf.TensorSpec((None, *form.shape), form.dtype), tf.TensorSpec((None,), tf.int64))
    count = -(-len(examples) // batch_size)
    counted = portionwise(batches, signature, raised).apply(tf.data.experimental.assert_cardinality(count))
    return counted.prefetch(2).with_options(explicit_options())


def _shuffled(
    pieces: Iterator[_Piece], labels: np.ndarray, batch_size: int, rng: np.random.Generator
) -> Iterator[_Piece]:
    """Shuffle each piece, and yield batches of rows with labels.

    If the last rows of a piece do not fill a batch, these rows are added to the next piece.
    """
    left: _Piece | None = None
    for piece in pieces:
        positions, rows = _joined([left, piece]) if left else piece
        order = rng.permutation(len(positions))
        whole = len(order) // batch_size * batch_size
        for start in range(0, whole, batch_size):
            batch = order[start : start + batch_size]
            yield rows[batch], labels[positions[batch]]
        left = positions[order[whole:]], rows[order[whole:]]
    if left and len(left[0]):
        yield left[1], labels[left[0]]


def _buffers(pieces: Iterator[_Piece], buffer_bytes: int) -> Iterator[_Piece]:
    """Join consecutive pieces into buffers of at least `buffer_bytes` bytes. Only the last buffer may be smaller."""
    held: list[_Piece] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += piece[1].nbytes
        if size >= buffer_bytes:
            yield _joined(held)
            held, size = [], 0
    if held:
        yield _joined(held)


def _joined(pieces: Sequence[_Piece]) -> _Piece:
    positions, rows = zip(*pieces, strict=True)
    return np.concatenate(positions), np.concatenate(rows)


@contextmanager
def explained(examples: Sequence[Example], raised: Sequence[Exception] = ()) -> Iterator[None]:
    """While the context is open, replace an error of TensorFlow by the error that caused it, if the cause is known.

    - If `raised` holds errors, the first of them is raised. `features_dataset` adds errors to this list.
    - If `raised` is empty, a DataError is raised in these cases: access to remote files was lost, a remote file could
      not be read, or a local file of `examples` is gone or has changed.
    - In all other cases, TensorFlow's error is raised.
    """
    forget_unread()
    try:
        yield
    except tf.errors.OpError as error:
        if raised:
            raise raised[0] from error
        require_access_kept()
        if unread := why_unread():
            raise DataError(f"{unread}; repeat the command to go on") from error
        require_unchanged_files(examples)
        raise


def require_unchanged_files(examples: Sequence[Example]) -> None:
    """Raise DataError if a local file of `examples` is gone, or has changed since the scan.

    Remote files and members of tars need no check, because their bytes are compared with the digest whenever they are
    read.
    """
    changed = [example.image.path for example in examples if not example.image.is_unchanged_since_read()]
    if changed:
        raise DataError(f"{changed[0]}: gone or changed while it was in use ({len(changed)} such files)")


def _columns(examples: Sequence[Example], images: ImageConfig) -> tuple[Any, ...]:
    """Return the columns that `file_columns` makes for the N examples, and then their labels, int64 [N]."""
    return *file_columns(Examples.of(examples).images, images), _labels(examples)


def _labels(examples: Sequence[Example]) -> np.ndarray:
    return Examples.of(examples).labels.astype(np.int64)
