"""What the fast ways cost in accuracy, on real photographs: python -m benchmarks.accuracy PHOTOS --store STORE

PHOTOS is a folder of class folders; the store keeps features from one call to the next. Writes accuracy.json beside it.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from benchmarks.extraction import installed
from benchmarks.timing import LastBatch, seconds, write_merged
from features.frozen import FrozenBackbone
from pipeline.cached import cache_features, load_examples
from pipeline.classifier import build_classifier, unfreeze
from pipeline.extraction import load_network
from pipeline.feature_config import FeatureConfig
from pipeline.finetune import finetune
from pipeline.finetune_config import FinetuneConfig
from pipeline.head import build_head, fit_head, train_head
from pipeline.head_config import HeadConfig
from pipeline.inputs import eval_dataset, train_dataset
from pipeline.metrics import score
from pipeline.phase1 import train_run
from pipeline.prepare import prepare
from pipeline.prepare_config import PrepareConfig
from pipeline.runs import Run
from pipeline.training import compile_model

Arrays = tuple[np.ndarray, np.ndarray]
NAMES = ["negative", "positive"]
REPEATED = 20_000
PLAIN_EPOCHS, OUR_EPOCHS = 4, 10


def arrays_of(photos: Path, config: FeatureConfig) -> Arrays:
    cached = cache_features(photos, config)
    return cached.arrays(cached.examples)


def halves(features: np.ndarray, labels: np.ndarray, seed: int) -> tuple[Arrays, Arrays, Arrays]:
    """Train, val and test: 70, 10 and 20 %."""
    order = np.random.default_rng(seed).permutation(len(labels))
    ends = [round(0.7 * len(order)), round(0.8 * len(order))]
    first, second, third = ((features[part], labels[part]) for part in np.split(order, ends))
    return first, second, third


def accuracy(model: keras.Model, test: Arrays) -> float:
    return score(model.predict(test[0], verbose=0, batch_size=1024), test[1], NAMES)["accuracy"]


def precisions(photos: Path, config: FeatureConfig, seeds: int) -> dict[str, Any]:
    """Features in less precision against float32: how far off they are, and what heads on them reach."""
    expected, labels = arrays_of(photos, replace(config, precision="float32"))
    baseline = [_head_on(expected, labels, seed) for seed in range(seeds)]
    found: dict[str, Any] = {"float32": {"test_accuracy": baseline}}
    for precision in ["bfloat16", *(["int8"] if installed("openvino") and installed("nncf") else [])]:
        features, _ = arrays_of(photos, replace(config, precision=precision))
        off = np.linalg.norm(features - expected, axis=1) / np.linalg.norm(expected, axis=1)
        scores = [_head_on(features, labels, seed) for seed in range(seeds)]
        points = [100 * (one - other) for one, other in zip(scores, baseline, strict=True)]
        found[precision] = {
            "relative_error_mean": float(off.mean()),
            "relative_error_most": float(off.max()),
            "test_accuracy": scores,
            "points_over_float32": statistics.mean(points),
        }
    return found


def _head_on(features: np.ndarray, labels: np.ndarray, seed: int) -> float:
    train, val, test = halves(features, labels, seed)
    return accuracy(train_head(train, val, 2, HeadConfig(), seed).model, test)


def float32_against_predict(photos: Path, config: FeatureConfig, count: int = 64) -> dict[str, float]:
    """The fast form's features against those of `model.predict` on the same pixels."""
    cached = cache_features(photos, replace(config, precision="float32"))
    network = cached.network
    batches = eval_dataset(cached.examples[:count], cached.network.images, 32)
    pixels = np.concatenate([batch for batch, _ in batches.as_numpy_iterator()])
    inputs = keras.Input(pixels.shape[1:], dtype="uint8")
    expected = keras.Model(inputs, network.backbone.features(inputs, network.cuts)).predict(pixels, verbose=0)
    fast = FrozenBackbone(network.backbone, network.cuts)
    step = fast.images_per_pass
    found = np.concatenate([fast(pixels[i : i + step])[network.cuts[0]] for i in range(0, len(pixels), step)])
    return {"images": count, "largest_relative_error": float(np.abs(found - expected).max() / np.abs(expected).max())}


def time_to_best(photos: Path, config: FeatureConfig, seeds: int) -> dict[str, Any]:
    """Seconds to the epoch of the best loss on val, of the default head and of plain `fit` at batch 32.

    On 20,000 examples: the features of the photographs of train, repeated, each with noise of 5 % of a deviation.
    """
    features, labels = arrays_of(photos, config)
    rows = []
    for seed in range(seeds):
        train, val, test = halves(features, labels, seed)
        rng = np.random.default_rng(seed)
        repeated = rng.integers(0, len(train[1]), REPEATED)
        noise = rng.normal(size=(REPEATED, features.shape[1])).astype(np.float32) * (0.05 * train[0].std(axis=0))
        many = (train[0][repeated] + noise, train[1][repeated])
        rows.append({"ours": _ours(many, val, test, seed), "plain": _plain(many, val, test, seed)})
    ratios = [row["plain"]["seconds"] / row["ours"]["seconds"] for row in rows]
    points = [100 * (row["ours"]["accuracy"] - row["plain"]["accuracy"]) for row in rows]
    return {"rows": rows, "times_as_fast": statistics.median(ratios), "points_over_plain": statistics.mean(points)}


