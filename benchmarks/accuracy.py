"""What the fast ways cost in accuracy, on real photographs: python -m benchmarks.accuracy PHOTOS --store STORE

PHOTOS is a folder of class folders; the store keeps features from one call to the next. Writes accuracy.json beside it.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.device import make_deterministic
from headstart.features.frozen.frozen import freeze
from headstart.pipeline.featured import cache_features
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.head import fit_head
from headstart.pipeline.inputs import eval_dataset
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.scoring.metrics import score
from headstart.pipeline.training import compile_model
from rich.console import Console

from benchmarks.curves import finetuning
from benchmarks.extraction import installed
from benchmarks.timing import LastBatch, write_merged

NAMES = ["negative", "positive"]
REPEATED = 20_000
OUR_EPOCHS, PLAIN_EPOCHS = 10, 4


def labelled_of(photos: Path, config: FeatureConfig, extraction: ExtractionConfig) -> LabelledFeatures:
    cached = cache_features(photos, config, extraction)
    return cached.labelled(cached.examples)


def halves(whole: LabelledFeatures, seed: int) -> tuple[LabelledFeatures, LabelledFeatures, LabelledFeatures]:
    """Train, val and test: 70, 10 and 20 %."""
    order = np.random.default_rng(seed).permutation(len(whole))
    ends = [round(0.7 * len(order)), round(0.8 * len(order))]
    first, second, third = (whole.take(part) for part in np.split(order, ends))
    return first, second, third


def accuracy(model: keras.Model, test: LabelledFeatures) -> float:
    return score(model.predict(test.features, verbose=0, batch_size=1024), test.labels, NAMES)["accuracy"]


def precisions(photos: Path, config: FeatureConfig, extraction: ExtractionConfig, seeds: int) -> dict[str, Any]:
    """Features in less precision against float32: how far off they are, and what heads on them reach."""
    whole = labelled_of(photos, replace(config, precision="float32"), extraction)
    expected, baseline = whole.features, [_head_on(whole, seed) for seed in range(seeds)]
    found: dict[str, Any] = {"float32": {"test_accuracy": baseline}}
    for precision in ["bfloat16", *(["int8"] if installed("openvino") and installed("nncf") else [])]:
        less = labelled_of(photos, replace(config, precision=precision), extraction)
        off = np.linalg.norm(less.features - expected, axis=1) / np.linalg.norm(expected, axis=1)
        scores = [_head_on(less, seed) for seed in range(seeds)]
        points = [100 * (one - other) for one, other in zip(scores, baseline, strict=True)]
        found[precision] = {
            "relative_error_mean": float(off.mean()),
            "relative_error_most": float(off.max()),
            "test_accuracy": scores,
            "points_over_float32": statistics.mean(points),
        }
    return found


def _head_on(whole: LabelledFeatures, seed: int) -> float:
    train, val, test = halves(whole, seed)
    return accuracy(fit_head(train, val, HeadConfig(), seed).model, test)


def float32_against_predict(
    photos: Path, config: FeatureConfig, extraction: ExtractionConfig, count: int = 64
) -> dict[str, float]:
    """The fast form's features against those of `model.predict` on the same pixels."""
    cached = cache_features(photos, replace(config, precision="float32"), extraction)
    network = cached.network
    batches = eval_dataset(cached.examples[:count], cached.network.images, 32)
    pixels = np.concatenate([batch for batch, _ in batches.as_numpy_iterator()])
    inputs = keras.Input(pixels.shape[1:], dtype="uint8")
    expected = keras.Model(inputs, network.backbone.features(inputs, network.cuts)).predict(pixels, verbose=0)
    fast = freeze(network.backbone, network.cuts)
    step = fast.images_per_pass
    found = np.concatenate([fast(pixels[i : i + step])[network.cuts[0]] for i in range(0, len(pixels), step)])
    return {"images": count, "largest_relative_error": float(np.abs(found - expected).max() / np.abs(expected).max())}


