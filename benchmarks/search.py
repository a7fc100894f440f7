"""What a search costs and finds, on real photographs: python -m benchmarks.search PHOTOS --store STORE

PHOTOS is a folder of class folders; the store keeps features from one call to the next. Writes search.json beside it.
"""

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.pipeline.featured import cache_features
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.head import build_head, fit_head
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.scoring.baselines import fit_baselines, logistic_regression
from headstart.pipeline.scoring.metrics import wilson_interval
from headstart.pipeline.sweep.config import SweepConfig
from headstart.pipeline.sweep.leaderboard import ranked
from headstart.pipeline.sweep.processes import search
from headstart.pipeline.sweep.space import CutChoice, Space, read_choices
from headstart.pipeline.sweep.study import Study
from headstart.pipeline.sweep.trials import SearchData
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


def searched(data: SearchData, cuts: CutChoice, seed: int) -> tuple[Space, list[FrozenTrial], float]:
    """A whole search in an empty study: its space, its finished trials and the seconds it took."""
    space = Space(read_choices(None), cuts)
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder) / "study.db", space, "tpe", seed)
        study.enqueue_first(space.nearest_to(HeadConfig().for_examples(data.training_sizes[0])))
        start = time.perf_counter()
        search(study, data, SweepConfig(trials=TRIALS, jobs=JOBS))
        return space, study.finished(), time.perf_counter() - start


def speed(photos: Path, config: FeatureConfig, extraction: ExtractionConfig) -> dict[str, Any]:
    """64 trials on 20,000 examples against each of those heads run to its full length by plain `fit`.

    The baseline is measured on the winner and six others, and scaled.
    """
    cached = cache_features(photos, config, extraction)
    whole = cached.labelled(cached.examples)
    order = np.random.default_rng(0).permutation(len(whole))
    train, val = np.split(order, [round(0.8 * len(order))])
    rng = np.random.default_rng(0)
    both = whole.take(np.concatenate([rng.choice(train, EXAMPLES), val]))
    noise = rng.normal(size=(EXAMPLES, whole.features.shape[1])) * (0.05 * whole.features[train].std(axis=0))
    both.features[:EXAMPLES] += noise.astype(np.float32)
    data = SearchData(both, [(slice(0, EXAMPLES), slice(EXAMPLES, None))])
    space, trials, took = searched(data, CutChoice.of(config), 0)
    best = ranked(trials)[0]
    others = [trial for trial in trials if trial.number != best.number][:: (TRIALS - 1) // (SAMPLE - 1)]
    sample = [_plain(space.suggest(FixedTrial(trial.params))[0], data) for trial in [best, *others[: SAMPLE - 1]]]
    baseline = sample[0]["seconds"] + (TRIALS - 1) * statistics.mean(one["seconds"] for one in sample[1:])
    return {
        "seconds": took, "finished": len(trials), "winner_loss": best.value, "sample": sample,
        "baseline_seconds_scaled": baseline, "times_as_fast": baseline / took,
    }  # fmt: skip


def _plain(config: HeadConfig, data: SearchData) -> dict[str, float]:
    """All epochs of a head by Keras's `fit` as it is, and its best loss on val; compiling left out."""
    keras.utils.set_random_seed(0)
    train, val = (data.labelled.take(rows) for rows in data.folds[0])
    model = build_head(train, config)
    decay = {"weight_decay": config.weight_decay} if config.weight_decay else {}
    compile_model(model, 2, make_optimizer(config.optimizer, config.learning_rate, **decay))
    some = train.take(slice(0, config.batch_size))
    model.fit(some.features, some.labels, verbose=0)
    start = time.perf_counter()
    fitted = model.fit(
        train.features, train.labels, batch_size=config.batch_size, epochs=config.epochs, verbose=0,
        validation_data=(val.features, val.labels),
    )  # fmt: skip
    return {"seconds": time.perf_counter() - start, "best_loss": min(fitted.history["val_loss"])}


def cuts(photos: Path, config: FeatureConfig, extraction: ExtractionConfig, seeds: int) -> dict[str, Any]:
    """The winner over all cuts, the default head and both baselines on test, over splits of 80/10/10."""
    config = replace(config, cut=("all",))
    cached = cache_features(photos, config, extraction)
    whole = cached.labelled(cached.examples)
    rows = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(whole))
        train, val, test = np.split(order, [round(0.8 * len(order)), round(0.9 * len(order))])
        space, trials, took = searched(SearchData(whole, [(train, val)]), CutChoice.of(config), seed)
        best = ranked(trials)[0]
        head, chosen = space.suggest(FixedTrial(best.params))
        row: dict[str, Any] = {"seconds": took, "cuts": [cut.name for cut in chosen]}
        for name, settings, some in (("winner", head, chosen), ("default", HeadConfig(), list(whole.columns)[-1:])):
            taken = whole.at(some)
            trained = fit_head(taken.take(train), taken.take(val), settings, seed)
            row[name] = accuracy(trained.model, taken.take(test))
        row |= _baselines(whole.at(chosen), train, val, test)
        rows.append(row)
        Console(stderr=True).print(row)
    names = [name for name in rows[0] if isinstance(rows[0][name], float) and name != "seconds"]
    count = round(0.1 * len(whole)) * seeds
    means = {name: statistics.mean(row[name] for row in rows) for name in names}
    intervals = {name: wilson_interval(round(mean * count), count) for name, mean in means.items()}
    points = 100 * (means["winner"] - means["default"])
    return {"rows": rows, "mean": means, "interval": intervals, "points_over_default": points}


