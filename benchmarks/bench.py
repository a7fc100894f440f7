"""Speed of the real code against plain Keras, as ratios of one run: python benchmarks/bench.py

Draws its own images, uses random weights (speed does not depend on them), and writes benchmarks/results.json.
With `--photos DIR`, decoding is measured on those too, and on 12-megapixel JPEGs made of some; `--only decoding` does
nothing else.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from rich.console import Console
from rich.table import Table

from features.batches import decoded_batches
from features.files import write_json
from features.image_files import ImageFile, inspect_images
from features.images import ImageConfig
from features.weights import build_backbone
from pipeline.cached import cache_features
from pipeline.demo import draw_demo
from pipeline.feature_config import FeatureConfig
from pipeline.head import HeadConfig, train_head

ROUNDS = 3
BATCH = 32


def seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def keras_features(images: list[ImageFile], model: keras.Model) -> None:
    """The baseline of extraction: `model.predict` on plain tf.data."""

    def load(path: tf.Tensor) -> tf.Tensor:
        return tf.image.resize(tf.io.decode_jpeg(tf.io.read_file(path), channels=3), (299, 299))

    files = tf.data.Dataset.from_tensor_slices([image.path for image in images])
    model.predict(files.map(load, tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE), verbose=0)


def extraction(images: list[ImageFile], data: Path, folder: Path) -> dict[str, Any]:
    """Images/s from files to shards, against `model.predict`, in turns."""
    backbone = build_backbone("inception_v3", "random")
    pixels = keras.Input((299, 299, 3))
    model = keras.Model(pixels, backbone.features(pixels, ["mixed10"]))
    model.predict(np.zeros((BATCH, 299, 299, 3)), verbose=0)
    ours, baseline = [], []
    for number in range(ROUNDS):
        config = FeatureConfig(store=folder / str(number), weights="random", precision="float32", max_rejects=1)
        ours.append(cache_features(data, config).images_per_second)
        baseline.append(len(images) / seconds(lambda: keras_features(images, model)))
    return row("extraction, images/s", ours, "model.predict", baseline)


def large_jpegs(images: list[ImageFile], folder: Path, noise: float) -> list[ImageFile]:
    """JPEGs of 4000 x 3000 pixels at quality 90, made of some of `images`, with `noise` as of a sensor."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, image in enumerate(images[:: len(images) // 24][:24]):
        with Image.open(image.path) as picture:
            pixels = np.asarray(picture.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC), np.float32)
        pixels = pixels + rng.normal(0, noise, (3000, 4000, 1)).astype(np.float32)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
    return [image for image in inspect_images(sorted(folder.iterdir())) if isinstance(image, ImageFile)]


def decoding(name: str, images: list[ImageFile]) -> dict[str, Any]:
    """Images/s of the decode path, against plain decode_jpeg and resize, in turns."""
    times = max(1, 4000 // len(images)) if len(images) > 24 else 6
    images = images * times
    megabytes = sum(image.bytes for image in images) / len(images) / 1e6

    def load(path: tf.Tensor) -> tf.Tensor:
        return tf.image.resize(tf.io.decode_jpeg(tf.io.read_file(path), channels=3), (299, 299))

    def plain() -> None:
        files = tf.data.Dataset.from_tensor_slices([image.path for image in images])
        for _ in files.map(load, tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE):
            pass

    def ours() -> None:
        for _ in decoded_batches(images, ImageConfig(299), BATCH):
            pass

    pairs = [(len(images) / seconds(ours), len(images) / seconds(plain)) for _ in range(ROUNDS + 1)][1:]
    name = f"decoding {name} of {megabytes:.2f} MB, images/s"
    return row(name, [a for a, _ in pairs], "decode_jpeg + resize", [b for _, b in pairs])


def head_epochs() -> dict[str, Any]:
    """Epochs/s of the default head on 2,000 x 2,048 features, against plain `fit` at batch 32."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(2000, 2048)).astype(np.float32), rng.integers(0, 2, 2000)
    model = keras.Sequential([keras.layers.Dense(1024, "relu"), keras.layers.Dense(1, "sigmoid")])
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    ours, baseline = [], []
    for _ in range(ROUNDS):
        small = (features[:32], labels[:32])
        ours.append(10 / train_head((features, labels), small, 2, HeadConfig()).seconds)
        baseline.append(3 / seconds(lambda: model.fit(features, labels, batch_size=32, epochs=3, verbose=0)))
    return row("head, epochs/s", ours, "plain fit, batch 32", baseline)


def row(name: str, ours: list[float], baseline_name: str, baseline: list[float]) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(ours, baseline, strict=True)]
    return {
        "name": name,
        "baseline": baseline_name,
        "ours": statistics.median(ours),
        "theirs": statistics.median(baseline),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--photos", type=Path, help="a folder of class folders with JPEGs")
    parser.add_argument("--only", choices=["decoding"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "drawn"
        draw_demo(data, arguments.images)
        for path in data.glob("*/broken*"):
            path.unlink()
        images = [image for image in inspect_images(sorted(data.glob("*/*"))) if isinstance(image, ImageFile)]
        rows = [decoding("drawings", images)]
        if arguments.photos:
            paths = sorted(arguments.photos.glob("*/*.jpg"))
            photos = [image for image in inspect_images(paths) if isinstance(image, ImageFile)]
            rows.append(decoding(f"{len(photos)} photographs", photos))
            for name, noise in (("smooth", 0), ("noisy", 6)):
                large = large_jpegs(photos, Path(folder) / name, noise)
                rows.append(decoding(f"12-megapixel JPEGs, {name},", large))
        if not arguments.only:
            rows += [extraction(images, data, Path(folder)), head_epochs()]
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    machine |= {"python": platform.python_version(), "tensorflow": tf.__version__, "keras": keras.__version__}
    write_json(Path(__file__).with_name("results.json"), {"machine": machine, "rows": rows})
    table = Table("", "ours", "baseline", "its figure", "ratio")
    for item in rows:
        table.add_row(
            item["name"], f"{item['ours']:.1f}", item["baseline"], f"{item['theirs']:.1f}", f"{item['ratio']:.2f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
