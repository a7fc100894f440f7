"""Measure how far a model's probabilities can be trusted: calibration error, accuracy by coverage, sets of labels."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from headstart.pipeline.scoring.calibration import FEWEST, Calibration, calibration_error
from headstart.pipeline.scoring.metrics import probabilities

COVERAGES = (1.0, 0.9, 0.8, 0.5)
ALPHAS = (0.05, 0.1)


def score_trust(
    logits: np.ndarray, labels: np.ndarray, calibration: Calibration | None, has_threshold: bool = False
) -> dict[str, Any]:
    """Score the probabilities of a model on examples. `logits` is float [N, 1 or C], and `labels` is int [N].

    Returns:
        `temperature`: the temperature of `calibration`, or None without a `calibration`.
        `calibration_error`: a dict. `before` is the error of the plain probabilities. `after` is the error of the
            calibrated probabilities, or None without a `calibration`.
        `at_coverage`: see `accuracy_at_coverage`. The list is empty if `has_threshold` is true, because the predicted
            label is then not always the likelier label.
        `conformal`: a list of dicts, empty without a `calibration`. Each dict describes sets of labels, one set for
            each image:
            `alpha`: the allowed share of sets without the true label.
            `coverage`: the measured share of sets with the true label, or None if val had too few images.
            `mean_size`: the mean number of labels in a set, or None if val had too few images.
    """
    plain = probabilities(logits)
    chances = calibration.probabilities(logits) if calibration else plain
    return {
        "temperature": calibration.temperature if calibration else None,
        "calibration_error": {
            "before": calibration_error(plain, labels),
            "after": calibration_error(chances, labels) if calibration else None,
        },
        "at_coverage": [] if has_threshold else accuracy_at_coverage(chances, labels),
        "conformal": [_sets(chances, labels, calibration, alpha) for alpha in ALPHAS] if calibration else [],
    }


def accuracy_at_coverage(chances: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """Return the accuracy on the most probable 100, 90, 80 and 50 % of the answers. Each share gives a dict.

    `chances` is float [N, C], and `labels` is int [N]. Each dict has three values:
    - `coverage`: the share, such as 0.9
    - `accuracy`: the accuracy on the answers in this share
    - `probability`: the lowest probability of an answer in this share
    """
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    order = np.argsort(-confidence, kind="stable")
    found = []
    for coverage in COVERAGES:
        kept = order[: max(1, round(coverage * len(order)))]
        least = float(confidence[kept].min())
        found.append({"coverage": coverage, "accuracy": float(right[kept].mean()), "probability": least})
    return found


def _sets(chances: np.ndarray, labels: np.ndarray, calibration: Calibration, alpha: float) -> dict[str, Any]:
    threshold = calibration.threshold_of_sets(alpha)
    if threshold is None:
        return {"alpha": alpha, "coverage": None, "mean_size": None}
    inside = chances >= threshold
    coverage = float(inside[np.arange(len(labels)), labels].mean())
    return {"alpha": alpha, "coverage": coverage, "mean_size": float(inside.sum(axis=1).mean())}


def abstain_limit(probability: float) -> str:
    """Return `probability` as text, rounded down to four decimals.

    The text is a value for `--abstain` of `headstart predict`. With this value, answers with this probability or a
    higher one are not marked as unsure.
    """
    return f"{math.floor(1e4 * probability) / 1e4:g}"


def trust_lines(models: Mapping[str, Mapping[str, Any]], detailed: str, count: int) -> Iterator[str]:
    """Yield lines about how far the probabilities can be trusted, with details for the model `detailed`.

    `models` has the result of `score_trust` for each model, by name. `count` is the number of scored images. If there
    are too few images, the calibration error is not shown.
    """
    errors = (f"{name} {_errors(fields)}" for name, fields in models.items())
    if count >= FEWEST:
        yield f"calibration error, before and after the temperature: {', '.join(errors)}"
    rows = models[detailed]["at_coverage"]
    parts = [
        f"{row['accuracy']:.4f} on {row['coverage']:.0%} (--abstain {abstain_limit(row['probability'])})"
        for row in rows
    ]
    if parts:
        yield f"accuracy of {detailed} on its most probable answers: {', '.join(parts)}"
    sets = [row for row in models[detailed]["conformal"] if row["coverage"] is not None]
    shown = (
        f"{1 - row['alpha']:.0%} asked, {row['coverage']:.1%} hold the true label, {row['mean_size']:.2f} labels each"
        for row in sets
    )
    if sets:
        yield f"sets of labels by {detailed}: {'; '.join(shown)}"
    elif models[detailed]["conformal"]:
        yield f"sets of labels: val has too few images for any of {', '.join(map(str, ALPHAS))}"


def _errors(fields: Mapping[str, Any]) -> str:
    before, after = (fields["calibration_error"][name] for name in ("before", "after"))
    return f"{before:.4f} (no temperature)" if after is None else f"{before:.4f} {after:.4f}"
