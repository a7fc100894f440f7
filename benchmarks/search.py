"""What a search costs and finds, on real photographs: python -m benchmarks.search PHOTOS --store STORE

PHOTOS is a folder of class folders; the store keeps features from one call to the next. Writes search.json beside it.
"""

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from headstart.features.config import FeatureConfig
from headstart.pipeline.featured import cache_features
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.head import build_head, fit_head
from headstart.pipeline.metrics import wilson_interval
from headstart.pipeline.sweep.baselines import fit_baselines, logistic_regression
from headstart.pipeline.sweep.config import SweepConfig
from headstart.pipeline.sweep.leaderboard import ranked
from headstart.pipeline.sweep.space import Cuts, Space, read_choices
from headstart.pipeline.sweep.study import Study
from headstart.pipeline.sweep.trials import Material, search
from headstart.pipeline.training import compile_model, make_optimizer
from optuna.trial import FixedTrial, FrozenTrial
from rich.console import Console
from scipy.stats import t
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.accuracy import accuracy, features_asked, photo_arguments
from benchmarks.timing import write_merged

EXAMPLES = 20_000
TRIALS = 64
JOBS = 2
SAMPLE = 7


def searched(material: Material, cuts: Cuts, seed: int) -> tuple[Space, list[FrozenTrial], float]:
    """A whole search in an empty study: its space, its finished trials and the seconds it took."""
    space = Space(read_choices(None), cuts)
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder) / "study.db", space, "tpe", seed)
        study.enqueue_first(space.near(HeadConfig().for_examples(len(material.folds[0][0]))))
        start = time.perf_counter()
        search(study, material, SweepConfig(trials=TRIALS, jobs=JOBS), seed)
        return space, study.finished(), time.perf_counter() - start


def speed(photos: Path, config: FeatureConfig) -> dict[str, Any]:
    """64 trials on 20,000 examples against each of those heads run to its full length by plain `fit`.

    The baseline is measured on the winner and six others, and scaled.
    """
    cached = cache_features(photos, config)
    features, labels = cached.arrays(cached.examples)
    order = np.random.default_rng(0).permutation(len(labels))
    train, val = np.split(order, [round(0.8 * len(order))])
    rng = np.random.default_rng(0)
    repeated = rng.choice(train, EXAMPLES)
    noise = rng.normal(size=(EXAMPLES, features.shape[1])).astype(np.float32) * (0.05 * features[train].std(axis=0))
    rows = np.arange(EXAMPLES + len(val))
    material = Material(
        np.concatenate([features[repeated] + noise, features[val]]), np.concatenate([labels[repeated], labels[val]]),
        {"mixed10": slice(0, features.shape[1])}, [(rows[:EXAMPLES], rows[EXAMPLES:])], 2,
        reduced=cached.reduced,
    )  # fmt: skip
    space, trials, took = searched(material, Cuts((("mixed10",),)), 0)
    best = ranked(trials)[0]
    others = [trial for trial in trials if trial.number != best.number][:: (TRIALS - 1) // (SAMPLE - 1)]
    sample = [_plain(space.suggest(FixedTrial(trial.params))[0], material) for trial in [best, *others[: SAMPLE - 1]]]
    baseline = sample[0]["seconds"] + (TRIALS - 1) * statistics.mean(one["seconds"] for one in sample[1:])
    return {
        "seconds": took, "finished": len(trials), "winner_loss": best.value, "sample": sample,
        "baseline_seconds_scaled": baseline, "times_as_fast": baseline / took,
    }  # fmt: skip


def _plain(config: HeadConfig, material: Material) -> dict[str, float]:
    """All epochs of a head by Keras's `fit` as it is, and its best loss on val; compiling left out."""
    keras.utils.set_random_seed(0)
    ((train, val),) = material.folds
    model = build_head(material.features[train], 2, config)
    decay = {"weight_decay": config.weight_decay} if config.weight_decay else {}
    compile_model(model, 2, make_optimizer(config.optimizer, config.learning_rate, **decay))
    some = train[: config.batch_size]
    model.fit(material.features[some], material.labels[some], verbose=0)
    data = material.features[train], material.labels[train]
    start = time.perf_counter()
    fitted = model.fit(
        *data, batch_size=config.batch_size, epochs=config.epochs, verbose=0,
        validation_data=(material.features[val], material.labels[val]),
    )  # fmt: skip
    return {"seconds": time.perf_counter() - start, "best_loss": min(fitted.history["val_loss"])}


def cuts(photos: Path, config: FeatureConfig, seeds: int) -> dict[str, Any]:
    """The winner over all cuts, the default head and both baselines on test, over splits of 80/10/10."""
    cached = cache_features(photos, replace(config, cut=("all",)))
    features, labels = cached.arrays(cached.examples)
    columns = cached.columns()
    rows = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(labels))
        train, val, test = np.split(order, [round(0.8 * len(order)), round(0.9 * len(order))])
        material = Material(features, labels, columns, [(train, val)], 2, reduced=cached.reduced)
        space, trials, took = searched(material, Cuts(tuple((name,) for name in columns), free=True), seed)
        best = ranked(trials)[0]
        head, chosen = space.suggest(FixedTrial(best.params))
        row: dict[str, Any] = {"seconds": took, "cuts": chosen}
        for name, settings, names in (("winner", head, chosen), ("default", HeadConfig(), ["mixed10"])):
            taken, _ = material.at(names)
            parts = ((taken[rows], labels[rows]) for rows in (train, val))
            trained = fit_head(*parts, 2, settings, seed, reduced=cached.reduced, widths=material.widths(names))
            row[name] = accuracy(trained.model, (taken[test], labels[test]))
        row |= _baselines(material, chosen, test)
        rows.append(row)
        Console(stderr=True).print(row)
    names = [name for name in rows[0] if isinstance(rows[0][name], float) and name != "seconds"]
    count = round(0.1 * len(labels)) * seeds
    means = {name: statistics.mean(row[name] for row in rows) for name in names}
    intervals = {name: wilson_interval(round(mean * count), count) for name, mean in means.items()}
    points = 100 * (means["winner"] - means["default"])
    return {"rows": rows, "mean": means, "interval": intervals, "points_over_default": points}


