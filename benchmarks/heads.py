"""Phase 1 on cached features, and from nothing, against plain Keras."""

from pathlib import Path

import keras
import numpy as np

from benchmarks.extraction import BATCH, MACS, SIZE
from benchmarks.timing import LastBatch, Row, compare, seconds
from features.backbones import Backbone
from features.image_files import ImageFile
from pipeline.feature_config import FeatureConfig
from pipeline.head import HeadConfig, train_head
from pipeline.phase1 import train_run

EXAMPLES, DIMENSION = 20_000, 2048
EPOCHS = 10


def head_row() -> Row:
    """An epoch of the default head."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(EXAMPLES, DIMENSION)).astype(np.float32)
    labels = rng.integers(0, 2, EXAMPLES)
    val = (features[:64], labels[:64])
    model = keras.Sequential([keras.layers.Dense(1024, "relu"), keras.layers.Dense(1, "sigmoid")])
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    model.fit(features[:BATCH], labels[:BATCH], verbose=0)
    row = Row("head, epochs of 20,000", "epochs/s", "plain fit, batch 32", 3 * EXAMPLES * DIMENSION * 1024)

    def ours() -> float:
        trained = train_head((features, labels), val, 2, HeadConfig(epochs=3))
        return 3 / trained.seconds

    def theirs() -> float:
        return 1 / seconds(lambda: model.fit(features, labels, batch_size=BATCH, verbose=0))

    row.note = "ours with compiling and validation, over three epochs; the baseline without, over one"
    return compare(row, ours, theirs)


def phase1_rows(images: list[ImageFile], data: Path, folder: Path, backbone: Backbone) -> list[Row]:
    """Ten epochs of phase 1, from an empty store and from a full one, against the frozen base in every epoch."""
    labels = np.array([Path(image.path).parent.name == "dog" for image in images])
    pixels = keras.Input((SIZE, SIZE, 3))
    hidden = keras.layers.Dense(1024, "relu")(backbone.features(pixels, ["mixed10"])[0])
    recipe = keras.Model(pixels, keras.layers.Dense(1, "sigmoid")(hidden))
    backbone.model.trainable = False
    recipe.compile("rmsprop", "binary_crossentropy", metrics=["accuracy"])

    def load(path, label):
        import tensorflow as tf

        return tf.image.resize(tf.io.decode_jpeg(tf.io.read_file(path), channels=3), (SIZE, SIZE)), label

    def batches(chosen: slice):
        import tensorflow as tf

        files = tf.data.Dataset.from_tensor_slices(([image.path for image in images[chosen]], labels[chosen]))
        return files.map(load, tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)

    recipe.fit(batches(slice(BATCH)), verbose=0)
    empty = Row("phase 1, ten epochs, empty store", "runs/h", "frozen base in every epoch", MACS * len(images) / 3600)
    full = Row("phase 1, ten epochs, full store", "runs/h", "frozen base in every epoch")
    empty.note = full.note = "the baseline is one epoch, times ten"
    for row, fresh in ((empty, True), (full, False)):

        def ours(row: Row = row, fresh: bool = fresh) -> float:
            store = folder / (f"phase1-{len(row.ours)}" if fresh else "phase1")
            config = FeatureConfig(store=store, weights="random", max_rejects=1)
            return 3600 / seconds(
                lambda: train_run(data, folder / "run", config, HeadConfig(epochs=EPOCHS), overwrite=True)
            )

        def theirs(row: Row = row) -> float:
            last = LastBatch()
            took = seconds(lambda: recipe.fit(batches(slice(None)), verbose=0, callbacks=[last]))
            return 3600 / (EPOCHS * took)

        if not fresh:
            ours()
        compare(row, ours, theirs, rounds=3)
    backbone.model.trainable = True
    return [empty, full]
