"""Laws that say how errors fall as images are added. A law is fitted to many curves at once.

An error is the loss, or 1 minus the figure of another metric. In shapes, B is the number of curves, and K is the number
of sizes of each curve. P is the number of parameters of a law, and M is the number of sizes for which a law gives
errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

LawName = Literal["log-linear", "power law"]
_EXPONENTS = np.geomspace(0.05, 2.0, 30)


@dataclass(frozen=True)
class Law:
    """A law of how errors fall with the number of images, and functions that fit and apply this law."""

    name: LawName
    fit: Callable[[np.ndarray, np.ndarray], np.ndarray]  # images [K], errors [B, K] -> parameters [B, P]
    errors: Callable[[np.ndarray, np.ndarray], np.ndarray]  # parameters [B, P], images [M] -> errors [B, M]
    images: Callable[[np.ndarray, float], np.ndarray]  # parameters [B, P], an error -> images [B], infinite if never


def _line(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit y = intercept + slope * x by least squares to each row of `y`. Return the intercepts [B] and slopes [B].

    `x` is [K], and `y` is [B, K].
    """
    off = x - x.mean()
    slope = y @ off / (off @ off)
    return y.mean(axis=1) - slope * x.mean(), slope


def _fit_log_linear(images: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Fit the line `a - b log(n)`, with b >= 0, to each of B curves. The columns of the result, [B, 2], are a and b."""
    a, slope = _line(np.log(images), errors)
    return np.stack([np.where(slope < 0, a, errors.mean(axis=1)), np.maximum(-slope, 0)], axis=1)


def _log_linear_errors(parameters: np.ndarray, images: np.ndarray) -> np.ndarray:
    a, b = parameters.T[:, :, np.newaxis]
    return np.asarray(np.maximum(a - b * np.log(images), 0))


def _log_linear_images(parameters: np.ndarray, error: float) -> np.ndarray:
    a, b = parameters.T
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return np.where(a <= error, 1.0, np.where(b > 0, np.exp((a - error) / b), np.inf))


def _fit_power_law(images: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Fit `c + a n^-b`, with a, c >= 0, to each of B curves. The columns of the result, [B, 3], are c, a and b."""
    best = np.full(len(errors), np.inf)
    kept = np.zeros((len(errors), 3))
    for b in _EXPONENTS:
        x = images**-b
        c, a = _line(x, errors)
        a = np.where(c < 0, errors @ x / (x @ x), a)
        c = np.where(a < 0, errors.mean(axis=1), np.maximum(c, 0))
        found = np.stack([c, np.maximum(a, 0), np.full_like(c, b)], axis=1)
        squares = ((_power_law_errors(found, images) - errors) ** 2).sum(axis=1)
        better = squares < best
        best[better], kept[better] = squares[better], found[better]
    return kept


def _power_law_errors(parameters: np.ndarray, images: np.ndarray) -> np.ndarray:
    c, a, b = parameters.T[:, :, np.newaxis]
    return np.asarray(c + a * images**-b)


def _power_law_images(parameters: np.ndarray, error: float) -> np.ndarray:
    c, a, b = parameters.T
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return np.where(c + a <= error, 1.0, np.where(error > c, (a / (error - c)) ** (1 / b), np.inf))


LAWS = (  # arXiv:1712.04008 and arXiv:1707.02968 found the log-linear law; the power law has an asymptote
    Law("log-linear", _fit_log_linear, _log_linear_errors, _log_linear_images),
    Law("power law", _fit_power_law, _power_law_errors, _power_law_images),
)


def held_out_sizes(count: int) -> int:
    """Return how many of `count` sizes are held out to compare the laws. The largest sizes are held out."""
    return max(1, count // 3)


def held_out_errors(images: np.ndarray, errors: np.ndarray, held_out: int) -> np.ndarray:
    """Fit each law to the smaller sizes of B curves. Return how far the laws are off at the larger sizes.

    `images`, [K], has the sizes, rising. `errors`, [B, K], has the errors of the curves at these sizes. The largest
    sizes are left out of the fit. The argument `held_out` is the number of sizes that are left out.

    The result is float64 [2, B]: a row for each of the two laws, and a column for each curve. A value is the sum of the
    squared deviations at the sizes that were left out.
    """
    small, large = slice(None, -held_out), slice(-held_out, None)
    return np.stack(
        [
            ((law.errors(law.fit(images[small], errors[:, small]), images[large]) - errors[:, large]) ** 2).sum(axis=1)
            for law in LAWS
        ]
    )


def kept_law(images: np.ndarray, errors: np.ndarray) -> tuple[Law, np.ndarray]:
    """Return the law that better predicts the errors at the largest sizes, and the law's parameters, [P].

    `images` holds the sizes, [K], and `errors` holds the error at each size, [K]. For the choice, the laws are fitted
    without the largest sizes (see `held_out_sizes`). The returned parameters are fitted to all sizes.
    """
    curves = errors[np.newaxis]
    law = LAWS[held_out_errors(images, curves, held_out_sizes(len(images)))[:, 0].argmin()]
    return law, law.fit(images, curves)[0]