def _baselines(material: Material, chosen: Sequence[str], test: np.ndarray) -> dict[str, float]:
    """Those of `sweep`, at the setting that val chose, on test."""
    taken, _ = material.at(chosen)
    ((train, _),) = material.folds
    logistic, nearest = fit_baselines(taken, material.labels, material.folds, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = logistic_regression(logistic.setting["C"]).fit(taken[train], material.labels[train])
    neighbours = KNeighborsClassifier(nearest.setting["k"], metric="cosine").fit(taken[train], material.labels[train])
    return {
        name: float((one.predict(taken[test]) == material.labels[test]).mean())
        for name, one in (("logistic regression", model), ("nearest neighbours", neighbours))
    }


def views(photos: Path, config: FeatureConfig, seeds: int, count: int = 4) -> dict[str, Any]:
    """Heads on cached views against heads without, over seeds of the head: accuracy on test, and the difference."""
    cached = cache_features(photos, replace(config, views=count))
    (train, val, test) = (cached.arrays(cached.of(split)) for split in ("train", "val", "test"))
    viewed = cached.view_arrays(cached.of("train"))
    rows = []
    for seed in range(seeds):
        with_views, without = (
            accuracy(fit_head(train, val, 2, HeadConfig(), seed, some, reduced=cached.reduced).model, test)
            for some in (viewed, [])
        )
        rows.append({"views": with_views, "none": without, "points": 100 * (with_views - without)})
    points = [row["points"] for row in rows]
    mean, half = statistics.mean(points), t.ppf(0.975, seeds - 1) * statistics.stdev(points) / seeds**0.5
    return {"rows": rows, "images": len(test[1]), "points": mean, "interval": [mean - half, mean + half]}


def main() -> None:
    asked = photo_arguments(__doc__, ("speed", "cuts", "views")).parse_args()
    config = features_asked(asked)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "speed": lambda: speed(asked.photos, config),
        "cuts": lambda: cuts(asked.photos, config, asked.seeds),
        "views": lambda: views(asked.photos, config, asked.seeds),
    }
    found = {name: parts[name]() for name in ([asked.only] if asked.only else parts)}
    write_merged(Path(__file__).with_name("search.json"), found)
    Console().print_json(data=found)


if __name__ == "__main__":
    main()
