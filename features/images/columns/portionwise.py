"""Makes a `tf.data.Dataset` from an iterator that yields several rows at a time."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from headstart.features.tensorflow import tf


def portionwise(
    begin: Callable[[], Iterator[tuple[Any, ...]]],
    specs: Sequence[tf.TensorSpec],
    raised: list[Exception] | None = None,
) -> tf.data.Dataset:
    """Return a `tf.data.Dataset` whose elements are the portions that the iterator `begin()` yields.

    A portion is a tuple of columns with the same number of rows, at least one. `specs` has the shape and dtype of each
    column. Each new iteration over the dataset calls `begin` again, and ends an earlier iteration. TensorFlow replaces
    an error of the iterator by an error of its own. The original error is therefore appended to the list `raised`.
    """
    # TensorFlow's `from_generator` would slow down the whole process: TensorFlow 2.21 sets malloc's M_TRIM_THRESHOLD,
    # and the kernel then maps and clears every temporary buffer over 128 KiB again.
    none = tuple(np.zeros((0, *spec.shape[1:]), spec.dtype.as_numpy_dtype) for spec in specs)
    numbers = itertools.count()
    passes: dict[int, Iterator[tuple[Any, ...]]] = {}

    def start() -> np.int64:
        number = next(numbers)
        passes.clear()
        passes[number] = begin()
        return np.int64(number)

    def portion(number: np.int64) -> tuple[Any, ...]:
        try:
            found = next(passes[int(number)], none)
        except Exception as error:
            if raised is not None:
                raised.append(error)
            raise
        if found is none:
            del passes[int(number)]
        return found

    def load(number: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = tf.numpy_function(portion, [number], [spec.dtype for spec in specs])
        return tuple(tf.ensure_shape(column, spec.shape) for column, spec in zip(found, specs, strict=True))

    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        loaded = tf.data.Dataset.counter().map(lambda _: load(number))
        return loaded.take_while(lambda *columns: tf.shape(columns[-1])[0] > 0)

    starts = tf.data.Dataset.from_tensors(0).map(lambda _: tf.numpy_function(start, [], tf.int64))
    return starts.flat_map(tf.autograph.experimental.do_not_convert(one_pass))


def specs_of(portion: tuple[Any, ...]) -> list[tf.TensorSpec]:
    """Return `specs` for `portionwise`: the dtypes and shapes of the columns of `portion`.

    In the shapes, the number of rows is open.
    """
    return [tf.TensorSpec((None, *column.shape[1:]), column.dtype) for column in map(tf.constant, portion)]
