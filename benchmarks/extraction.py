"""From JPEG files to features, against what else could do it."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from headstart.features.backbones.backbone import Backbone
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.frozen.precision import resolve_precision
from headstart.features.images.batches import decoded_batches
from headstart.features.images.pixels import ImageConfig
from headstart.features.images.scan import ImageFile
from headstart.pipeline.featured import cache_features

from benchmarks.engines import openvino_fed
from benchmarks.timing import Row, Stalls, in_turns, seconds

MACS = 5.71e9  # of InceptionV3 at 299 x 299
BATCH = 32
SIZE = 299


def keras_files(images: list[ImageFile], *labels: np.ndarray) -> tf.data.Dataset:
    """What a Keras user writes: decode, resize, batch, all by autotuning."""

    def load(path: tf.Tensor, *label: tf.Tensor) -> Any:
        pixels = tf.image.resize(tf.io.decode_jpeg(tf.io.read_file(path), channels=3), (SIZE, SIZE))
        return (pixels, *label) if label else pixels

    files = tf.data.Dataset.from_tensor_slices(([image.path for image in images], *labels))
    return files.map(load, tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)


def extraction_rows(images: list[ImageFile], data: Path, folder: Path, backbone: Backbone) -> list[Row]:
    """`features` in float32, in the machine's precision and in int8, each from an empty store."""
    pixels = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(pixels, backbone.features(pixels, backbone.cuts()[-1:]))
    model.predict(np.zeros((BATCH, SIZE, SIZE, 3)), verbose=0)
    numbers = itertools.count()

    def ours(precision: str) -> Callable[[], float]:
        store = folder / precision

        def run() -> float:
            config = FeatureConfig(weights="random", precision=precision, image_size=SIZE)
            place = store if precision == "int8" else store / str(next(numbers))
            if precision == "int8":  # what was quantised stays, the features go
                for shard in store.glob("*/shard-*"):
                    shard.unlink()
            return cache_features(
                data, config, ExtractionConfig(store=place, max_rejects=1)
            ).extracted.images_per_second

        return run

    stalls = Stalls()

    def predict() -> float:
        return stalls.timed(len(images), lambda last: model.predict(keras_files(images), verbose=0, callbacks=[last]))

    def decode_only() -> float:
        return len(images) / seconds(lambda: [None for _ in decoded_batches(images, ImageConfig(SIZE), BATCH)])

    best = resolve_precision("auto")
    mine = dict.fromkeys(("float32", best, *(["int8"] if installed("nncf") else [])))
    others = {"model.predict": predict, "decoding alone": decode_only, **rivals(images, backbone)}
    found = in_turns({**{precision: ours(precision) for precision in mine}, **others})

    def row(precision: str, baseline: str) -> Row:
        keras = stalls if baseline == "model.predict" else Stalls()
        figures = found[precision], found[baseline]
        return Row(f"extraction, {precision}", "images/s", baseline, *figures, macs=MACS, keras=keras)

    return [row(precision, "model.predict") for precision in mine] + [
        row(best, baseline) for baseline in others if baseline != "model.predict"
    ]


def rivals(images: list[ImageFile], backbone: Backbone) -> dict[str, Callable[[], float]]:
    """Other runtimes that are installed, fed by the same input pipeline, warmed up."""
    found = {
        "OpenVINO": openvino_fed(images, ImageConfig(backbone.image_size), backbone, resolve_precision("auto"), BATCH)
    }
    if installed("torchvision"):
        import torch
        import torchvision

        network = torchvision.models.inception_v3(weights=None, init_weights=False, aux_logits=False).eval()
        network.fc = torch.nn.Identity()

        def forward(pixels: np.ndarray) -> Any:
            with torch.inference_mode():
                return network(torch.tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1)

        found["PyTorch, float32"] = fed(images, forward)
    return found


def fed(images: list[ImageFile], forward: Callable[[np.ndarray], Any]) -> Callable[[], float]:
    forward(np.zeros((BATCH, SIZE, SIZE, 3), np.uint8))

    def run() -> float:
        start = time.perf_counter()
        for _, pixels in decoded_batches(images, ImageConfig(SIZE), BATCH):
            forward(pixels)
        return len(images) / (time.perf_counter() - start)

    return run


def installed(package: str) -> bool:
    try:
        __import__(package)
    except ImportError:
        return False
    return True
