"""Phase 1 on cached features, and from nothing, against plain Keras."""

import itertools
from pathlib import Path

import keras
import numpy as np
from headstart.features.backbones.backbone import Backbone
from headstart.features.backbones.cuts import Cut
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.frozen.precision import resolve_precision
from headstart.features.images.scan import ImageFile
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.head import fit_head
from headstart.pipeline.head.run import train_run
from headstart.pipeline.labelled import LabelledFeatures

from benchmarks.extraction import BATCH, MACS, SIZE, keras_files
from benchmarks.timing import Row, Stalls, in_turns, seconds

EXAMPLES, DIMENSION = 20_000, 2048
EPOCHS = 10
MACS_OF_HEAD = 2 * DIMENSION * 1024  # an example: forward, and the gradient of the one large weight


def head_row() -> Row:
    """An epoch of the default head."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(EXAMPLES, DIMENSION)).astype(np.float32)
    labels = rng.integers(0, 2, EXAMPLES)
    columns = {Cut("inception_v3", "mixed10"): slice(0, DIMENSION)}
    reduced = resolve_precision("auto") == "bfloat16"
    train = LabelledFeatures(features, labels, 2, columns, reduced=reduced)
    model = keras.Sequential([keras.layers.Dense(1024, "relu"), keras.layers.Dense(1, "sigmoid")])
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    model.fit(features[:BATCH], labels[:BATCH], verbose=0)

    def ours() -> float:
        trained = fit_head(train, train.take(slice(0, 64)), HeadConfig(epochs=EPOCHS))
        return EPOCHS / trained.seconds

    stalls = Stalls()

    def theirs() -> float:
        return stalls.timed(1, lambda last: model.fit(features, labels, batch_size=BATCH, verbose=0, callbacks=[last]))

    found = in_turns({"ours": ours, "theirs": theirs})
    note = "ours with compiling and validation, over ten epochs; the baseline without, over one, in float32"
    note += "; ours multiplies in bfloat16" if reduced else ""
    macs = EXAMPLES * MACS_OF_HEAD
    return Row("head, epochs of 20,000", "epochs/s", "plain fit, batch 32", **found, macs=macs, note=note, keras=stalls)


def frozen_base(backbone: Backbone) -> keras.Model:
    """The original recipe: a head on a frozen network, in one model; it leaves the network frozen."""
    pixels = keras.Input((SIZE, SIZE, 3))
    hidden = keras.layers.Dense(1024, "relu")(backbone.features(pixels, backbone.cuts()[-1:])[0])
    model = keras.Model(pixels, keras.layers.Dense(1, "sigmoid")(hidden))
    backbone.model.trainable = False
    model.compile("rmsprop", "binary_crossentropy", metrics=["accuracy"])
    return model


def phase1_rows(images: list[ImageFile], data: Path, folder: Path, backbone: Backbone) -> list[Row]:
    """Ten epochs of phase 1, from an empty store and from a full one, against the frozen base in every epoch."""
    labels = np.array([Path(image.path).parent.name == "dog" for image in images])
    recipe = frozen_base(backbone)
    recipe.fit(keras_files(images[:BATCH], labels[:BATCH]), verbose=0)
    numbers = itertools.count()
    stalls = Stalls()

    def ours(fresh: bool) -> float:
        store = folder / (f"phase1-{next(numbers)}" if fresh else "phase1")
        config, extraction = FeatureConfig(weights="random"), ExtractionConfig(store=store, max_rejects=1)
        head = HeadConfig(epochs=EPOCHS)
        return 3600 / seconds(lambda: train_run(data, folder / "run", config, extraction, head, overwrite=True))

    def theirs() -> float:
        return stalls.timed(
            3600 / EPOCHS, lambda last: recipe.fit(keras_files(images, labels), verbose=0, callbacks=[last])
        )

    ours(fresh=False)
    found = in_turns({"empty": lambda: ours(True), "full": lambda: ours(False), "recipe": theirs}, rounds=3)
    backbone.model.trainable = True
    head = EPOCHS * MACS_OF_HEAD
    return [
        Row(
            f"phase 1, ten epochs of {len(images)} images, {store} store", "runs/h", "frozen base in every epoch",
            found[store], found["recipe"], macs / 3600, note="the baseline is one epoch, times ten", keras=stalls,
        )
        for store, macs in (("empty", len(images) * (MACS + head)), ("full", len(images) * head))
    ]  # fmt: skip
