"""Forecast the figures that a larger number of training images would give, with bootstrap intervals.

The bootstrap makes B replicates of the measured curve. For each replicate, val images and subsets of the training
images are drawn with replacement.

For all metrics except the loss, two made-up predictions are added to val before the draw, one right and one wrong
(Agresti & Coull 1998, doi:10.1080/00031305.1998.10480550). The made-up predictions keep an interval from having the
width 0 if all predictions are right. Their mean effect is subtracted from the forecast figures.

Normal noise of variance A / n is added for n training images; see `_spread`. The noise is added to the replicates,
because the training images at hand are a random draw. The noise is also added to the errors from which `Forecast.at`
computes intervals, because future training images will be a random draw, too.

Two laws (see `laws.py`) are fitted to each replicate. The law that better predicts the errors at the largest sizes is
kept. The size at which the fit begins is drawn at random among the smaller sizes, because a law may not hold for the
smallest sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from headstart.pipeline.scoring.threads import single_threaded
from headstart.pipeline.study.curve import Curve, to_error
from headstart.pipeline.study.laws import LAWS, Law, held_out_errors, held_out_sizes, kept_law

LEVEL = 0.9  # of intervals
_REPLICATES = 400
_FEWEST_FITTED = 4
_HORIZON = 100  # a figure that needs more than this multiple of the present images is not in sight
_SUBSET = 0.8  # larger fractions of all images say little about the variance between subsets


@dataclass(frozen=True)
class Estimate:
    """A figure, and its interval at the level 0.9 (`LEVEL`)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Needed:
    """The number of training images with which a figure reaches `target`, and the interval of this number.

    The field `images` holds the number. The interval goes from `low` to `high`. The value None stands for more than 100
    times the present number of images.
    """

    target: float
    images: int | None
    low: int | None
    high: int | None