def time_to_best(photos: Path, config: FeatureConfig, extraction: ExtractionConfig, seeds: int) -> dict[str, Any]:
    """Seconds from nothing to the best loss on val: the default head against plain `fit` at batch 32.

    On 20,000 examples: the features of the photographs of train, repeated, each with noise of 5 % of a deviation.
    """
    whole = labelled_of(photos, config, extraction)
    make_deterministic()  # as training a head does, on a GPU
    rows = []
    for seed in range(seeds):
        train, val, test = halves(whole, seed)
        rng = np.random.default_rng(seed)
        many = train.take(rng.integers(0, len(train), REPEATED))
        noise = rng.normal(size=many.features.shape).astype(np.float32) * (0.05 * train.features.std(axis=0))
        many = replace(many, features=many.features + noise)
        sides = {"ours": _ours, "plain": _plain}
        names = list(sides) if seed % 2 else list(sides)[::-1]
        row = {}
        for name in names:
            gc.collect()  # what one side leaves behind is not the other's to clear away
            row[name] = sides[name](many, val, test, seed)
        rows.append(row)

    def times(seconds: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(seconds(row["plain"]) / seconds(row["ours"]) for row in rows)

    points = [100 * (row["ours"]["accuracy"] - row["plain"]["accuracy"]) for row in rows]
    return {
        "rows": rows,
        "ours_in_bfloat16": whole.reduced,
        "times_as_fast": times(lambda side: side["seconds"]),
        "times_as_fast_without_stalls": times(lambda side: side["seconds"] - side["stalled_seconds"]),
        "times_as_fast_without_building": times(lambda side: side["epoch"] * side["epoch_seconds"]),
        "points_over_plain": statistics.mean(points),
        "loss_over_plain": statistics.mean(row["ours"]["loss"] - row["plain"]["loss"] for row in rows),
    }


class _Epochs(LastBatch):
    """When each epoch ended, its validation included, and how long it waited for tf.data's autotuner."""

    def __init__(self) -> None:
        super().__init__()
        self.start = time.perf_counter()
        self.at: list[float] = []
        self.stalled: list[float] = []
        self._waited = 0.0

    def on_test_begin(self, logs: Any = None) -> None:
        self._waited += time.perf_counter() - self.ended

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.at.append(time.perf_counter())
        self.stalled.append(self._waited + self.at[-1] - self.ended)
        self._waited = 0.0

    def until(self, best: int, stalled: list[float]) -> dict[str, float]:
        """Epoch `best`, the seconds to its end from when this was made, and those of the fastest but for the first."""
        taken = np.diff([self.start, *self.at]) - stalled
        return {
            "epoch": best, "seconds": self.at[best - 1] - self.start,
            "stalled_seconds": sum(stalled[:best]), "epoch_seconds": min(taken[1:]),
        }  # fmt: skip


def _ours(train: LabelledFeatures, val: LabelledFeatures, test: LabelledFeatures, seed: int) -> dict[str, float]:
    epochs = _Epochs()
    found = fit_head(train, val, HeadConfig(epochs=OUR_EPOCHS), seed, on_epoch=lambda *_: epochs.on_epoch_end(0))
    figures = epochs.until(found.best_epoch, [0.0] * OUR_EPOCHS)  # what follows a last batch is our own work
    return {**figures, "loss": found.val["loss"], "accuracy": accuracy(found.model, test)}


def _plain(train: LabelledFeatures, val: LabelledFeatures, test: LabelledFeatures, seed: int) -> dict[str, float]:
    """A head as Keras's users write it, Adam at Keras's learning rate."""
    keras.utils.set_random_seed(seed)
    epochs, best = _Epochs(), keras.callbacks.EarlyStopping(patience=PLAIN_EPOCHS, restore_best_weights=True)
    layers = [keras.layers.Dense(1024, activation="relu"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((train.features.shape[1],)), *layers])
    compile_model(model, 2, keras.optimizers.Adam())
    model.fit(
        train.features, train.labels, batch_size=32, epochs=PLAIN_EPOCHS,
        validation_data=(val.features, val.labels), verbose=0, callbacks=[epochs, best],
    )  # fmt: skip
    figures = epochs.until(best.best_epoch + 1, epochs.stalled)
    return {**figures, "loss": float(best.best), "accuracy": accuracy(model, test)}


def photo_arguments(description: str | None, parts: tuple[str, ...]) -> argparse.ArgumentParser:
    """What every benchmark on photographs is told."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--rescale", default="auto")
    parser.add_argument("--only", choices=parts)
    parser.add_argument("--seeds", type=int, default=5)
    return parser


def features_asked(asked: argparse.Namespace) -> tuple[FeatureConfig, ExtractionConfig]:
    config = FeatureConfig(weights=asked.weights, rescale=asked.rescale)
    return config, ExtractionConfig(store=asked.store, max_rejects=1)


def main() -> None:
    parser = photo_arguments(__doc__, ("predict", "precisions", "head", "finetuning"))
    parser.add_argument("--images", type=int, default=400, help="fine-tuned on, val included")
    asked = parser.parse_args()
    config, extraction = features_asked(asked)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "predict": lambda: float32_against_predict(asked.photos, config, extraction),
        "precisions": lambda: precisions(asked.photos, config, extraction, asked.seeds),
        "head": lambda: time_to_best(asked.photos, config, extraction, asked.seeds),
    }
    file = Path(__file__).with_name("accuracy.json")
    with tempfile.TemporaryDirectory() as folder:
        parts["finetuning"] = lambda: finetuning(
            asked.photos, config, extraction, asked.seeds, asked.images, Path(folder)
        )
        chosen = [asked.only] if asked.only else list(parts)
        found = {name: parts[name]() for name in chosen}
    write_merged(file, found)
    Console().print_json(data=found)


if __name__ == "__main__":
    main()
