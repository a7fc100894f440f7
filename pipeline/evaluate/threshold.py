"""Determine the threshold above which `evaluate` predicts the positive class, if there are two classes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from headstart.features.errors import DataError, OptionError
from headstart.features.terminal import console
from headstart.pipeline.evaluate.config import ThresholdConfig
from headstart.pipeline.runs import Run
from headstart.pipeline.scoring.metrics import interval_text
from headstart.pipeline.scoring.thresholds import Threshold, enough, for_cost, for_sensitivity, for_specificity
from rich.text import Text


def positive_class(run: Run, config: ThresholdConfig) -> str | None:
    """Return the name of the positive class, or None if the run has more than two classes.

    The positive class is the first of these that exists:
    - the class that `config` names
    - the positive class of the threshold that the run keeps for the head
    - the second class

    Raises OptionError if `config` names an unknown class, or if the run has more than two classes and `config` sets an
    option for two classes.
    """
    names = run.class_names()
    asked = config.flag or ("--positive" if config.positive else "")
    if len(names) != 2:
        if asked:
            raise OptionError(f"{asked}: is for two classes; {run.path} has {len(names)}")
        return None
    if config.positive and config.positive not in names:
        raise OptionError(f"--positive must be {names[0]} or {names[1]}. Received: {config.positive}")
    kept = run.threshold("head")
    return config.positive or (kept.positive if kept else names[1])


def tell_positive(run: Run, config: ThresholdConfig, positive: str | None) -> None:
    """Print a line if a new threshold takes its positive class from the threshold that the run keeps.

    `positive` is the result of `positive_class`. If it is the second class, which is the default, no line is printed.
    """
    if config.flag and not config.positive and positive not in (None, run.class_names()[1]):
        told = f"`{positive}` is positive, as in the threshold that the run keeps; --positive names another"
        console.print(Text(told), style="yellow")


def given_threshold(run: Run, model: str, config: ThresholdConfig, positive: str | None) -> Threshold | None:
    """Return the threshold of `model` that is known before val is used, or None.

    - With `--threshold`, the result is the threshold that this option gives, for the class `positive`.
    - With an option that asks to choose the threshold on val, the result is None.
    - Without these options, the result is the threshold that the run keeps for `model`, or None if it keeps none.
    """
    if config.threshold is not None and positive is not None:
        return Threshold(positive, config.threshold, "given by --threshold")
    return None if config.flag else run.threshold(model)


def needs_val(config: ThresholdConfig) -> bool:
    """Return whether an option of `config` asks to choose the threshold on val."""
    return config.flag not in ("", "--threshold")


def chosen_threshold(
    config: ThresholdConfig, positive: str, chances: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> Threshold:
    """Choose the threshold on val. Raises DataError if val has images of one class only.

    `chances` are the probabilities of both classes for the val images, float [N, 2]. `labels` are the labels of these
    images, int64 [N].
    """
    label = class_names.index(positive)
    yes, of_positive = labels == label, chances[:, label]
    if yes.all() or not yes.any():
        raise DataError(f"{config.flag}: val has images of one class alone, so no threshold can be chosen on it")
    if config.cost:
        return Threshold(positive, for_cost(of_positive, yes, *config.costs()), f"cost {config.cost} on val")
    if config.sensitivity is not None:
        kind, wanted, count, choose = "sensitivity", config.sensitivity, int(yes.sum()), for_sensitivity
    else:
        assert config.specificity is not None
        kind, wanted, count, choose = "specificity", config.specificity, int((~yes).sum()), for_specificity
    if count < enough(wanted):
        of = positive if kind == "sensitivity" else class_names[1 - label]
        console.print(
            f"warning: val has {count} images of `{of}`; a {kind} of {wanted:g} needs {enough(wanted)}, so new images "
            "may miss it by much",
            style="yellow",
        )
    return Threshold(positive, choose(of_positive, yes, wanted), f"{kind} {wanted:g} on val")


def threshold_fields(
    metrics: Mapping[str, Any], positive: str, class_names: Sequence[str], threshold: Threshold | None
) -> dict[str, Any]:
    """Return fields for the JSON of a model: sensitivity, specificity, the interval of each, and the threshold.

    `metrics` is the result of `pipeline.scoring.metrics.score`. Sensitivity is the recall of the `positive` class, and
    specificity is the recall of the other class. A recall is None if the class has no images.
    """
    (other,) = (name for name in class_names if name != positive)
    of_positive, of_other = metrics["per_class"][positive], metrics["per_class"][other]
    return {
        "sensitivity": of_positive["recall"],
        "sensitivity_interval": of_positive["recall_interval"],
        "specificity": of_other["recall"],
        "specificity_interval": of_other["recall_interval"],
        "threshold": asdict(threshold) if threshold else None,
    }


def threshold_lines(model: str, metrics: Mapping[str, Any], positive: str) -> Iterator[str]:
    """Yield lines about sensitivity, specificity and the threshold.

    `metrics` are the metrics of the model named `model`. They include the result of `threshold_fields`.
    """
    names, kept = ("sensitivity", "specificity"), metrics["threshold"]
    figures = ["-" if metrics[name] is None else f"{metrics[name]:.4f}" for name in names]
    intervals = [interval_text(metrics[f"{name}_interval"]) for name in names]
    shown = (f"{name} {value} ({ends})" for name, value, ends in zip(names, figures, intervals, strict=True))
    yield f"{model}: {', '.join(shown)}; `{positive}` is positive"
    if kept:
        yield f"{model}: {Threshold(**kept)}"
