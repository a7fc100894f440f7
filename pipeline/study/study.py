"""`headstart study`: measure the learning curve of a data folder on cached features, and forecast it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from headstart.features.backbones.cuts import chosen_cuts, require_averaged
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError, OptionError
from headstart.features.frozen.network import Network
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.copies import tell_conflicts, unit_names
from headstart.pipeline.data.examples import Examples, Scan
from headstart.pipeline.data.trainable import require_trainable
from headstart.pipeline.featured import FeaturedExamples, cache_features
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.memory.limits import rows_in_memory
from headstart.pipeline.memory.loading import width
from headstart.pipeline.study.chart import write_chart
from headstart.pipeline.study.classes import class_gains
from headstart.pipeline.study.config import FEWEST_SIZES, StudyConfig
from headstart.pipeline.study.curve import Curve, measure_curve, to_error
from headstart.pipeline.study.forecast import Forecast, Needed
from headstart.pipeline.study.result import FEW_VAL, Size, StudyResult
from headstart.pipeline.study.subsets import nested_order, study_sizes

_TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
_FURTHER = (2, 4)  # the figure is forecast for these multiples of the training images
_MORE = 1000
_FEW_TRAIN = 5
_COPIES = 2  # features of train and of val
_MOST_LOGITS = 10_000_000  # of val, for each head: 80 MB in each thread


def study(
    data: Path,
    features: FeatureConfig,
    extraction: ExtractionConfig,
    config: StudyConfig,
    seed: int = 0,
    reading: DataConfig = DataConfig(),
) -> StudyResult:
    """Train heads on subsets of train, score them on val, and forecast the scores of heads trained on more images.

    The test split is not used. Features that the store lacks are extracted first. `seed` decides the subsets, the
    bootstrap, and the split if `data` has no split folders. Raises OptionError for views and for a cut that is a map,
    and DataError if `data` can't be trained on or has too few images.
    """
    if features.views:
        raise OptionError(f"--views {features.views}: a study trains on the images alone; leave --views out")
    require_averaged(chosen_cuts(features))

    def check(scanned: Scan, _: list[Network]) -> None:
        require_trainable(scanned.examples, scanned.class_names, data)

    cached = cache_features(data, features, extraction, seed, check, reading)
    require_trainable(cached.examples, cached.class_names, data)
    tell_conflicts([*cached.of("train"), *cached.of("val")], cached.class_names)
    result = study_cached(cached, config, seed)
    if not config.chart:
        return result
    write_chart(result, config.chart)
    return replace(result, chart=str(config.chart))


def study_cached(cached: FeaturedExamples, config: StudyConfig, seed: int = 0) -> StudyResult:
    """Measure and forecast the learning curve of examples that have features in a store.

    Each class must occur in train and in val. Raises DataError if there are too few different images.
    """
    every, scored = cached.of("train"), cached.of("val")
    most = min(config.max_images, rows_in_memory(_COPIES * width(cached.stores), cached.extraction.memory))
    train = _sample(every, most, seed)
    val = _sample(scored, min(most, _MOST_LOGITS // len(cached.class_names)), seed)
    units = unit_names(train)
    labelled = cached.labelled([*train, *val])
    parts = labelled.take(slice(len(train))), labelled.take(slice(len(train), None))
    result = study_features(*parts, units, cached.class_names, config, seed, len(every))
    sampled = [
        f"a sample of {len(part):,} of {len(whole):,} {name} images"
        for part, whole, name in ((train, every, "training"), (val, scored, "val"))
        if len(part) < len(whole)
    ]
    if sampled and most < config.max_images:
        sampled.append(f"memory holds no more than {most:,} of --max-images {config.max_images:,}; raise --memory")
    return replace(result, notes=[*sampled, *result.notes])


def study_features(
    train: LabelledFeatures,
    val: LabelledFeatures,
    units: list[str],
    class_names: list[str],
    config: StudyConfig,
    seed: int = 0,
    at_hand: int = 0,
) -> StudyResult:
    """Return the result of a study of features that are in memory.

    Args:
        units: an entry for each training image. Images with equal entries are one unit; see `nested_order`.
        at_hand: the number of all training images, if `train` is only a sample of them. The forecast begins at this
            number. The default, 0, means that `train` has all training images.

    Each class must occur in `train` and in `val`. Raises DataError if `train` has too few units.
    """
    at_hand = at_hand or len(train)
    sizes = study_sizes(len(set(units)), train.classes, config.sizes)
    if len(sizes) < FEWEST_SIZES:
        raise DataError(
            f"{len(set(units))} different images or groups in train, of {train.classes} classes: too few for a study, "
            "which compares smaller numbers of them; add images"
        )
    curve = measure_curve(train, val, units, sizes, config.seeds, config.metric, seed)
    forecast = Forecast(curve, seed)
    more = config.more or min(_MORE, at_hand)
    further = sorted({at_hand, at_hand + more, *(at_hand * times for times in _FURTHER)})
    fitted, *expected = [Size(*one) for one in zip(further, forecast.at(further), strict=True)]
    return StudyResult(
        metric=config.metric,
        images=at_hand,
        val_images=len(val),
        seeds=config.seeds,
        sizes=_sizes(curve, forecast),
        law=forecast.law.name,
        parameters=forecast.named_parameters(),
        fitted=fitted,
        forecast=expected,
        more=more,
        gain=forecast.gain(more, at_hand),
        needed=_needed(curve, forecast, config.target),
        classes=class_gains(curve, train.labels, class_names),
        notes=list(_notes(curve, train.labels, class_names)),
    )


def _sizes(curve: Curve, forecast: Forecast) -> list[Size]:
    return [Size(images, one) for images, one in zip(curve.images.tolist(), forecast.measured(), strict=True)]


def _needed(curve: Curve, forecast: Forecast, target: float) -> Needed | None:
    """Forecast how many images are needed to reach `target`.

    If `target` is 0, the target is the lowest number of `_TARGETS` above the present figure. Return None if there is no
    such number, or if `target` is 0 and the metric is the loss.
    """
    now = float(to_error(curve.metric, curve.errors[-1].mean()))
    if not target and curve.metric != "loss":
        target = next((one for one in _TARGETS if one > now), 0.0)
    return forecast.needed(target) if target else None


def _sample(examples: Examples, most: int, seed: int) -> Examples:
    """Return all `examples` if their number does not exceed the limit `most`.

    Otherwise, return a random sample of about that many examples. Each class keeps about its share.
    """
    if len(examples) <= most:
        return examples
    labels = examples.labels
    order, ends = nested_order(labels, unit_names(examples), (seed, 0))
    classes = min(len(np.unique(labels)), len(ends))  # groups that mix classes may be fewer than the classes
    most = max(most, int(ends[classes - 1]))  # at least one unit of each class
    return examples[np.sort(order[:most])]


def _notes(curve: Curve, train_labels: np.ndarray, class_names: list[str]) -> Iterator[str]:
    """Yield warnings about how reliable the study is. `train_labels` is int [N]."""
    total = len(curve.labels)
    if total < FEW_VAL:
        larger = "`headstart prepare SOURCE DATA --val 0.3` makes val larger, and train smaller"
        yield f"val has {total} images, so no figure here is sure; {larger}"
    largest, share = Counter(curve.labels.tolist()).most_common(1)[0]
    if curve.right[-1, 0].sum() <= share:
        better = "; try --metric balanced_accuracy" if curve.metric == "accuracy" else ""
        yield f"with all images, the head is not better than always saying {class_names[largest]!r}{better}"
    few = sorted((count, label) for label, count in Counter(train_labels.tolist()).items() if count < _FEW_TRAIN)
    if few:
        count, label = few[0]
        others = f"; classes with fewer than {_FEW_TRAIN}: {len(few)}" if len(few) > 1 else ""
        yield f"class {class_names[label]!r} has {count} training images, so its curve says little{others}"
