"""Forecast figures at larger numbers of images than there are, with bootstrap intervals.

A replicate of the curve draws val images and seeds with replacement. If all predictions on a small val are right,
such a bootstrap gives an interval of width 0. So one right and one wrong prediction are added to val first (Agresti &
Coull 1998, doi:10.1080/00031305.1998.10480550). Forecasts are corrected for the two. Normal noise is added for two
reasons:

- All draws are subsets of the same training images. The noise of these n images is estimated from the variance between
  small subsets. It falls with 1 / n, like the variance of a mean.
- Future images will be a random draw as well.

The size from which a law holds is not known. So each replicate fits the laws from a random one of its smaller sizes on,
and keeps the law that is better on its larger sizes.
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
    """A figure, and its interval at `LEVEL`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Needed:
    """The number of training images that a figure needs, and its interval.

    None means more than 100 times the present number.
    """

    target: float
    images: int | None
    low: int | None
    high: int | None


class Forecast:
    """The laws of a measured curve and of its replicates. The same `seed` gives the same forecast."""

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
        """Return the parameters of the law of the measured curve, by their names in its formula."""
        if self.law.name == "power law":
            return dict(zip("cab", self._parameters.tolist(), strict=True))
        a, b = self._parameters.tolist()  # of the error
        return {"a": a, "b": -b} if self._curve.metric == "loss" else {"a": 1 - a, "b": b}

    def measured(self) -> list[Estimate]:
        """Return the measured figure of each size."""
        return self._estimates(self._curve.errors.mean(axis=1), self._replicates)

    def at(self, images: list[int]) -> list[Estimate]:
        """Return the figure to expect with each number of `images`: the median over the replicates."""
        errors = self._errors(np.array(images, np.float64))
        noise = self._draws.normal(size=errors.shape) * np.sqrt(self._spread / np.array(images))
        return self._estimates(self._middle(errors), errors + noise)

    def gain(self, more: int, now: int) -> Estimate:
        """Return the expected rise of the figure from `more` images beside `now`. For the loss, return its fall.

        It is the difference of the two figures that `at` returns.
        """
        errors = self._errors(np.array([now, now + more]))
        before, after = self._middle(errors).tolist()
        low, high = _interval(errors[:, 0] - errors[:, 1])
        return Estimate(before - after, min(float(low), before - after), max(float(high), before - after))

    def _middle(self, errors: np.ndarray) -> np.ndarray:
        """Return the median over the replicates of `errors`, [B, M], without the two added predictions: [M]."""
        return self._bounded(np.median(errors, axis=0) - self._raised)

    def needed(self, target: float) -> Needed:
        """Return the number of training images that the figure `target` needs."""
        error = float(to_error(self._curve.metric, np.array(target)))
        low, high = _interval(self._needed(error), method="nearest")
        middle = np.quantile(self._needed(error + self._raised), 0.5, method="nearest")
        return Needed(target, *(self._in_sight(float(one)) for one in (middle, min(low, middle), max(high, middle))))

    def _needed(self, error: float) -> np.ndarray:
        """Return the number of images at which the law of each replicate reaches `error`: float64 [B]."""
        needed = np.empty(_REPLICATES)
        for law, rows, parameters in self._fitted:
            needed[rows] = law.images(parameters, error)
        return needed

    def _in_sight(self, images: float) -> int | None:
        return round(images) if images <= _HORIZON * self._images[-1] else None

    def _estimates(self, errors: np.ndarray, replicates: np.ndarray) -> list[Estimate]:
        """Turn errors into figures. The `replicates` give the intervals, which are widened to include the figures.

        `errors` is [M], and `replicates` is [B, M].
        """
        values = to_error(self._curve.metric, errors)
        low, high = _interval(to_error(self._curve.metric, self._bounded(replicates)))
        rows = zip(values.tolist(), np.minimum(low, values).tolist(), np.maximum(high, values).tolist(), strict=True)
        return [Estimate(*row) for row in rows]

    def _errors(self, images: np.ndarray) -> np.ndarray:
        """Return the error that the law of each replicate gives for each of `images`, [M]. The result is [B, M]."""
        errors = np.empty((_REPLICATES, len(images)))
        for law, rows, parameters in self._fitted:
            errors[rows] = law.errors(parameters, images)
        return self._bounded(errors)

    def _bounded(self, errors: np.ndarray) -> np.ndarray:
        return np.asarray(np.clip(errors, 0, None if self._curve.metric == "loss" else 1))

    def _drawn_curves(self) -> np.ndarray:
        """Return the replicates of the curve, as errors [B, K]."""
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
        """The number of predictions that replicates add to val: a right and a wrong one, but none for the loss.

        Losses differ even if all predictions are right.
        """
        return 0 if self._curve.metric == "loss" else 2

    @property
    def _raised(self) -> float:
        """How much larger the errors of the replicates are because of the two added predictions; see `_added`."""
        error = float(self._curve.errors[-1].mean())
        return (1 - 2 * error) * bool(self._added) / (len(self._curve.labels) + self._added)

    def _fit(self) -> list[tuple[Law, np.ndarray, np.ndarray]]:
        """Fit a law to each replicate.

        Returns groups of replicates: a law, the rows of the replicates that keep it, int64 [n], and their parameters.
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
    """Return the lower and the upper end of the interval at `LEVEL` of `values`, [B, ...], over the first axis."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0, method=method)
    return low, high


def _spread(images: np.ndarray, errors: np.ndarray) -> float:
    """Return A, where A / n is the variance of the error between heads trained on independent samples of n images.

    The variance between subsets of the same N images is smaller, by the factor 1 - n / N.
    """
    small = images < _SUBSET * images[-1]
    left = 1 - images[small] / images[-1]
    return float(np.mean(images[small] * errors[small].var(axis=1, ddof=1) / left)) if small.any() else 0.0