class Forecast:
    """Laws that are fitted to a measured curve and to bootstrap replicates of it.

    The same `seed` gives the same forecast.
    """

    def __init__(self, curve: Curve, seed: int = 0) -> None:
        self._curve = curve
        self._draws = np.random.default_rng([seed, 1])
        self._images = curve.images.astype(np.float64)
        self._spread = _spread(self._images, curve.errors)
        with single_threaded():
            self._replicates = self._drawn_curves()
        self._held_out = held_out_sizes(len(self._images))
        self.law, self._parameters = kept_law(self._images, curve.errors.mean(axis=1))
        self._fitted = self._fit()

    def named_parameters(self) -> dict[str, float]:
        """Return the parameters of the law that is fitted to the measured curve, as a dict by name.

        `StudyResult.formula`, in `result.py`, shows the law with these names.
        """
        if self.law.name == "power law":
            return dict(zip("cab", self._parameters.tolist(), strict=True))
        a, b = self._parameters.tolist()  # of the error
        return {"a": a, "b": -b} if self._curve.metric == "loss" else {"a": 1 - a, "b": b}

    def measured(self) -> list[Estimate]:
        """Return the measured figure of each size, with its interval."""
        return self._estimates(self._curve.errors.mean(axis=1), self._replicates)

    def at(self, images: list[int]) -> list[Estimate]:
        """Return the expected figure and its interval for each number of training images in the list `images`.

        The expected figure is computed from the errors of all replicates; see `_middle`.
        """
        errors = self._errors(np.array(images, np.float64))
        noise = self._draws.normal(size=errors.shape) * np.sqrt(self._spread / np.array(images))
        return self._estimates(self._middle(errors), errors + noise)

    def gain(self, more: int, now: int) -> Estimate:
        """Return the expected rise of the figure if the number of training images grows from `now` to `now + more`.

        For the loss, return the expected fall.
        """
        errors = self._errors(np.array([now, now + more]))
        before, after = self._middle(errors).tolist()
        low, high = _interval(errors[:, 0] - errors[:, 1])
        return Estimate(before - after, min(float(low), before - after), max(float(high), before - after))

    def _middle(self, errors: np.ndarray) -> np.ndarray:
        """Return the expected errors, [M]. Each is the median of a column of `errors`, [B, M], minus `_raised`."""
        return self._bounded(np.median(errors, axis=0) - self._raised)

    def needed(self, target: float) -> Needed:
        """Return the number of training images with which the forecast figure reaches `target`.

        The result also has the interval of this number.
        """
        error = float(to_error(self._curve.metric, np.array(target)))
        low, high = _interval(self._needed(error), method="nearest")
        middle = np.quantile(self._needed(error + self._raised), 0.5, method="nearest")
        return Needed(target, *(self._in_sight(float(one)) for one in (middle, min(low, middle), max(high, middle))))

    def _needed(self, error: float) -> np.ndarray:
        """Return the numbers of images (float64 [B]) with which the laws of the B replicates reach `error`."""
        needed = np.empty(_REPLICATES)
        for law, rows, parameters in self._fitted:
            needed[rows] = law.images(parameters, error)
        return needed

    def _in_sight(self, images: float) -> int | None:
        return round(images) if images <= _HORIZON * self._images[-1] else None

    def _estimates(self, errors: np.ndarray, replicates: np.ndarray) -> list[Estimate]:
        """Turn `errors`, [M], into figures with intervals.

        The intervals come from the argument `replicates`, [B, M]. Each of its B rows holds the errors of one replicate.
        """
        values = to_error(self._curve.metric, errors)
        low, high = _interval(to_error(self._curve.metric, self._bounded(replicates)))
        rows = zip(values.tolist(), np.minimum(low, values).tolist(), np.maximum(high, values).tolist(), strict=True)
        return [Estimate(*row) for row in rows]

    def _errors(self, images: np.ndarray) -> np.ndarray:
        """Return the errors (float64 [B, M]) that the laws of the B replicates give. Row b belongs to replicate b.

        The argument `images` holds M numbers of training images, one for each column.
        """
        errors = np.empty((_REPLICATES, len(images)))
        for law, rows, parameters in self._fitted:
            errors[rows] = law.errors(parameters, images)
        return self._bounded(errors)

    def _bounded(self, errors: np.ndarray) -> np.ndarray:
        return np.asarray(np.clip(errors, 0, None if self._curve.metric == "loss" else 1))

    def _drawn_curves(self) -> np.ndarray:
        """Draw B replicates of the measured curve. Return their errors (float64 [B, K]) at the K sizes."""
        sizes, seeds, count = self._curve.parts.shape
        flat = self._curve.parts.reshape(-1, count)
        means = np.empty((_REPLICATES, sizes, seeds))
        added = self._added
        for replicate in means:
            drawn = np.bincount(self._draws.integers(0, count + added, count + added), minlength=count + added)
            right = drawn[count] if added else 0
            replicate[:] = ((flat @ drawn[:count].astype(np.float32) + right) / len(drawn)).reshape(sizes, seeds)
        errors = to_error(self._curve.metric, means)
        picked = self._draws.integers(0, seeds, (_REPLICATES, 1, seeds))
        middle = errors.mean(axis=2)
        off = np.take_along_axis(errors, np.broadcast_to(picked, errors.shape), axis=2).mean(axis=2) - middle
        shift = np.sqrt(self._spread / self._images[-1])
        # The variance of a resampled mean of S draws is too small by the factor (S - 1) / S.
        return np.asarray(middle + off * np.sqrt(seeds / (seeds - 1)) + self._draws.normal(0, shift, (_REPLICATES, 1)))

    @property
    def _added(self) -> int:
        """The number of predictions that the bootstrap adds to val: 2 (one right, one wrong), or 0 for the loss."""
        return 0 if self._curve.metric == "loss" else 2

    @property
    def _raised(self) -> float:
        """How much the made-up predictions (see `_added`) raise the errors of the replicates on average."""
        error = float(self._curve.errors[-1].mean())
        return (1 - 2 * error) * bool(self._added) / (len(self._curve.labels) + self._added)

    def _fit(self) -> list[tuple[Law, np.ndarray, np.ndarray]]:
        """Fit the better of two laws to each replicate.

        Return tuples of three: a law, the indices of n replicates, and the law's parameters for these replicates,
        [n, P].
        """
        starts = max(0, len(self._images) - self._held_out - _FEWEST_FITTED) + 1
        start_of = self._draws.integers(0, starts, _REPLICATES)
        fitted = []
        for start in range(starts):
            rows = np.flatnonzero(start_of == start)
            images, errors = self._images[start:], self._replicates[rows, start:]
            kept = held_out_errors(images, errors, self._held_out).argmin(axis=0)
            for number, law in enumerate(LAWS):
                mine = kept == number
                fitted.append((law, rows[mine], law.fit(images, errors[mine])))
        return fitted


def _interval(values: np.ndarray, method: Literal["linear", "nearest"] = "linear") -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper ends of the middle 90 % (`LEVEL`) of `values` along axis 0."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0, method=method)
    return low, high


def _spread(images: np.ndarray, errors: np.ndarray) -> float:
    """Estimate A, where A / n is the variance of the errors of heads trained on independent samples of n images."""
    small = images < _SUBSET * images[-1]
    left = 1 - images[small] / images[-1]  # subsets of the same images vary less, by this factor
    return float(np.mean(images[small] * errors[small].var(axis=1, ddof=1) / left)) if small.any() else 0.0
