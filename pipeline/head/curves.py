"""TensorBoard's curves of a head, named as Keras's callback names them, so that both phases share their charts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf
from headstart.pipeline.head.loop import OnEpoch, Row


@contextmanager
def writing_curves(folder: Path | None, learning_rate: float) -> Iterator[OnEpoch]:
    """Yield a function for `fit_head` that writes each epoch into `folder/train` and `folder/validation`.

    Args:
        folder: None to write nothing.
    """
    if folder is None:
        yield lambda *_: False
        return
    writers = {name: tf.summary.create_file_writer(str(folder / name)) for name in ("train", "validation")}

    def write(epoch: int, row: Row) -> bool:
        for name, prefix in (("train", ""), ("validation", "val_")):
            with writers[name].as_default():
                for metric in ("loss", "accuracy"):
                    tf.summary.scalar(f"epoch_{metric}", row[prefix + metric], step=epoch - 1)
        with writers["train"].as_default():
            tf.summary.scalar("epoch_learning_rate", learning_rate, step=epoch - 1)
        return False

    try:
        yield write
    finally:
        for writer in writers.values():
            writer.close()