class _Stamps(keras.callbacks.Callback):
    """When each epoch ended, its validation included."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.at.append(time.perf_counter())


def _ours(train: Arrays, val: Arrays, test: Arrays, seed: int) -> dict[str, float]:
    """Building and compiling included."""
    stamps = _Stamps()
    start = time.perf_counter()
    found = fit_head(train, val, 2, HeadConfig(epochs=OUR_EPOCHS), seed, callbacks=[stamps])
    best = {"epoch": found.best_epoch, "seconds": stamps.at[found.best_epoch - 1] - start, "loss": found.val["loss"]}
    return {**best, "accuracy": accuracy(found.model, test)}


def _plain(train: Arrays, val: Arrays, test: Arrays, seed: int) -> dict[str, float]:
    """The same layers, Adam at Keras's learning rate, batches of 32, compiling left out."""
    keras.utils.set_random_seed(seed)
    model = build_head(train[0], 2, HeadConfig())
    compile_model(model, 2, keras.optimizers.Adam())
    begin = model.get_weights()
    model.fit(train[0][:32], train[1][:32], verbose=0)
    model.evaluate(*val, verbose=0)
    for variable in model.optimizer.variables[2:]:  # but for the count of steps, which hardly matters, and the rate
        variable.assign(keras.ops.zeros_like(variable))
    model.set_weights(begin)
    best = {"loss": float("inf")}
    took = 0.0
    for epoch in range(1, PLAIN_EPOCHS + 1):
        took += seconds(lambda: model.fit(*train, batch_size=32, verbose=0))
        loss = model.evaluate(*val, verbose=0, return_dict=True)["loss"]
        if loss < best["loss"]:
            best = {"epoch": epoch, "seconds": took, "loss": loss, "accuracy": accuracy(model, test)}
    return best


def finetuning(photos: Path, config: FeatureConfig, seeds: int, images: int, folder: Path) -> dict[str, Any]:
    """Three epochs of fine-tuning in three ways from one head: loss and accuracy on val, from epoch 0 on."""
    chosen = folder / "chosen"
    for kind in sorted(path for path in photos.iterdir() if path.is_dir()):
        (chosen / kind.name).mkdir(parents=True)
        for file in sorted(kind.iterdir())[: images // 2]:
            (chosen / kind.name / file.name).symlink_to(file.absolute())
    data = folder / "data"
    prepare(chosen, data, PrepareConfig(val=0.2, test=0))
    settings = FinetuneConfig(epochs=3, augment="none")
    rows = []
    for seed in range(seeds):
        row: dict[str, Any] = {}
        for name, changed in (("streaming", settings), ("cache", replace(settings, from_cache=True))):
            path = folder / name
            train_run(data, path, config, HeadConfig(), overwrite=True, seed=seed)
            result = finetune(path, changed, seed=seed)
            rounds = [line for line in Run.open(path).history() if line["phase"] == "finetune"]
            row[name] = {
                "images_per_second": result.images_per_second,
                "val_loss": [result.before["loss"], *(float(line["val_loss"]) for line in rounds)],
                "val_accuracy": [result.before["accuracy"], *(float(line["val_accuracy"]) for line in rounds)],
            }
        row["plain"] = _plain_finetuning(Run.open(folder / "streaming"), settings, seed)
        rows.append(row)
    speeds = {name: statistics.median(row[name]["images_per_second"] for row in rows) for name in rows[0]}
    return {"rows": rows, "images_per_second": speeds}


def _plain_finetuning(run: Run, config: FinetuneConfig, seed: int) -> dict[str, Any]:
    """Plain `fit` of the whole model, in float32 as Keras does, on the same batches."""
    cached = load_examples(run)
    network = load_network(replace(cached.network.config, precision="float32"))
    _ = network.backbone.model
    keras.utils.set_random_seed(seed)
    train, val = cached.of("train"), eval_dataset(cached.of("val"), cached.network.images, config.batch_size)
    unfreeze(network.backbone, 249, thaw_batchnorm=False)
    model = build_classifier(network.backbone, network.cuts, run.load_model(run.head_file))
    compile_model(model, 2, keras.optimizers.SGD(config.learning_rate, momentum=config.momentum))
    scores = [model.evaluate(val, verbose=0, return_dict=True)]
    took = 0.0
    for epoch in range(config.epochs):
        start, last = time.perf_counter(), LastBatch()
        batches = train_dataset(
            train, cached.network.images, config.batch_size, "none", seed, lambda epoch=epoch: epoch
        )
        model.fit(batches, verbose=0, shuffle=False, callbacks=[last])
        took += last.ended - start if epoch else 0.0  # the first epoch builds the graph
        scores.append(model.evaluate(val, verbose=0, return_dict=True))
    return {
        "images_per_second": (config.epochs - 1) * len(train) / took,
        "val_loss": [float(one["loss"]) for one in scores],
        "val_accuracy": [float(one["accuracy"]) for one in scores],
    }


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


def features_asked(asked: argparse.Namespace) -> FeatureConfig:
    return FeatureConfig(store=asked.store, weights=asked.weights, rescale=asked.rescale, max_rejects=1)


def main() -> None:
    parser = photo_arguments(__doc__, ("predict", "precisions", "head", "finetuning"))
    parser.add_argument("--images", type=int, default=400, help="fine-tuned on, val included")
    asked = parser.parse_args()
    config = features_asked(asked)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "predict": lambda: float32_against_predict(asked.photos, config),
        "precisions": lambda: precisions(asked.photos, config, asked.seeds),
        "head": lambda: time_to_best(asked.photos, config, asked.seeds),
    }
    file = Path(__file__).with_name("accuracy.json")
    with tempfile.TemporaryDirectory() as folder:
        parts["finetuning"] = lambda: finetuning(asked.photos, config, asked.seeds, asked.images, Path(folder))
        chosen = [asked.only] if asked.only else list(parts)
        found = {name: parts[name]() for name in chosen}
    write_merged(file, found)
    Console().print_json(data=found)


if __name__ == "__main__":
    main()