def _baselines(whole: LabelledFeatures, train: np.ndarray, val: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """Those of `sweep`, at the setting that val chose, on test."""
    taken, labels = whole.features, whole.labels
    logistic, nearest = fit_baselines(taken, labels, [(train, val)], 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = logistic_regression(logistic.setting["C"]).fit(taken[train], labels[train])
    neighbours = KNeighborsClassifier(nearest.setting["k"], metric="cosine").fit(taken[train], labels[train])
    return {
        name: float((one.predict(taken[test]) == labels[test]).mean())
        for name, one in (("logistic regression", model), ("nearest neighbours", neighbours))
    }


def views(
    photos: Path, config: FeatureConfig, extraction: ExtractionConfig, seeds: int, count: int = 4
) -> dict[str, Any]:
    """Heads on cached views against heads without, over seeds of the head: accuracy on test, and the difference."""
    cached = cache_features(photos, replace(config, views=count), extraction)
    train = cached.labelled(cached.of("train"), viewed=cached.of("train"))
    val, test = (cached.labelled(cached.of(split)) for split in ("val", "test"))
    rows = []
    for seed in range(seeds):
        with_views, without = (
            accuracy(fit_head(some, val, HeadConfig(), seed).model, test) for some in (train, replace(train, views=()))
        )
        rows.append({"views": with_views, "none": without, "points": 100 * (with_views - without)})
    points = [row["points"] for row in rows]
    mean, half = statistics.mean(points), t.ppf(0.975, seeds - 1) * statistics.stdev(points) / seeds**0.5
    return {"rows": rows, "images": len(test), "points": mean, "interval": [mean - half, mean + half]}


def main() -> None:
    asked = photo_arguments(__doc__, ("speed", "cuts", "views")).parse_args()
    config, extraction = features_asked(asked)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "speed": lambda: speed(asked.photos, config, extraction),
        "cuts": lambda: cuts(asked.photos, config, extraction, asked.seeds),
        "views": lambda: views(asked.photos, config, extraction, asked.seeds),
    }
    found = {name: parts[name]() for name in ([asked.only] if asked.only else parts)}
    write_merged(Path(__file__).with_name("search.json"), found)
    Console().print_json(data=found)


if __name__ == "__main__":
    main()
